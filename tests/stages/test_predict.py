"""Predictions in files: those of the loaded classifier or of the kNN stage, a row for each image, whole or absent."""

import csv
import io
import json
import math
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import selfsup
from selfsup import cli
from selfsup.data.settings import Data
from selfsup.data.sources import open_source
from selfsup.evaluation.features import extract
from selfsup.stages import predict
from selfsup.stages.knn import run_knn
from selfsup.stages.settings import KNN
from tests.support.classified import CLASSES, classifier, paintings
from tests.support.encoders import PLAIN, SMALL, export_untrained

QUICK = ("--workers", "0", "--device", "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("classifier") / "birds")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return paintings(tmp_path / "images", 23, first=100)


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """`selfsup predict` in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["selfsup", "predict", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def predicted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: Path, *words: object
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of the file, and the JSON object."""
    assert call(monkeypatch, *words, "--out", out, *QUICK) == 0, capsys.readouterr().err
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    if out.suffix == ".jsonl":
        return [json.loads(text) for text in out.read_text().splitlines()], line
    with open(out, newline="") as file:
        return list(csv.DictReader(file)), line


def files(root: Path) -> list[str]:
    return sorted(str(path) for path in root.rglob("*.png"))


def test_predictions_are_those_of_the_loaded_classifier(
    trained: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, line = predicted(
        monkeypatch, capsys, tmp_path / "p.jsonl", trained, images, "--top", 3, "--embedding", "--batch-size", 64
    )
    assert [row["path"] for row in rows] == files(images)
    loaded = selfsup.load(trained, device="cpu")
    probabilities = loaded.classify(files(images))
    order = probabilities.sort(dim=1, descending=True, stable=True).indices
    assert len(set(order[:, 0].tolist())) > 2, "a test of one answer alone tells little"
    for row, own, ranked in zip(rows, probabilities, order.tolist(), strict=True):
        assert list(row) == (
            "path class probability class_2 probability_2 class_3 probability_3 embedding error".split()
        )
        assert [row["class"], row["class_2"], row["class_3"]] == [CLASSES[label] for label in ranked[:3]]
        found = torch.tensor([row["probability"], row["probability_2"], row["probability_3"]])
        torch.testing.assert_close(found, own[ranked[:3]], rtol=1e-5, atol=1e-7)
        assert row["error"] is None
    embeddings = torch.tensor([row["embedding"] for row in rows])
    torch.testing.assert_close(embeddings, loaded.embed(files(images)), rtol=1e-5, atol=1e-6)
    assert (line["images"], line["unreadable_images"], line["by"], line["classes"]) == (23, 0, "classifier", 4)
    assert line["out"] == str(tmp_path / "p.jsonl")


def test_three_forms_hold_the_same(
    trained: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    (images / "zzz.png").write_bytes(b"no image")
    monkeypatch.setattr(predict, "_CHUNK", 7)
    words = (trained, images, "--top", 2, "--embedding")
    lines, _ = predicted(monkeypatch, capsys, tmp_path / "p.jsonl", *words)
    cells, _ = predicted(monkeypatch, capsys, tmp_path / "p.csv", *words)
    assert call(monkeypatch, *words, "--out", tmp_path / "p.parquet", *QUICK) == 0
    table = parquet.read_table(tmp_path / "p.parquet")
    assert table.column_names == list(lines[0])
    stored = table.to_pylist()
    assert len(lines) == len(cells) == len(stored) == 24
    for line, cell, row in zip(lines, cells, stored, strict=True):
        for name in ("path", "class", "class_2", "error"):
            assert line[name] == row[name]
            assert (line[name] or "") == cell[name]
        if line["error"] is not None:
            assert {value for name, value in cell.items() if name not in ("path", "error")} == {""}
            assert {row[name] for name in ("class", "probability", "class_2", "probability_2", "embedding")} == {None}
            continue
        for name in ("probability", "probability_2"):
            assert np.float32(line[name]) == np.float32(cell[name]) == np.float32(row[name])
        numbers = np.array([cell[f"embedding_{number}"] for number in range(len(line["embedding"]))], np.float32)
        assert np.array_equal(numbers, np.array(line["embedding"], np.float32))
        assert np.array_equal(numbers, np.array(row["embedding"], np.float32))
    assert lines[-1]["error"] is not None


def test_neither_workers_nor_batches_nor_chunks_decide(
    trained: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "bee" / "000.png").write_bytes(b"no image")
    expected, _ = predicted(monkeypatch, capsys, tmp_path / "one.jsonl", trained, images, "--top", 4)
    words = [trained, images, "--top", 4, "--device", "cpu"]
    assert call(monkeypatch, *words, "--workers", 2, "--out", tmp_path / "two.jsonl") == 0
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    for size, chunk in ((3, 4096), (64, 5), (1, 1)):
        monkeypatch.setattr(predict, "_CHUNK", chunk)
        rows, _ = predicted(monkeypatch, capsys, tmp_path / "other.jsonl", *words[:4], "--batch-size", size)
        assert [row["path"] for row in rows] == [row["path"] for row in expected]
        assert [row["error"] for row in rows] == [row["error"] for row in expected]
        for row, other in zip(rows, expected, strict=True):
            if row["error"] is None:
                assert row["class"] == other["class"]
                assert row["probability"] == pytest.approx(other["probability"], rel=1e-4)


def test_a_broken_image_is_a_row_and_is_counted(
    trained: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However many: a third of them here."""
    monkeypatch.chdir(tmp_path)
    images = Path(images.name)
    broken = files(images)[::3]
    for name in broken:
        Path(name).write_bytes(b"no image")
    out = tmp_path / "p.csv"
    assert call(monkeypatch, trained, images, "--out", out, *QUICK) == 0
    said = capsys.readouterr()
    line = json.loads(said.out.splitlines()[-1])
    assert (line["images"], line["unreadable_images"]) == (23, len(broken))
    assert f"unreadable: {len(broken)} images ({broken[0]}," in said.err
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == files(images)
    for row in rows:
        assert bool(row["error"]) == (row["path"] in broken) == (not row["class"]) == (not row["probability"])
    whole = selfsup.load(trained, device="cpu")
    readable = [row for row in rows if not row["error"]]
    expected = whole.classify([row["path"] for row in readable]).max(dim=1)
    assert [row["class"] for row in readable] == [CLASSES[label] for label in expected.indices.tolist()]


def test_files_folders_archives_and_standard_input_in_the_order_of_their_names(
    trained: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    single, *rest = [str(Path(name).relative_to(tmp_path)) for name in files(images)]
    (images / "notes.txt").write_text("not an image")
    with zipfile.ZipFile("album.zip", "w") as archive:
        for name in reversed(rest[:4]):
            archive.write(name, name)
        archive.writestr("broken.jpg", b"no image")
    listed = f"./{rest[5]}\r\n\n \t\nno such file.png\n{rest[5]}"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed.encode())))
    rows, line = predicted(
        monkeypatch, capsys, tmp_path / "p.csv", trained, rest[-1], "album.zip", single, "-", "images", single
    )
    assert [row["path"] for row in rows] == [
        rest[-1],
        "album.zip[broken.jpg]",
        *(f"album.zip[{name}]" for name in rest[:4]),
        single,
        f"./{rest[5]}",
        "no such file.png",
        rest[5],
        *(str(Path(name).relative_to(tmp_path)) for name in files(images)),
        single,
    ]
    assert (line["images"], line["unreadable_images"]) == (len(rows), 2)
    by_name = {row["path"]: row["class"] for row in rows}
    for name in rest[:4]:
        assert by_name[f"album.zip[{name}]"] == by_name[name]
    assert next(row["error"] for row in rows if row["path"] == "no such file.png") == "No such file or directory"
    assert call(monkeypatch, trained, "images", "--out", "q.csv", *QUICK) == 0
    assert "images: 23 images; left out: no images: 1 .txt" in capsys.readouterr().err


def test_a_bank_decides_as_the_knn_stage_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the stage's own figure, and vote for vote by a plain loop in double precision."""
    torch.manual_seed(1)
    encoder = export_untrained(tmp_path / "encoder", SMALL, PLAIN)
    data = tmp_path / "data"
    paintings(data / "train", 60)
    paintings(data / "test", 25, first=60)
    settings = KNN(data=Data(root=str(data)), k=(7,), temperature=(0.3,), workers=0, device="cpu")
    stage = run_knn(encoder, settings).results[0]
    words = (encoder, data / "test", "--bank", data, "--k", 7, "--temperature", 0.3, "--top", 9)
    rows, line = predicted(monkeypatch, capsys, tmp_path / "p.jsonl", *words)
    right = [row["class"] == Path(row["path"]).parent.name for row in rows]
    assert sum(right) / len(right) == pytest.approx(stage.figures["knn_top1"], abs=1e-12)
    assert 0 < sum(right) < len(right)
    assert (line["by"], line["k"], line["temperature"], line["bank_images"]) == ("knn", 7, 0.3, 60)
    loaded = selfsup.load(encoder, device="cpu")
    center, cpu = loaded.exported.feed.center(), torch.device("cpu")
    train, test = (open_source(str(data), part) for part in ("train", "test"))
    bank, asked = (extract(loaded.exported.encoder, part, center, cpu) for part in (train, test))
    known, queries = (F.normalize(part.features.double()) for part in (bank, asked))
    for row, query in zip(rows, queries, strict=True):
        similarities = [float(query @ other) for other in known]
        nearest = sorted(range(60), key=lambda number: -similarities[number])[:7]
        votes = dict.fromkeys(range(4), 0.0)
        for number in nearest:
            votes[int(bank.labels[number])] += math.exp(similarities[number] / 0.3)
        ranked = sorted(votes, key=lambda label: -votes[label])
        for place, label in enumerate(ranked):
            end = f"_{place + 1}" if place else ""
            share = votes[label] / sum(votes.values())
            assert row[f"class{end}"] == (train.class_name(label) if share else None)
            assert row[f"probability{end}"] == (pytest.approx(share, rel=1e-5) if share else None)


def test_a_file_is_whole_or_not_there(
    trained: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted between two chunks, the older file stays, and nothing else."""
    out = tmp_path / "out" / "p.csv"
    assert call(monkeypatch, trained, images, "--out", out, *QUICK) == 0
    before = out.read_bytes()
    monkeypatch.setattr(predict, "_CHUNK", 5)
    fill, done = predict._fill, []

    def interrupted(*given: Any) -> None:
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt
        fill(*given)

    monkeypatch.setattr(predict, "_fill", interrupted)
    assert call(monkeypatch, trained, images, "--top", 2, "--out", out, *QUICK) == 130
    assert out.read_bytes() == before
    assert os.listdir(out.parent) == ["p.csv"]


def test_a_name_that_a_spreadsheet_would_carry_out_is_a_text_in_csv(
    trained: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(files(images)[0]).rename("=1+1.png")
    rows, _ = predicted(monkeypatch, capsys, tmp_path / "p.csv", trained, "=1+1.png")
    assert rows[0]["path"] == "'=1+1.png"
    rows, _ = predicted(monkeypatch, capsys, tmp_path / "p.jsonl", trained, "=1+1.png")
    assert rows[0]["path"] == "=1+1.png"


def test_a_classifier_without_names_counts_its_classes(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, _ = predicted(monkeypatch, capsys, tmp_path / "p.csv", classifier(tmp_path / "nameless", ()), images)
    assert {row["class"] for row in rows} == {"0", "1"}


def test_wrong_uses_are_answered_with_what_to_do(
    trained: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = export_untrained(tmp_path / "run", SMALL, PLAIN)
    np.save(tmp_path / "array.npy", np.zeros((2, 8, 8, 3), np.uint8))
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no image")
    for name in ("shard.tar", "list.csv"):
        (tmp_path / name).write_bytes(b"path\n")
    out = tmp_path / "p.csv"
    told: list[tuple[tuple[object, ...], str]] = [
        ((), "the classifier is missing\nusage: selfsup predict CLASSIFIER IMAGES ..."),
        ((trained, "--out", out), "the images are missing; name them before the flags\nusage: "),
        ((trained, images), "--out is ''; give the name of a file that ends in .csv, .jsonl, .parquet"),
        ((trained, images, "--out", "p.txt"), "out is 'p.txt'; give the name of a file that ends in .csv"),
        (
            (encoder, images, "--out", out),
            f"{encoder} has no classifier; make one: selfsup finetune {encoder} --data.root LABELLED\n"
            "or let labelled images decide: --bank LABELLED\n",
        ),
        ((trained, tmp_path / "absent", "--out", out), f"there is no file or folder {tmp_path / 'absent'}\n"),
        ((trained, tmp_path / "empty", "--out", out), f"no image in {tmp_path / 'empty'}; wanted JPEG"),
        ((trained, "array.npy", "--out", out), "array.npy holds arrays; give image files, folders or .zip archives"),
        ((trained, "broken.png", "--out", "broken.png/p.csv"), "cannot make the folder broken.png for p.csv: "),
        ((trained, "shard.tar", "--out", out), "shard.tar is an archive of another kind; give image files, folders"),
        ((trained, "list.csv", "--out", out), "list.csv is a table; give image files, folders or .zip archives"),
        ((trained, "-", images, "-", "--out", out), "standard input, -, is named twice"),
        ((trained, "-", "--out", out), "standard input holds no path; give one a line, such as: find"),
        ((trained, images, "--out", out, "--top", 0), "top is 0; it must be at least 1"),
        ((trained, images, "--out", out, "--k", 5), "k is 5, and belongs to --bank PATH, which is not given"),
        ((encoder, images, "--out", out, "--bank", tmp_path / "empty"), f"no image in {tmp_path / 'empty'}"),
        ((encoder, images, "--out", out, "--bank", images / "ant"), "kNN needs labels: they lie in no folders"),
        (
            (trained, "broken.png", "--out", out),
            "none of the images can be read: 1 image (broken.png); it is none of JPEG",
        ),
    ]
    for words, message in told:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
        assert call(monkeypatch, *words) == 2, words
        assert f"selfsup: {message}" in capsys.readouterr().err, words
    assert not out.exists()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert call(monkeypatch, trained, images, "--out", "p.parquet") == 2
    assert (
        "a Parquet file (.csv and .jsonl need nothing) needs the package pyarrow, which is not installed: "
        "pip install pyarrow"
    ) in capsys.readouterr().err


def test_lists_parted_by_zero_bytes_and_more_choices_than_classes_are_said(
    trained: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.png\0b.png\0")))
    assert call(monkeypatch, trained, "-", "--out", tmp_path / "p.csv") == 2
    assert "give one a line (find without -print0)" in capsys.readouterr().err
    assert call(monkeypatch, trained, images, "--top", 5, "--out", tmp_path / "p.csv", *QUICK) == 0
    said = capsys.readouterr()
    assert "top is 5, and there are 4 classes: each image has so many" in said.err
    assert json.loads(said.out.splitlines()[-1])["top"] == 4


def test_help_shows_a_use(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    assert "selfsup predict runs/birds/finetune_10pct holiday/ --out birds.csv --top 5" in said
    assert "--bank" in said
