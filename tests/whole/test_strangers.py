"""Folders, files, names and numbers from anyone: no file outside is written, nothing hangs, nothing is carried out."""

import csv
import io
import json
import os
import re
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from selfsup.data.base import ArraySource, UnreadableImage
from selfsup.data.decode import decode
from selfsup.evaluation.encoder import load_encoder
from selfsup.evaluation.features import Features
from selfsup.pretraining import pretrain
from selfsup.run_folder.folder import RunFolder
from selfsup.stages import cluster, embed
from selfsup.stages.base import Result, keep, read
from selfsup.stages.compare import as_csv, as_markdown, plot
from selfsup.stages.compare_page import compare_page
from selfsup.stages.result_table import compare
from selfsup.storage import checkpoint, untrusted
from selfsup.storage.sealed import seal
from selfsup.training.state import restore_optimizer
from tests.support.hostile_folders import sparse
from tests.support.sealed_files import put, put_tensors, rewrite
from tests.support.tiny import tiny_run


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after two steps."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    pretrain(tiny_run(folder, max_steps=2))
    return folder


def copied(folder: Path, to: Path) -> Path:
    for path in folder.rglob("*"):
        if path.is_file():
            (to / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (to / path.relative_to(folder)).write_bytes(path.read_bytes())
    return to


# Writes


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "checkpoints", "results", "tensorboard"])
def test_nothing_is_written_through_a_link(name: str, begun: Path, tmp_path: Path) -> None:
    run, outside = copied(begun, tmp_path / "run"), tmp_path / "outside"
    kept = b"mine"
    if name in ("checkpoints", "results", "tensorboard"):
        (run / name).rename(outside) if (run / name).is_dir() else outside.mkdir()
        (outside / "note").write_bytes(kept)
    else:
        (run / name).unlink(missing_ok=True)
        outside.write_bytes(kept)
    (run / name).symlink_to(outside)
    before = sorted(str(path) for path in outside.rglob("*"))
    if name == "metrics.jsonl":  # its lines are read, and a file of the run's own takes its place
        pretrain(tiny_run(run, max_steps=4))
        assert not (run / name).is_symlink()
    else:
        with pytest.raises((ValueError, OSError), match=name):
            pretrain(tiny_run(run, max_steps=4))
    assert (outside / "note" if outside.is_dir() else outside).read_bytes() == kept
    assert sorted(str(path) for path in outside.rglob("*")) == before


def test_a_lock_that_is_a_second_name_of_a_file_is_left_alone(begun: Path, tmp_path: Path) -> None:
    run, outside = copied(begun, tmp_path / "run"), tmp_path / "outside"
    outside.write_bytes(b"mine")
    (run / ".lock").unlink(missing_ok=True)
    os.link(outside, run / ".lock")
    with pytest.raises(checkpoint.StorageError, match="lock is not a file of its own"):
        pretrain(tiny_run(run, max_steps=4))
    assert outside.read_bytes() == b"mine"


def test_temporary_names_cannot_be_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(checkpoint, "fault_point", lambda point, path: names.append(path.name))
    for _ in range(2):
        checkpoint.write_atomically(tmp_path / "file", b"content")
    temporary = {name for name in names if name != "file"}
    assert len(temporary) == 2
    assert not any(str(os.getpid()) in name.split(".") for name in temporary)
    (tmp_path / "taken").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        untrusted.create(tmp_path / "taken")


# Reads


def in_seconds(function: Any, seconds: float = 20.0) -> BaseException | None:
    """What it raises; fails where it does not come back."""
    raised: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=call, daemon=True)
    begin = time.monotonic()
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"still reading after {time.monotonic() - begin:.0f} s"
    return raised[0] if raised else None


KINDS: dict[str, Any] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "sparse": sparse,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["method.safetensors", "state.json", "manifest.json"])
def test_a_checkpoint_of_something_else_than_files_is_refused(
    kind: str, name: str, begun: Path, tmp_path: Path
) -> None:
    run = copied(begun, tmp_path / "run")
    place = next(run.glob("checkpoints/step_*"))
    (place / name).unlink()
    KINDS[kind](place / name)
    if name != "manifest.json":  # and whoever made it says that this is right
        rewrite(place / "manifest.json", lambda listed: put(300 << 30, ("files", name, "size"), listed))
    error = in_seconds(lambda: checkpoint.load(place))
    assert isinstance(error, checkpoint.DamagedFile)
    assert name in str(error)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["encoder.safetensors", "encoder.json"])
def test_an_encoder_of_something_else_than_files_is_refused(kind: str, name: str, begun: Path, tmp_path: Path) -> None:
    run = copied(begun, tmp_path / "run")
    pretrain(tiny_run(run))
    (run / name).unlink()
    KINDS[kind](run / name)
    error = in_seconds(lambda: load_encoder(run))
    assert isinstance(error, ValueError)
    assert name in str(error)


# Well sealed, and senseless


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda value: value.flatten()[:-1].clone(), "wanted finite numbers of shape"),
        (lambda value: value.to(torch.int64), "int64"),
        (lambda value: value * torch.nan, "not finite"),
    ],
)
def test_senseless_state_of_the_optimizer_is_named(change: Any, told: str, begun: Path, tmp_path: Path) -> None:
    run = copied(begun, tmp_path / "run")
    place = next(run.glob("checkpoints/step_*"))
    tensors = load_file(place / "optimizer.safetensors")
    name = next(key for key, value in tensors.items() if value.numel() > 1)
    put_tensors(place, "optimizer.safetensors", tensors | {name: change(tensors[name])})
    with pytest.raises(ValueError, match=f"(?s)step_.*optimizer.safetensors: {name}.*{told}"):
        pretrain(tiny_run(run))


