"""Search and near duplicates as commands: features are made once, answers exact, and hostile names harmless."""

import csv
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F

import selfsup
from selfsup import cli
from selfsup.data.layout import Split
from selfsup.data.parts import open_data
from selfsup.data.settings import Data
from selfsup.stages import kept_features, resumable_file, search
from selfsup.stages.dedup import run_dedup
from selfsup.stages.search_settings import Dedup
from selfsup.storage import checkpoint
from tests.support.classified import CLASSES, painting, paintings
from tests.support.encoders import PLAIN, SMALL, export_untrained

QUICK = ("--workers", "0", "--device", "cpu")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return export_untrained(tmp_path / "run", SMALL, PLAIN).parent


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return paintings(tmp_path / "images", 23)


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """A command in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["selfsup", *map(str, words), *QUICK])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def files(root: Path) -> list[str]:
    """Images in the order of the data."""
    return sorted(str(path) for path in root.rglob("*.png"))


class Answered:
    """What a command said."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        captured = capsys.readouterr()
        *lines, last = captured.out.splitlines()
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.figures: dict[str, Any] = json.loads(last)
        self.said = captured.err


def searched(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> Answered:
    assert call(monkeypatch, "search", *words) == 0, capsys.readouterr().err
    return Answered(capsys)


def similarities(run: Path, paths: list[str]) -> torch.Tensor:
    """(N, N) cosines of the features of files, in double precision."""
    unit = F.normalize(selfsup.load(run, device="cpu").embed(paths).double())
    return unit @ unit.T


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


# Near duplicates


def alike(images: Path) -> dict[str, list[str]]:
    """Copies and near copies beside the images; original -> those of the same bytes, then near ones."""
    first, second = files(images)[2], files(images)[11]
    copies = [f"{first[:-4]}_copy.png", f"{Path(second).parent}/a_copy.png"]
    for copy in copies:
        shutil.copy(first, copy)
    picture = PIL.Image.open(second)
    changed = np.array(picture)
    changed[0, 0] ^= 1
    near = f"{second[:-4]}_near.png"
    PIL.Image.fromarray(changed).save(near, compress_level=0)  # so it is larger
    return {first: copies, second: [near]}


def test_groups_are_those_of_all_cosines(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = alike(images)
    (first, copies), (second, (near,)) = made.items()
    out, pairs, keep = (tmp_path / name for name in ("groups.csv", "pairs.jsonl", "keep.txt"))
    words = ("dedup", run, "--data.root", images, "--out", out, "--pairs", pairs, "--keep", keep)
    assert call(monkeypatch, *words, "--similarity", 0.9999) == 0, capsys.readouterr().err
    figures = Answered(capsys).figures
    paths = files(images)
    cosines = similarities(run, paths)
    expected = {(paths[a], paths[b]) for a, b in (cosines.triu(1) >= 0.9999).nonzero().tolist()}
    ordered = sorted([first, *copies])
    expected -= {(ordered[1], ordered[2])}  # equal images are paired with the first of them
    listed = [json.loads(line) for line in pairs.read_text().splitlines()]
    assert {(pair["path"], pair["other"]) for pair in listed} == expected
    assert {(pair["path"], pair["same_bytes"]) for pair in listed} == {(ordered[0], True), (min(second, near), False)}
    with open(out, newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {first, *copies, second, near}
    for path in ordered:
        row = rows[path]
        assert (row["stands_for_it"], row["same_bytes"], row["similarity"]) == (ordered[0], "yes", "1.0")
        assert row["stays"] == ("yes" if path == ordered[0] else "no")
    assert (rows[second]["stays"], rows[second]["stands_for_it"]) == ("no", near), "the larger file stays"
    assert (rows[second]["same_bytes"], rows[near]["stays"]) == ("no", "yes")
    assert float(rows[second]["similarity"]) >= 0.9999
    assert len({rows[path]["group"] for path in rows}) == 2
    assert keep.read_text().splitlines() == [path for path in paths if path not in (*ordered[1:], second)]
    counted = ("pairs", "groups", "duplicates", "duplicates_same_bytes", "stay", "images")
    assert [figures[name] for name in counted] == [3, 2, 3, 2, 23, 26]
    assert json.loads((run / "results" / "dedup.json").read_text())["results"][0]["figures"]["stay"] == 23


def test_a_diverse_subset_is_of_those_that_stay(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copies = next(iter(alike(images).values()))
    out, keep = tmp_path / "groups.jsonl", tmp_path / "keep.txt"
    words = ("dedup", run, "--data.root", images, "--out", out, "--keep", keep, "--similarity", 0.9999)
    assert call(monkeypatch, *words) == 0
    stay = keep.read_text().splitlines()
    capsys.readouterr()
    assert call(monkeypatch, *words, "--subset", 6) == 0
    figures, chosen = Answered(capsys).figures, keep.read_text().splitlines()
    assert len(set(chosen)) == figures["subset"] == 6
    assert set(chosen) < set(stay)
    cosines = similarities(run, [*chosen, *stay])[:6, 6:]
    assert figures["covered"] == pytest.approx(float(cosines.max(dim=0).values.min()), abs=1e-5)
    assert call(monkeypatch, *words, "--subset", 24) == 2
    assert "a subset of 24 is wanted, and 23 images stay" in capsys.readouterr().err
    assert {json.loads(line)["path"] for line in out.read_text().splitlines()} > set(copies)


def test_what_stays_is_a_table_of_the_data(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which --data.labels takes: the data are then those that stay, in the same classes and parts."""
    for part, first in (("train", 0), ("test", 500)):
        alike(paintings(tmp_path / "both" / part, 23, first=first))
    out, keep = tmp_path / "groups.csv", tmp_path / "keep.csv"
    words = ("dedup", run, "--data.root", tmp_path / "both", "--out", out, "--keep", keep, "--similarity", 0.9999)
    assert call(monkeypatch, *words) == 0
    with open(out, newline="") as file:
        gone = {os.path.abspath(row["path"]) for row in csv.DictReader(file) if row["stays"] == "no"}
    data = Data(root=str(tmp_path / "both"), labels=str(keep))
    parts: tuple[Split, Split] = ("train", "test")
    stay = [open_data(data, part) for part in parts]
    names = [os.path.abspath(source.name(index)) for source in stay for index in range(len(source))]
    everything = {os.path.abspath(path) for path in files(tmp_path / "both")}
    assert len(gone) >= 6
    assert set(names) == everything - gone
    assert stay[0].classes == CLASSES
    assert all(Path(source.name(index)).parts[-3] == part for source, part in zip(stay, parts, strict=True)
               for index in range(len(source)))  # fmt: skip


def test_the_same_bytes_are_duplicates_at_any_similarity(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their features may differ in the last digits, by the batches that they are in."""
    copy = images / "dog" / "zzz.png"
    shutil.copy(files(images)[0], copy)
    out = tmp_path / "groups.jsonl"
    words = ("dedup", run, "--data.root", images, "--out", out, "--similarity", 1.0)
    assert call(monkeypatch, *words) == 0, capsys.readouterr().err
    features = np.memmap(next(run.rglob("features")), np.float32, "r+")
    features[-1] += 0.05
    features.flush()
    kept = float(features[-1])
    assert call(monkeypatch, *words) == 0, capsys.readouterr().err
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["path"], row["stays"], row["same_bytes"]) for row in rows] == [
        (files(images)[0], True, True),
        (str(copy), False, True),
    ]
    assert np.memmap(next(run.rglob("features")), np.float32, "r")[-1] == kept, "what is kept was changed"


def test_what_cannot_be_deduplicated_is_named(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: object) -> str:
        assert call(monkeypatch, "dedup", run, "--data.root", images, *words) == 2
        return capsys.readouterr().err

    out = tmp_path / "groups.csv"
    assert "--out is ''; give the name of a file that ends in .csv or .jsonl" in refused()
    assert "similarity is 2.0; it is a cosine" in refused("--out", out, "--similarity", 2)
    assert "--subset 3 belongs to --keep FILE;" in refused("--out", out, "--subset", 3)
    assert "two results have one name" in refused("--out", out, "--pairs", out)
    assert not (run / "index").exists(), "it encodes before it refuses"
    painting(900).save(images / "ant" / "two\nlines.png")
    said = refused("--out", out, "--similarity", 1.0, "--keep", tmp_path / "keep.txt")
    assert "a list of one a line cannot have it" in said
    assert "two\\nlines.png" in said
    assert "a table cannot have it" in refused("--out", out, "--similarity", 1.0, "--keep", tmp_path / "keep.csv")
    assert not out.exists()
    archive = shutil.make_archive(str(tmp_path / "album"), "zip", images)
    said = refused("--data.root", archive, "--out", out, "--keep", tmp_path / "keep.csv")
    assert "a table of what stays is of image files in one folder" in said


def test_only_one_process_writes(run: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="works in one process"):
        run_dedup(run, Dedup(data=Data(root=str(images)), out="x.csv", device="cpu"))
