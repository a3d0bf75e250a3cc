"""Packs of squares: the same pixels and the same training as from the files, and nothing believed that is damaged."""

import json
import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from selfsup.data.base import NoTestPart, NoTrainingPart, Source, UnreadableImage
from selfsup.data.identity import manifest_of
from selfsup.data.labelled import image_names
from selfsup.data.loader import Loader, evaluation_batches
from selfsup.data.pack_manifest import MANIFEST, npy_header
from selfsup.data.packed import Packed
from selfsup.data.parts import open_data
from selfsup.data.settings import Data
from selfsup.data.sources import open_source, subset
from selfsup.pretraining import pretrain
from selfsup.stages.knn import run_knn
from selfsup.stages.packing import run_pack
from selfsup.stages.settings import KNN, Packing
from selfsup.storage.sealed import seal
from selfsup.storage.whole_folder import whole_folder
from tests.support.pictures import folder_of
from tests.support.tiny import tiny_run

CPU = torch.device("cpu")
SIDE = 20


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """130 training images in two classes, one of them broken, and 12 test images in one of the classes."""
    root = tmp_path_factory.mktemp("files")
    folder_of(root / "train", 130, ("a", "b"), broken=(6,))
    folder_of(root / "test", 12, ("b",))
    return root


@pytest.fixture(scope="module")
def made(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pack = tmp_path_factory.mktemp("made") / "pack"
    run_pack(pack, Packing(data=Data(root=str(files), canvas=SIDE)))
    return pack


@pytest.fixture
def pack(made: Path, tmp_path: Path) -> Path:
    """A copy that may be spoiled."""
    return Path(shutil.copytree(made, tmp_path / "copied"))


def loaded(source: Source, canvas: int | None, rank: int = 0, world: int = 1) -> Loader:
    return Loader(source, batch_size=8, seed=3, device=CPU, canvas=canvas, rank=rank, world=world)


def assert_same_batches(left: Loader, right: Loader, start: int = 0) -> None:
    pairs = list(zip(left.epoch(1, start), right.epoch(1, start), strict=True))
    assert pairs
    for one, other in pairs:
        for name in ("images", "labels", "indices", "sizes"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("split", ["train", "test"])
def test_batches_of_a_pack_are_those_of_a_canvas(files: Path, made: Path, split: str) -> None:
    source, packed = (open_source(str(root), split) for root in (files, made))
    assert isinstance(packed, Packed)
    assert packed.classes == source.classes
    assert torch.equal(packed.labels, source.labels)
    assert image_names(packed) == image_names(source)
    assert_same_batches(loaded(source, SIDE), loaded(packed, SIDE))
    assert_same_batches(loaded(source, SIDE, 1, 2), loaded(packed, None, 1, 2), start=1 if split == "train" else 0)
    unreadable: dict[str, str] = {}
    read = list(evaluation_batches(packed, batch_size=7, device=CPU, unreadable=unreadable))
    for one, other in zip(evaluation_batches(source, batch_size=7, device=CPU, canvas=SIDE), read, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.indices, other.indices)
    assert list(unreadable) == ([packed.name(6)] if split == "train" else [])


@pytest.mark.parametrize("changes", [{"holdout": 0.2}, {"limit": 30}])
def test_the_same_images_are_held_out_and_drawn(files: Path, made: Path, changes: dict[str, float]) -> None:
    alone = files / "train"
    run_pack(made.parent / f"alone_{next(iter(changes))}", Packing(data=Data(root=str(alone), canvas=SIDE)))
    packed = made.parent / f"alone_{next(iter(changes))}"
    one, other = (open_data(Data(root=str(root), canvas=SIDE, **changes), "train") for root in (alone, packed))
    assert image_names(one) == image_names(other)
    assert_same_batches(loaded(one, SIDE), loaded(other, SIDE))


def test_a_choice_of_images_copies_none(made: Path) -> None:
    whole = open_source(str(made))
    assert isinstance(whole, Packed)
    part = subset(whole, 40)
    assert part.images.data_ptr() == whole.images.data_ptr()
    assert [part.name(row) for row in range(40)] == [whole.name(int(row)) for row in part.rows]
    again = part.select(torch.tensor([5, 3]))
    for row, place in enumerate(again.rows.tolist()):
        assert torch.equal(again.pixels(row), whole.images[place])
    assert np.array_equal(np.array(again.load(0)), whole.images[int(again.rows[0])].permute(1, 2, 0).numpy())


def test_an_image_that_could_not_be_read_stays_one(files: Path, made: Path) -> None:
    packed = open_source(str(made))
    with pytest.raises(UnreadableImage, match=r"train/?\[a/0006\.png\]"):
        packed.load(6)
    assert "1 could not be read" in "; ".join(packed.found.read_as)


def trained(folder: Path, **changes: object) -> dict[str, torch.Tensor]:
    pretrain(tiny_run(folder, "moco", **changes))
    return load_file(folder / "encoder.safetensors")


def test_training_from_a_pack_is_that_from_the_files_and_goes_on_in_mid_epoch(
    files: Path, made: Path, tmp_path: Path
) -> None:
    of_files = trained(tmp_path / "files", data=Data(root=str(files), canvas=SIDE))
    data = Data(root=str(made))
    away = files.rename(files.with_name("away"))
    try:  # nothing but the pack is read
        of_pack = trained(tmp_path / "pack", data=data)
    finally:
        away.rename(files)
    moved = shutil.copytree(made, tmp_path / "elsewhere")
    pretrain(tiny_run(tmp_path / "cut", "moco", data=data, max_steps=11))
    resumed = trained(tmp_path / "cut", data=replace(data, root=str(moved)))
    for weights in (of_pack, resumed):
        assert all(torch.equal(value, weights[name]) for name, value in of_files.items())


def test_views_that_are_larger_than_the_squares_are_said(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run(tmp_path / "run", data=Data(root=str(made)), max_steps=1)
    views = tuple(replace(view, size=24) for view in run.augment.views)
    pretrain(replace(run, augment=replace(run.augment, views=views)))
    assert "views of 24 pixels are cut from images of 20 (data.canvas)" in capsys.readouterr().err


def test_an_encoder_is_judged_alike_on_a_pack_and_on_the_files(files: Path, made: Path, tmp_path: Path) -> None:
    pretrain(tiny_run(tmp_path / "run", data=Data(root=str(made)), max_steps=2))
    figures, contents = [], []
    for data in (Data(root=str(made)), Data(root=str(files), canvas=SIDE)):
        (result,) = run_knn(tmp_path / "run", KNN(data=data, device="cpu", workers=0, k=(5,))).results
        figures.append(result.figures)
        contents.append(result.protocol["data"])
    assert figures[0] == figures[1]
    assert contents[0] != contents[1]


# What a pack is


def test_content_is_known_without_reading_the_images(files: Path, made: Path, pack: Path) -> None:
    digest = manifest_of(open_source(str(made))).digest
    assert manifest_of(open_source(str(pack))).digest == digest
    images = pack / "train" / "images.npy"
    spoil(images, -1)
    assert manifest_of(open_source(str(pack))).digest == digest
    with pytest.raises(ValueError, match=r"1 of 130 images have changed, the first b/0129\.png"):
        manifest_of(open_source(str(pack)), full=True)
    run_pack(pack.parent / "smaller", Packing(data=Data(root=str(files), canvas=SIDE - 1)))
    assert manifest_of(open_source(str(pack.parent / "smaller"))).digest != digest


def test_other_labels_and_other_pixels_are_other_content(files: Path, made: Path, tmp_path: Path) -> None:
    digests = {manifest_of(open_source(str(made))).digest}
    for number, change in enumerate(("label", "pixel")):
        root = Path(shutil.copytree(files, tmp_path / f"files_{number}"))
        picture = root / "train" / "a" / "0001.png"
        if change == "label":
            picture.rename(root / "train" / "b" / "0001.png")
        else:
            shutil.copy(root / "train" / "a" / "0011.png", picture)
        run_pack(tmp_path / f"pack_{number}", Packing(data=Data(root=str(root), canvas=SIDE)))
        digests.add(manifest_of(open_source(str(tmp_path / f"pack_{number}"))).digest)
    assert len(digests) == 3


# Damage


def spoil(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def rewritten(pack: Path, change: object) -> None:
    """The manifest as another would have sealed it."""
    content = json.loads((pack / MANIFEST).read_text())
    del content["checksum"]
    change(content)  # type: ignore[operator]
    (pack / MANIFEST).write_bytes(seal(content))


def put(value: object, *keys: str) -> object:
    def change(content: dict) -> None:  # type: ignore[type-arg]
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return lambda pack: rewritten(pack, change)


def link(pack: Path) -> None:
    images = pack / "train" / "images.npy"
    os.link(images, pack / "aside")
    images.unlink()
    images.symlink_to(pack / "aside")


def pipe(pack: Path) -> None:
    (pack / "train" / "labels.npy").unlink()
    os.mkfifo(pack / "train" / "labels.npy")


def manifest_is_pipe(pack: Path) -> None:
    (pack / MANIFEST).unlink()
    os.mkfifo(pack / MANIFEST)


def floats(pack: Path) -> None:
    path = pack / "train" / "images.npy"
    content = path.read_bytes()
    header = npy_header("<f1", (130, 3, SIDE, SIDE))
    path.write_bytes(header + content[len(header) :])


def relabelled(pack: Path) -> None:
    """Whoever writes labels can write their checksum, too."""
    import hashlib

    path = pack / "train" / "labels.npy"
    content = bytearray(path.read_bytes())
    content[-8:] = (7).to_bytes(8, "little")
    path.write_bytes(content)
    listed = [len(content), hashlib.sha256(content).hexdigest()]
    put(listed, "parts", "train", "files", "train/labels.npy")(pack)  # type: ignore[operator]


DAMAGE = {
    "a byte of the manifest": (lambda pack: spoil(pack / MANIFEST, 40), MANIFEST),
    "a label": (lambda pack: spoil(pack / "train" / "labels.npy", -8), "labels.npy"),
    "a size": (lambda pack: spoil(pack / "train" / "sizes.npy", -8), "sizes.npy"),
    "a name": (lambda pack: spoil(pack / "train" / "names.npy", -8), "names.npy"),
    "a digest": (lambda pack: spoil(pack / "train" / "digests.npy", -8), "digests.npy"),
    "cut images": (lambda pack: os.truncate(pack / "train" / "images.npy", 9_000), "images.npy"),
    "no images": (lambda pack: (pack / "train" / "images.npy").unlink(), "images.npy"),
    "images of another type": (floats, "images.npy"),
    "a link": (link, "it is a link"),
    "a pipe": (pipe, "labels.npy"),
    "a pipe as the manifest": (manifest_is_pipe, MANIFEST),
    "a label of no class": (relabelled, "a label is of no class"),
    "no number of images": (put("many", "parts", "train", "images"), "images is many"),
    "an infinite number": (put(float("inf"), "parts", "train", "images"), "images is inf"),
    "more images": (put(131, "parts", "train", "images"), "have no such file"),
    "2^39 images": (put(1 << 39, "parts", "train", "images"), "have no such file"),
    "a negative size": (put(-1, "size"), "size is -1"),
    "a vast size": (put(1 << 40, "size"), "size is"),
    "true as a number": (put(True, "channels"), "channels is True"),
    "an unreadable image that is not there": (put({"130": "x"}, "parts", "train", "unreadable"), "unreadable"),
    "a file elsewhere": (put([1, ""], "parts", "train", "files", "train/../../etc/passwd"), "no file of the part"),
    "another form": (put("video", "form"), "no form"),
    "another part": (put({}, "parts", "validation"), "validation"),
    "a part that is a list": (put([], "parts", "train"), "the part train"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_pack_is_refused_by_name(pack: Path, damage: str) -> None:
    spoiled, told = DAMAGE[damage]
    spoiled(pack)  # type: ignore[operator]
    for read in (
        lambda: open_source(str(pack)),
        lambda: run_pack(pack, Packing(check=True)),
    ):
        with pytest.raises(ValueError, match="damaged") as refused:
            read()
        assert told in str(refused.value)
        assert str(pack) in str(refused.value)


def test_a_later_version_is_refused(pack: Path) -> None:
    rewritten(pack, lambda content: content.update(schema=2))
    with pytest.raises(ValueError, match="newer version"):
        open_source(str(pack))


def test_a_check_reads_every_image(pack: Path) -> None:
    assert run_pack(pack, Packing(check=True))["train_images"] == 130
    spoil(pack / "test" / "images.npy", -1)
    assert len(open_source(str(pack), "test")) == 12
    with pytest.raises(ValueError, match=r"test/images\.npy.*1 of 12 images have changed, the first b/0011\.png"):
        run_pack(pack, Packing(check=True))


# What is not done


def test_a_pack_has_its_canvas_alone(made: Path, files: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.canvas is 32.*squares of 20 pixels; give --data\.canvas 20"):
        open_data(Data(root=str(made), canvas=32), "train")
    both = Data(root=(str(made), str(files)))
    with pytest.raises(ValueError, match=r"read together with other data: give --data\.canvas 20"):
        open_data(both, "train")
    assert len(loaded(open_data(replace(both, canvas=SIDE), "train"), SIDE).source) == 260


def test_parts_that_are_not_there_are_missing(files: Path, tmp_path: Path) -> None:
    run_pack(tmp_path / "pack", Packing(data=Data(root=str(files / "train"), canvas=4)))
    with pytest.raises(NoTestPart):
        open_source(str(tmp_path / "pack"), "test")
    content = json.loads((tmp_path / "pack" / MANIFEST).read_text())
    shutil.move(tmp_path / "pack" / "train", tmp_path / "pack" / "test")
    del content["checksum"]
    part = content["parts"].pop("train")
    part["files"] = {f"test/{name.split('/')[1]}": listed for name, listed in part["files"].items()}
    content["parts"]["test"] = part
    (tmp_path / "pack" / MANIFEST).write_bytes(seal(content))
    with pytest.raises(NoTrainingPart):
        open_source(str(tmp_path / "pack"), "train")


def test_nothing_is_under_the_name_that_is_not_whole(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Packing(data=Data(root=str(files), canvas=SIDE))

    def full(*arguments: object) -> None:
        assert not (tmp_path / "pack").exists()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("selfsup.stages.packing.seal", full)
        with pytest.raises(OSError, match=r"cannot write .*pack: No space left on device; nothing of it is left"):
            run_pack(tmp_path / "pack", settings)
    assert not list(tmp_path.iterdir())
    with whole_folder(tmp_path / "pack") as folder:  # what it is called while it is written
        left = [folder.with_name(folder.name.replace(f".{os.getpid()}.", f".{gone}.")) for gone in ("999999999", "1")]
    (tmp_path / "pack").rmdir()
    for other in left:
        other.mkdir()
        (other / "images.npy").write_bytes(b"x")
    run_pack(tmp_path / "pack", settings)
    assert {path.name for path in tmp_path.iterdir()} == {
        "pack",
        left[1].name,
    }  # process 1 may be at work
    assert stat.S_IMODE((tmp_path / "pack").stat().st_mode) & stat.S_IRUSR


def test_what_cannot_be_packed_is_said(
    files: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Data(root=str(files), canvas=SIDE)
    with pytest.raises(ValueError, match=r"there is something at .*pack already; give another name, or remove it"):
        run_pack(made, Packing(data=data))
    with pytest.raises(ValueError, match="images of one size as they are, which need no pack"):
        run_pack(tmp_path / "pack", Packing(data=Data(root="shapes:4")))
    with pytest.raises(ValueError, match=r"both --jpeg 32 and --data\.canvas 20 are given; leave one out"):
        Packing(data=data, jpeg=32)
    with pytest.raises(ValueError, match=f"no pack: it holds no {MANIFEST}"):
        run_pack(files, Packing(check=True))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 70_000_000))
    with pytest.raises(OSError, match=r"no room for .*pack: about .* GiB are needed"):
        run_pack(tmp_path / "pack", Packing(data=Data(root=str(files), canvas=500)))
    assert not list(tmp_path.iterdir())
