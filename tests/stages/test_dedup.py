"""Near duplicates by a command: groups are those of all cosines, and what stays is a table of the data."""

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from selfsup.data.layout import Split
from selfsup.data.parts import open_data
from selfsup.data.settings import Data
from selfsup.stages.dedup import run_dedup
from selfsup.stages.search_settings import Dedup
from tests.support.classified import CLASSES, painting, paintings
from tests.support.searched import Answered, call, files, similarities, untrained


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return untrained(tmp_path / "run")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return paintings(tmp_path / "images", 23)


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
