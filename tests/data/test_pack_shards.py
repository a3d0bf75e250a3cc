"""Packs of JPEG files: WebDataset's shards, in which small files are as they were and large ones are made smaller."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selfsup.data.content import file_content
from selfsup.data.labelled import image_names
from selfsup.data.parts import open_data
from selfsup.data.settings import Data
from selfsup.data.sources import open_source
from selfsup.stages.packing import run_pack
from selfsup.stages.settings import Packing
from tests.support.pictures import encoded, folder_of, picture

SIDE = 24


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small PNG files, one of them broken, and large JPEG files, one of them turned by EXIF; classes are numbers."""
    root = tmp_path_factory.mktemp("files")
    folder_of(root / "train", 104, ("10", "9"), broken=(6,))
    for number in range(5):
        smooth = picture(number, 4, 3).resize((100 + number, 60), Image.Resampling.BICUBIC)
        (root / "train" / "9" / f"large.{number}.jpg").write_bytes(encoded(smooth, "JPEG"))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture(9, 4, 3).resize((90, 60), Image.Resampling.BICUBIC)
    turned.save(root / "train" / "9" / "turned.jpg", exif=exif)
    folder_of(root / "test", 3, ("9",))
    return root


@pytest.fixture(scope="module")
def made(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pack = tmp_path_factory.mktemp("made") / "pack"
    run_pack(pack, Packing(data=Data(root=str(files)), jpeg=SIDE))
    return pack


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_labels_and_names_are_those_of_the_files(files: Path, made: Path, split: str) -> None:
    source, packed = (open_source(str(root), split) for root in (files, made))
    rows = [row for row in range(len(source)) if split == "test" or row != 6]
    assert len(packed) == len(rows)
    assert packed.classes == source.classes
    assert torch.equal(packed.labels, source.labels[rows])
    assert image_names(packed) == [image_names(source)[row] for row in rows]
    for index, row in enumerate(rows):
        original, found = source.load(row), packed.load(index)
        if min(original.size) <= SIDE:
            assert file_content(packed, index) == file_content(source, row)
            continue
        assert min(found.size) == SIDE
        assert abs(found.width / found.height - original.width / original.height) < 1.5 / SIDE
        with Image.open(io.BytesIO(file_content(packed, index))) as image:
            assert image.format == "JPEG"
        wanted = np.asarray(original.resize(found.size, Image.Resampling.BICUBIC), np.float64)
        assert np.abs(np.asarray(found, np.float64) - wanted).mean() < 6


def test_any_reader_of_webdataset_finds_the_samples(files: Path, made: Path) -> None:
    source = open_source(str(files))
    with tarfile.open(made / "train" / "000000.tar") as archive:
        entries = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    labels = [int(entries[name]) for name in sorted(entries) if name.endswith(".cls")]
    assert labels == [int(label) for row, label in enumerate(source.labels) if row != 6]
    keys = {name.partition(".")[0] for name in entries}
    assert len(entries) == 2 * len(keys) == 2 * len(labels)


def test_packing_again_makes_the_same_bytes_in_several_shards(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selfsup.data.pack_shards._SHARD", 20_000)
    monkeypatch.setattr("selfsup.data.pack_shards._AT_ONCE", 7)
    for name in ("one", "other"):
        run_pack(tmp_path / name, Packing(data=Data(root=str(files)), jpeg=SIDE))
    written = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.tar"))
    assert len(written) > 4
    for path in written:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "other" / path).read_bytes()
    source = open_source(str(tmp_path / "one"))
    assert image_names(source) == [name for row, name in enumerate(image_names(open_source(str(files)))) if row != 6]


def test_the_same_images_are_held_out(files: Path, tmp_path: Path) -> None:
    alone = files / "test"
    run_pack(tmp_path / "pack", Packing(data=Data(root=str(alone)), jpeg=SIDE))
    parts = [open_data(Data(root=str(root), holdout=0.4), "test") for root in (alone, tmp_path / "pack")]
    assert image_names(parts[0]) == image_names(parts[1])


def test_images_without_labels_stay_so(tmp_path: Path) -> None:
    folder_of(tmp_path / "files", 5)
    run_pack(tmp_path / "pack", Packing(data=Data(root=str(tmp_path / "files")), jpeg=SIDE))
    source = open_source(str(tmp_path / "pack"))
    assert source.labels.tolist() == [-1] * 5
    assert source.classes == ()


def test_sixteen_bits_are_encoded_anew(tmp_path: Path) -> None:
    folder = tmp_path / "files" / "a"
    folder.mkdir(parents=True)
    deep = np.linspace(0, 4095, 400).reshape(20, 20).astype(np.uint16)
    Image.fromarray(deep).save(folder / "deep.png")
    run_pack(tmp_path / "pack", Packing(data=Data(root=str(tmp_path / "files"), range="0:4095"), jpeg=SIDE))
    pixels = np.asarray(open_source(str(tmp_path / "pack")).load(0))[..., 0].astype(int)
    assert np.abs(pixels - deep / 4095 * 255).max() < 8


def test_damaged_shards_are_refused_by_name(files: Path, tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    run_pack(pack, Packing(data=Data(root=str(files)), jpeg=SIDE))
    shard = pack / "train" / "000000.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"000000\.tar is damaged: its SHA-256 differs"):
        run_pack(pack, Packing(check=True))
    os.truncate(shard, len(content) - 512)
    with pytest.raises(ValueError, match=r"000000\.tar is damaged: .* bytes, .* expected"):
        open_source(str(pack))