def test_weights_of_another_type_are_named(begun: Path, tmp_path: Path) -> None:
    run = copied(begun, tmp_path / "run")
    place = next(run.glob("checkpoints/step_*"))
    tensors = load_file(place / "method.safetensors")
    name = next(key for key in tensors if key.endswith("weight"))
    put_tensors(place, "method.safetensors", tensors | {name: tensors[name].long()})
    with pytest.raises(ValueError, match=f"method.safetensors: {name} is of torch.int64"):
        pretrain(tiny_run(run))


def test_restoring_takes_what_was_saved() -> None:
    """Counts of steps are single numbers; the others have their parameter's shape."""
    parameter = torch.nn.Parameter(torch.zeros(3, 2))
    optimizer = torch.optim.AdamW([parameter])
    good = {"w/step": torch.tensor(3.0), "w/exp_avg": torch.ones(3, 2), "w/exp_avg_sq": torch.ones(3, 2)}
    restore_optimizer(optimizer, {parameter: "w"}, good, 3)
    assert optimizer.state[parameter]["exp_avg"].sum() == 6
    with pytest.raises(ValueError, match="w/exp_avg is"):
        restore_optimizer(optimizer, {parameter: "w"}, good | {"w/exp_avg": torch.ones(2, 3)}, 3)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1" + "0" * 400, '"high"', "true"])
def test_figures_that_are_no_numbers_are_refused(value: str, begun: Path, tmp_path: Path) -> None:
    run = copied(begun, tmp_path / "run")
    keep(RunFolder(run), [Result(stage="knn", figures={"knn_top1": 0.5}, protocol={"k": 1})])
    path = run / "results" / "knn.json"
    content = json.loads(path.read_text().replace("0.5", value))
    content.pop("checksum")
    path.write_bytes(seal(content))
    with pytest.raises(ValueError, match=r"knn\.json holds no results .*knn_top1"):
        read(RunFolder(run), "knn")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("name", ["save_minutes", "max_minutes", "hang_minutes"])
def test_times_are_numbers(name: str, number: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=name):
        replace(tiny_run(tmp_path), **{name: number})


# Images


def progressive(scans: int, side: int = 64) -> bytes:
    """A JPEG whose last scan is repeated."""
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side), np.uint8)).save(
        content, "JPEG", progressive=True
    )
    whole = content.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * scans + whole[-2:]


def test_an_image_of_thousands_of_scans_is_unreadable() -> None:
    assert decode(io.BytesIO(progressive(1)), "name")[1] == (64, 64)
    begin = time.monotonic()
    with pytest.raises(UnreadableImage, match="scans of 64 x 64"):
        decode(io.BytesIO(progressive(3000)), "name")
    assert time.monotonic() - begin < 5


# Tables


EVIL = ("=cmd|' /C calc'!A0", "@SUM(1+1)", "+1", "-1+1", "<script>alert(1)</script>", "a\x1b[31mred", "a|b](http://x)")


def test_no_table_of_images_carries_anything_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`embed` and `cluster` write the path of each image, which a relative folder lets begin with anything."""
    names = (*EVIL, "\udcff.png")  # and one that is no UTF-8, which stays as it is on the disk
    source = ArraySource(torch.zeros(len(names), 3, 4, 4, dtype=torch.uint8))
    monkeypatch.setattr(source, "name", lambda index: names[index])
    numbers = torch.arange(len(names))
    made = cluster._write(tmp_path / "c.csv", source, Features(torch.zeros(len(names), 1), numbers, numbers), numbers)
    columns = embed._columns([embed.Part("train", source)], {"train": {}})
    for content in (made.read_bytes(), embed._as_csv(columns)):
        assert b"\x1b" not in content
        cells = [cell for line in csv.reader(io.StringIO(content.decode("utf-8", "surrogateescape"))) for cell in line]
        assert sum(word.split("\x1b")[0] in cell for cell in cells for word in names) >= len(names)
        assert not [cell for cell in cells if cell[:1] in ("=", "+", "-", "@") and not cell.lstrip("-").isdigit()]


def test_no_file_of_compare_carries_anything_out(tmp_path: Path) -> None:
    for number, name in enumerate(EVIL):
        for other in range(2):
            run = tmp_path / f"{number}{other}"
            run.mkdir()
            figures = {"knn_top1": 0.5, name: 0.25}
            keep(RunFolder(run), [Result(stage="knn", figures=figures, protocol={"k": 1, "by": name})])
    table = compare(sorted(tmp_path.iterdir()))
    table = table._replace(rows=[row._replace(runs=[Path(EVIL[n % len(EVIL)])]) for n, row in enumerate(table.rows)])
    cells = [cell for line in csv.reader(io.StringIO(as_csv(table).decode())) for cell in line]
    for cell in cells:
        assert cell[:1] not in ("=", "+", "-", "@") or cell.lstrip("+-").replace(".", "").isdigit(), cell
    written = as_markdown(table), compare_page(table), plot(table, "svg")
    for made in (as_csv(table), *written):
        assert b"\x1b" not in made
    for made in written:
        assert b"<script>alert" not in made
    assert not re.search(rb"(?<!\\)\]\(", as_markdown(table))
