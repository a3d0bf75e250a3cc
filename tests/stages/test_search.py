"""Search and near duplicates as commands: features are made once, answers exact, and hostile names harmless."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from selfsup.stages import kept_features, resumable_file, search
from selfsup.storage import checkpoint
from tests.support.classified import painting, paintings
from tests.support.encoders import PLAIN, SMALL, export_untrained
from tests.support.reported import Read
from tests.support.searched import Answered, call, files, similarities, untrained


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return untrained(tmp_path / "run")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return paintings(tmp_path / "images", 23)


def searched(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> Answered:
    assert call(monkeypatch, "search", *words) == 0, capsys.readouterr().err
    return Answered(capsys)


def test_neighbours_are_those_of_the_loaded_encoder(
    run: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = files(images)
    answered = searched(monkeypatch, capsys, run, images, "--data.root", images, "--k", 5)
    cosines, order = similarities(run, paths).sort(dim=1, descending=True, stable=True)
    assert [line["query"] for line in answered.lines] == paths
    for row, line in enumerate(answered.lines):
        assert [found["path"] for found in line["neighbours"]] == [paths[place] for place in order[row, :5]]
        found = torch.tensor([found["similarity"] for found in line["neighbours"]], dtype=torch.float64)
        torch.testing.assert_close(found, cosines[row, :5], rtol=0, atol=2e-6)
        assert line["neighbours"][0] == {"path": line["query"], "similarity": 1.0}
    figures = {name: answered.figures[name] for name in ("queries", "k", "index", "images", "unreadable_images")}
    assert figures == {"queries": 23, "k": 5, "index": "flat", "images": 23, "unreadable_images": 0}


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_an_index_is_built_once(
    kind: str, run: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("faiss")
    words = (run, images, "--data.root", images, "--k", 3)
    exact = searched(monkeypatch, capsys, *words).lines
    first = searched(monkeypatch, capsys, *words, "--index", kind, "--recall", 1.0)
    assert "built over 23 images: recall@10 1.0000" in first.said
    assert (first.figures["index"], first.figures["recall_at_10"]) == (kind, 1.0)
    again = searched(monkeypatch, capsys, *words, "--index", kind, "--recall", 1.0)
    assert "found: recall@10 1.0000" in again.said
    assert first.lines == again.lines == exact
    stored = next(run.rglob(f"{kind}.safetensors"))
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    damaged = searched(monkeypatch, capsys, *words, "--index", kind, "--recall", 1.0)
    assert f"{stored} is damaged (its checksum differs): built anew" in damaged.said
    assert damaged.lines == exact
    assert "built anew" in searched(monkeypatch, capsys, *words, "--index", kind, "--recall", 0.5).said


def test_an_index_that_was_not_written_whole_is_built_anew(
    run: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program ends after the tensors of a new index, where those of one of other features were."""
    pytest.importorskip("faiss")
    words = (run, images, "--data.root", images, "--index", "ivf")
    searched(monkeypatch, capsys, *words)
    PIL.Image.new("RGB", (9, 9), (0, 99, 0)).save(files(images)[7])
    plainly = checkpoint.write_atomically

    def ending(path: Path, content: bytes) -> None:
        if path.name == "ivf.json":
            raise KeyboardInterrupt
        plainly(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(search.checkpoint, "write_atomically", ending)
        assert call(patched, "search", *words) == 130
    capsys.readouterr()
    again = searched(monkeypatch, capsys, *words)
    assert "is of other features or another recall: built anew" in again.said
    assert all(line["neighbours"][0]["path"] == line["query"] for line in again.lines)


def test_features_are_made_once_and_anew_when_something_changes(
    run: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (run, files(images)[0], "--data.root", images, "--k", 2)
    first = searched(monkeypatch, capsys, *words)
    stored = next(run.rglob("features"))
    before = stored.stat().st_mtime_ns
    again = searched(monkeypatch, capsys, *words)
    assert f"features of 23 images are found in {stored.parent}" in again.said
    assert stored.stat().st_mtime_ns == before
    assert again.lines == first.lines
    shutil.copy(files(images)[0], files(images)[9])
    changed = searched(monkeypatch, capsys, *words)
    assert f"{stored} is of something else (data): starting afresh" in changed.said
    assert [found["path"] for found in changed.lines[0]["neighbours"]] == [files(images)[0], files(images)[9]]
    torch.manual_seed(1)
    export_untrained(run, SMALL, PLAIN)
    assert "(encoder_sha256): starting afresh" in searched(monkeypatch, capsys, *words).said
    assert [path for path in run.rglob("features")] == [stored]
    searched(monkeypatch, capsys, *words, "--size", 12)
    searched(monkeypatch, capsys, *words, "--folder", run.parent / "elsewhere")
    assert len(list(run.rglob("features"))) == 2
    assert len(list((run.parent / "elsewhere").rglob("features"))) == 1


def test_a_record_that_counts_other_images_is_not_believed(
    run: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (run, images, "--data.root", images)
    first = searched(monkeypatch, capsys, *words).lines
    beside = next(run.rglob("features.json"))
    whole = json.loads(beside.read_text())
    for change in (
        {"rows": 22},
        {"unreadable": {"train": {"22": "it is gone"}}},
        {"unreadable": {"train": {"99": ""}}},
    ):
        beside.write_text(json.dumps(whole | {"done": whole["done"] | change}))
        again = searched(monkeypatch, capsys, *words)
        assert "features.json is damaged (it counts other images): starting afresh" in again.said
        assert again.lines == first


def test_interrupted_features_are_gone_on_with(
    run: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kept_features, "_SAVE_EVERY", 6)
    words = (run, images, "--data.root", images, "--batch-size", 3)
    whole = searched(monkeypatch, capsys, *words, "--folder", run.parent / "whole").lines
    plainly = resumable_file.Partial.append

    def ending(partial: resumable_file.Partial, *chunk: Any) -> None:
        if partial.done.chunks == 2:
            raise KeyboardInterrupt
        plainly(partial, *chunk)

    with monkeypatch.context() as patched:
        patched.setattr(resumable_file.Partial, "append", ending)
        assert call(patched, "search", *words) == 130
    capsys.readouterr()
    again = searched(monkeypatch, capsys, *words)
    assert "going on after 11 images" in again.said
    assert again.lines == whole


NO_UTF_8 = b"\xff\xfe.png".decode("utf-8", "surrogateescape")
HOSTILE = ("<img src=x onerror=alert(1)>.png", "'\" onload='x.png", "=1+2.png", NO_UTF_8, "\x1b]0;gone\x07.png")


def test_hostile_names_do_no_harm(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = images / "ant"
    for number, name in enumerate(HOSTILE):
        painting(100 + number).save(tmp_path / "x.png")
        shutil.copy(tmp_path / "x.png", folder / name)
        shutil.copy(tmp_path / "x.png", folder / f"copy_{number}.png")
    queries = [folder / name for name in HOSTILE]
    for out in ("found.html", "found.png", "found.jsonl"):
        said = searched(monkeypatch, capsys, run, *queries, "--data.root", images, "--out", tmp_path / out, "--k", 2)
        assert not said.lines
    page = (tmp_path / "found.html").read_text()
    assert page.count("<img ") == page.count("<img src='data:image/jpeg;base64,") == 15
    assert "&lt;img src=x onerror" in page
    assert not any(word in page for word in ("\x1b", "onload='x", "<script"))
    read = Read(page)
    assert all(image["alt"] and image["title"] for image in read.of("img"))
    assert len(read.of("section")) == len(read.of("h2")) == 5
    assert [meta["content"] for meta in read.of("meta") if "http-equiv" in meta] == [
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    ]
    with PIL.Image.open(tmp_path / "found.png") as picture:
        assert picture.size == (3 * 136 + 8, 5 * 168 + 8)
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 100
    lines = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    assert [line["query"] for line in lines] == [str(query) for query in queries]
    assert all(line["neighbours"][0]["similarity"] > 0.999 for line in lines)
    out = tmp_path / "found.csv"
    assert call(monkeypatch, "dedup", run, "--data.root", images, "--out", out, "--similarity", 1.0) == 0
    cells = [
        cell for row in csv.reader(out.read_bytes().decode("utf-8", "surrogateescape").splitlines()) for cell in row
    ]
    assert not any(cell[:1] in "=+-@" and cell[:1] for cell in cells)
    assert not any("\x1b" in cell for cell in cells)
    assert sum("\udcff" in cell for cell in cells) >= 1


def test_what_cannot_be_searched_is_named(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    answered = searched(monkeypatch, capsys, run, broken, files(images)[0], "--data.root", images, "--k", 99)
    assert "k is 99, and there are 23 images: all of them are found" in answered.said
    assert [len(line["neighbours"] or ()) for line in answered.lines] == [0, 23]
    assert answered.lines[0]["error"]
    assert answered.figures["unreadable_queries"] == 1

    def refused(*words: object) -> str:
        assert call(monkeypatch, *words) == 2
        return capsys.readouterr().err

    assert "none of the images that were asked for can be read" in refused("search", run, broken, "--data.root", images)
    assert "the images are missing" in refused("search", run, "--data.root", images)
    assert "ends in .jsonl, .html, .png" in refused("search", run, broken, "--out", "x.txt")
    monkeypatch.setattr(search, "MOST_CELLS", 252)
    many = (run, images, "--data.root", images, "--out", tmp_path / "x.png")
    assert "23 images with 10 found for each are too many for a picture, which has 252" in refused("search", *many)
    shutil.rmtree(run / "index")
    (run / "index").symlink_to(tmp_path / "images")
    assert "index is a link" in refused("search", run, broken, "--data.root", images)
    assert not list(images.rglob("features*"))
