"""Runs, stages and results go by the content of data: no figure is taken for another data set's."""

import json
import os
import shutil
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from selfsup.data.identity import content_of, fingerprint_before
from selfsup.data.settings import Data
from selfsup.data.shapes import shapes
from selfsup.data.sources import open_source
from selfsup.pretraining import pretrain
from selfsup.run_folder.folder import RunFolder
from selfsup.stages import commands
from selfsup.stages.base import keep, read
from selfsup.stages.compare import as_markdown
from selfsup.stages.compare_page import compare_page
from selfsup.stages.finetune import run_finetune
from selfsup.stages.finetune_settings import finetune_settings
from selfsup.stages.knn import run_knn
from selfsup.stages.result_table import compare
from selfsup.stages.run_data import named_data, require_data_of_run
from selfsup.stages.semi import run_semi
from selfsup.stages.semi_settings import semi_settings
from selfsup.stages.settings import KNN
from tests.support.processes import run_processes
from tests.support.sealed_files import put, rewrite
from tests.support.tiny import array_file, photographs, tiny_run


def other_pixels(root: Path) -> None:
    """The same names, sizes in pixels and labels, other content."""
    for number, path in enumerate(sorted(root.rglob("*.jpg"))):
        shapes(200).load(100 + number).resize((32, 32)).save(path)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of one step on 20 photographs, and these."""
    folder = tmp_path_factory.mktemp("begun")
    root = photographs(folder / "data", 20)
    pretrain(tiny_run(folder / "run", root=str(root), epochs=1, batch_size=8, max_steps=1))
    return folder / "run", root


def copies(begun: tuple[Path, Path], folder: Path) -> tuple[Path, Path]:
    return Path(shutil.copytree(begun[0], folder / "run")), Path(shutil.copytree(begun[1], folder / "data"))


def go_on(run: Path, root: Path) -> str:
    settings = tiny_run(run, root=str(root), epochs=1, batch_size=8)
    return str(pretrain(replace(settings, name="elsewhere"))["reason"])


def test_a_run_goes_on_where_the_data_have_moved(begun: tuple[Path, Path], tmp_path: Path) -> None:
    run, root = copies(begun, tmp_path)
    assert go_on(run, root) == "finished"


def test_a_run_refuses_other_pixels_of_the_same_names(begun: tuple[Path, Path], tmp_path: Path) -> None:
    run, root = copies(begun, tmp_path)
    other_pixels(root)
    with pytest.raises(ValueError, match=r"belongs to other data; images: 20 files changed, the first bars/007\.jpg"):
        go_on(run, root)
    (run / "contents" / "images.manifest").write_bytes(b"of a disk that is failing")
    with pytest.raises(ValueError, match=r"20 images then, 20 now \(what differs cannot be told: .*damaged"):
        go_on(run, root)


def as_before(run: Path, root: Path) -> None:
    """The run as an earlier release left it."""
    folder = RunFolder(run)
    saved = folder.read_json("config.json")
    saved.pop("checksum")
    saved["result"]["facts"]["images"] = fingerprint_before(open_source(str(root)))
    folder.write_json("config.json", saved)
    shutil.rmtree(run / "contents")


def test_a_run_of_an_earlier_release_goes_on_and_knows_its_data_from_then(
    begun: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, root = copies(begun, tmp_path)
    as_before(run, root)
    removed = root / "ring" / "011.jpg"
    kept = removed.read_bytes()
    removed.unlink()
    with pytest.raises(ValueError, match="images: count 20 then, 19 now"):
        go_on(run, root)
    removed.write_bytes(kept)
    assert go_on(run, root) == "finished"
    assert "from now on it knows them by content" in " ".join(capsys.readouterr().err.split())
    assert RunFolder(run).facts()["images"].keys() == {"count", "content"}
    other_pixels(root)
    with pytest.raises(ValueError, match="20 files changed"):
        go_on(run, root)


# Stages that take the run's data


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run on an array with a test part, and the array."""
    folder = tmp_path_factory.mktemp("finished")
    source = shapes(48)
    arrays: Any = {"x": source.images.numpy(), "y": source.labels.numpy()}
    parts = {f"{name}_{part}": value[rows] for name, value in arrays.items() for part, rows in PARTS.items()}
    np.savez(folder / "data.npz", **parts)
    pretrain(tiny_run(folder / "run", root=str(folder / "data.npz"), epochs=1, batch_size=16))
    return folder / "run", folder / "data.npz"


PARTS = {"train": slice(0, 32), "test": slice(32, 48)}


def write(path: Path, known: Path, change: str) -> None:
    with np.load(known) as file:
        parts = dict(file)
    if change == "pixels":
        parts["x_train"] = parts["x_train"] ^ 255
    elif change == "labels":
        parts["y_train"] = np.roll(parts["y_train"], 1)
    np.savez(path, **parts)


def command(*words: str) -> dict[str, Any]:
    kind, *rest = words
    assert commands.run_stage(kind, [*rest, "--workers", "0", "--device", "cpu"]) == 0
    return {}


@pytest.mark.parametrize(("change", "words"), [("pixels", "32 images changed"), ("labels", "32 labels changed")])
def test_no_stage_judges_on_what_has_taken_the_place_of_the_data(
    change: str, words: str, finished: tuple[Path, Path], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished[0], tmp_path / "run"))
    saved = json.loads((run / "config.json").read_text())
    saved.pop("checksum")
    saved["run"]["data"]["root"] = str(tmp_path / "data.npz")
    (run / "config.json").write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=r"nothing is there any more\n.*say it by --data\.root"):
        command("knn", str(run))
    write(tmp_path / "data.npz", finished[1], change)
    for stage in (("knn",), ("embed", "--out", str(tmp_path / "f.npy")), ("cluster", "--protocol", "dbscan")):
        kind, *flags = stage
        with pytest.raises(ValueError, match=f"is not what .* was trained on; images: {words}"):
            command(kind, str(run), *flags)
    command("knn", str(run), "--data.root", str(tmp_path / "data.npz"))  # who names it has it
    write(tmp_path / "data.npz", finished[1], "nothing")
    command("knn", str(run))


def test_relative_roots_are_stored_absolute(
    begun: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(begun[1].parent)
    pretrain(tiny_run(tmp_path / "run", root="data", epochs=1, batch_size=8, max_steps=1))
    assert RunFolder(tmp_path / "run").saved_run()["data"]["root"] == str(begun[1])
    pretrain(tiny_run(tmp_path / "word", root="shapes:32", epochs=1, batch_size=8, max_steps=1))
    assert RunFolder(tmp_path / "word").saved_run()["data"]["root"] == "shapes:32"


def test_making_sure_of_the_data_takes_no_words(
    finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The stage says what it found, and would say it twice."""
    capsys.readouterr()
    require_data_of_run(finished[0], Data(root=str(finished[1])))
    assert not capsys.readouterr().err


# Results


def test_results_of_other_data_stand_beside_and_in_columns_of_their_own(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished[0], tmp_path / "run"))
    places = {change: tmp_path / change / "data.npz" for change in ("nothing", "pixels", "labels")}
    for change, place in places.items():
        place.parent.mkdir()
        write(place, finished[1], change)
        keep(RunFolder(run), run_knn(run, KNN(data=Data(root=str(place)), workers=0, device="cpu", k=(3,))).results)
    assert len(RunFolder(run).read_sealed("results/knn.json")["results"]) == 3
    renamed = places["nothing"].rename(tmp_path / "renamed.npz")
    again = run_knn(run, KNN(data=Data(root=str(renamed)), workers=0, device="cpu", k=(3,))).results
    keep(RunFolder(run), again)
    saved = RunFolder(run).read_sealed("results/knn.json")["results"]
    assert len(saved) == 3  # only the file has another name
    old = replace(again[0], protocol={**again[0].protocol, "data": "0123456789ab"})  # as an earlier release wrote it
    keep(RunFolder(run), [old])
    columns = [column for column in compare([run]).columns if column.figure == "knn_top1"]
    assert len({column.protocol["data"] for column in columns}) == len(columns) == 4
    assert all("data=" in column.heading for column in columns)


def test_a_classifier_knows_its_training_images(finished: tuple[Path, Path], tmp_path: Path) -> None:
    """With another name of the array it goes on; with other images, of which it would use some, it is refused."""
    first, moved, other = (tmp_path / name / f"{name}.npz" for name in ("first", "moved", "other"))
    for place, change in ((first, "nothing"), (moved, "nothing"), (other, "pixels")):
        place.parent.mkdir()
        write(place, finished[1], change)
    settings = replace(finetune_settings("sgd", Data(root=str(first))), epochs=1, batch_size=8, workers=0, device="cpu")
    settings = replace(settings, labelled=replace(settings.labelled, per_class=1), folder=str(tmp_path / "tuned"))
    whole = run_finetune(finished[0], settings)
    again = run_finetune(finished[0], replace(settings, data=Data(root=str(moved))))
    assert again.results == whole.results
    with pytest.raises(ValueError, match="other data; images: 32 images changed"):
        run_finetune(finished[0], replace(settings, data=Data(root=str(other))))
    apart = run_finetune(finished[0], replace(settings, data=Data(root=str(other)), folder=str(tmp_path / "apart")))
    assert apart.results[0].protocol["data"] != whole.results[0].protocol["data"]  # the test images are the same


# Several processes


def looked_at_once(root: str, fails: bool) -> Tensor:
    """The content, and how often this process has looked."""
    import selfsup.data.identity as module

    looks, look = 0, module.manifest_of

    def counted(*given: Any) -> Any:
        nonlocal looks
        looks += 1
        if fails:
            raise OSError(5, "the disk is gone")
        return look(*given)

    module.manifest_of = counted
    try:
        digest = content_of(open_source(root), "auto", {}).fact["content"]
    except (OSError, ValueError) as error:
        digest = "f" if "the disk is gone" in str(error) else "0"
    return torch.tensor([int(digest[:8], 16), looks])


def test_of_two_processes_one_looks_and_both_know(begun: tuple[Path, Path]) -> None:
    first, second = run_processes(2, looked_at_once, str(begun[1]), False)
    assert first.tolist() == [int(content_of(open_source(str(begun[1])), "auto", {}).fact["content"][:8], 16), 1]
    assert second.tolist() == [first[0], 0]
    assert [found.tolist() for found in run_processes(2, looked_at_once, str(begun[1]), True)] == [[15, 1], [15, 0]]


def called(stage: str, run: Path, root: Path) -> Any:
    """A stage's function as a program calls it, on data under this name."""
    found = import_module(f"selfsup.stages.{stage}").STAGE
    settings = found.defaults(run, found.help.protocols[-1] if found.help.protocols else "")
    quick: dict[str, Any] = {"data": replace(settings.data, root=str(root)), "workers": 0, "device": "cpu"}
    if stage == "embed":
        quick["out"] = str(run.parent / "f.npy")
    return found.run(run, replace(settings, **quick))


@pytest.mark.parametrize("stage", [*commands.STAGES, "semi"])
def test_no_program_judges_on_them_either(stage: str, finished: tuple[Path, Path], tmp_path: Path) -> None:
    """Every function of a stage looks for itself, before anything else; what the caller means must be said by him."""
    run, root = Path(shutil.copytree(finished[0], tmp_path / "run")), tmp_path / "data.npz"
    rewrite(run / "config.json", lambda saved: put(str(root), ("run", "data", "root"), saved))
    write(root, finished[1], "pixels")

    def call(root: Path) -> Any:
        if stage == "semi":
            settings = semi_settings(str(run))
            return run_semi(str(run), replace(settings, data=replace(settings.data, root=str(root))))
        return called(stage, run, root)

    before = sorted(tmp_path.rglob("*"))
    for name in (root, Path(os.path.relpath(root))):
        with pytest.raises(ValueError, match=r"is not what .* was trained on; images: 32 images changed"):
            call(name)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_program_may_name_data_for_itself(finished: tuple[Path, Path], tmp_path: Path) -> None:
    run, root = Path(shutil.copytree(finished[0], tmp_path / "run")), tmp_path / "data.npz"
    rewrite(run / "config.json", lambda saved: put(str(root), ("run", "data", "root"), saved))
    write(root, finished[1], "pixels")
    with named_data():
        assert called("knn", run, root).results
    shutil.copy(root, tmp_path / "other.npz")
    assert called("knn", run, tmp_path / "other.npz").results
    with pytest.raises(ValueError, match="32 images changed"):
        called("knn", run, root)


# Comparisons


def test_data_that_differ_are_told_in_words(tmp_path: Path) -> None:
    """Which runs were trained on what, what differs, and where the data lie that figures are of."""
    roots = [array_file(tmp_path / "first.npz", 64), array_file(tmp_path / "second.npz", 80)]
    shutil.copy(roots[0], tmp_path / "copy.npz")
    runs = {"one": (0, 0), "two": (1, 1), "three": (1, 0)}
    for name, (trained, judged) in runs.items():
        pretrain(tiny_run(tmp_path / name, root=str(roots[trained]), epochs=1, max_steps=1))
        result = run_knn(tmp_path / name, KNN(data=Data(root=str(roots[judged])), device="cpu", k=(5,))).results
        keep(RunFolder(tmp_path / name), result)
    pretrain(tiny_run(tmp_path / "moved", root=str(tmp_path / "copy.npz"), epochs=1, max_steps=1))
    keep(RunFolder(tmp_path / "moved"), read(RunFolder(tmp_path / "one"), "knn"))
    paths = {name: tmp_path / name for name in (*runs, "moved")}
    table = compare([paths["one"], paths["two"], paths["three"]])
    told = (
        f"trained on different data: {paths['one']} on {roots[0]} (64 images); {paths['two']}, {paths['three']} on "
        f"{roots[1]} (80 images), beside the first with 16 images added, the first [64]"
    )
    digests = [column.protocol["data"] for column in table.columns if column.short == "top1"]
    assert table.notes == (told, f"data={digests[0]}: {roots[0]}", f"data={digests[1]}: {roots[1]}")
    assert table.line()["notes"] == list(table.notes)
    for made in (as_markdown(table).decode(), compare_page(table).decode()):
        assert "trained on different data" in made
    # Figures of one data set beside each other: still trained on different data.
    assert compare([paths["one"], paths["three"]]).notes == (told.replace(f"{paths['two']}, ", ""),)
    # The same content elsewhere is the same.
    assert compare([paths["one"], paths["moved"]]).notes == ()
    assert "notes" not in compare([paths["one"], paths["moved"]]).line()
    for manifest in tmp_path.glob("*/contents/*"):  # what differs cannot be told any more, that it does can
        manifest.write_bytes(b"damaged")
    assert "(80 images)" in compare([paths["one"], paths["two"]]).notes[0]
