"""A classifier judged on a labelled folder: classes by name, figures by plain loops, mistakes by name."""

import csv
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import selfsup
from selfsup import cli
from selfsup.data.identity import manifest_of
from selfsup.data.sources import open_source
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.base import read
from tests.support.classified import CLASSES, classifier, paintings
from tests.support.encoders import PLAIN, SMALL, export_untrained

QUICK = ("--workers", "0", "--device", "cpu")


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return classifier(tmp_path / "birds")


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """`selfsup evaluate` in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["selfsup", "evaluate", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def evaluated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object
) -> tuple[dict[str, Any], str]:
    """The JSON object, and what was said."""
    code = call(monkeypatch, *words, *QUICK)
    said = capsys.readouterr()
    assert code == 0, said.err
    line: dict[str, Any] = json.loads(said.out.splitlines()[-1])
    return line, said.err


def table(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Naive:
    """Figures of a classifier on a folder, image by image in double precision."""

    def __init__(self, trained: Path, root: Path) -> None:
        loaded = selfsup.load(trained, device="cpu")
        names = loaded.class_names
        self.paths = [path for path in sorted(root.rglob("*.png")) if path.parent.name in names]
        logits = torch.cat([loaded.exported.classifier(loaded.preprocess(path)).detach() for path in self.paths])
        self.rows = [[float(value) for value in row] for row in logits.double().softmax(dim=1)]
        self.labels = [names.index(path.parent.name) for path in self.paths]
        self.choices = [row.index(max(row)) for row in self.rows]
        self.right = [label == choice for label, choice in zip(self.labels, self.choices, strict=True)]

    def top(self, k: int) -> float:
        found = [
            label in sorted(range(len(row)), key=lambda number: -row[number])[:k]
            for label, row in zip(self.labels, self.rows, strict=True)
        ]
        return sum(found) / len(found)

    def recall(self, label: int) -> float | None:
        own = [right for right, other in zip(self.right, self.labels, strict=True) if other == label]
        return sum(own) / len(own) if own else None

    def precision(self, label: int) -> float | None:
        taken = [right for right, choice in zip(self.right, self.choices, strict=True) if choice == label]
        return sum(taken) / len(taken) if taken else None

    def calibration_error(self) -> float:
        sums = [0.0] * 15
        for row, right in zip(self.rows, self.right, strict=True):
            sure = max(row)
            number = next(n for n in range(15) if sure <= (n + 1) / 15 + 1e-15)
            sums[number] += right - sure
        return sum(map(abs, sums)) / len(self.rows)


def test_figures_are_those_of_a_plain_loop(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = paintings(tmp_path / "new", 37, first=200)
    line, said = evaluated(monkeypatch, capsys, trained, "--data.root", root)
    naive = Naive(trained, root)
    each = [value for label in range(4) if (value := naive.recall(label)) is not None]
    assert 0 < naive.top(1) < 1
    assert len(set(each)) > 1, "balanced accuracy would be accuracy"
    assert line["evaluate_top1"] == pytest.approx(naive.top(1), abs=1e-12)
    assert line["evaluate_top5"] == 1.0
    assert line["evaluate_balanced_accuracy"] == pytest.approx(sum(each) / len(each), abs=1e-12)
    assert line["evaluate_balanced_accuracy"] != pytest.approx(line["evaluate_top1"], abs=1e-3)
    assert line["evaluate_ece"] == pytest.approx(naive.calibration_error(), abs=1e-6)
    for label, name in enumerate(CLASSES):
        found = line["per_class"][name]
        assert found["recall"] == pytest.approx(naive.recall(label), abs=1e-12)
        precision = naive.precision(label)
        assert found["precision"] is None if precision is None else found["precision"] == pytest.approx(precision)
        assert found["images"] == naive.labels.count(label)
    matrix = table(line["confusion"])
    assert [row["class"] for row in matrix] == list(CLASSES)
    for label, row in enumerate(matrix):
        for taken, name in enumerate(CLASSES):
            pairs = list(zip(naive.labels, naive.choices, strict=True))
            assert int(row[name]) == pairs.count((label, taken))
    with Image.open(line["confusion_picture"]) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
    wrong = sorted((n for n, right in enumerate(naive.right) if not right), key=lambda n: -max(naive.rows[n]))
    mistakes = table(line["mistakes"])
    assert [row["path"] for row in mistakes] == [str(naive.paths[number]) for number in wrong]
    for row, number in zip(mistakes, wrong, strict=True):
        assert row["class"] == CLASSES[naive.labels[number]]
        assert row["taken_for"] == CLASSES[naive.choices[number]]
        assert float(row["probability"]) == pytest.approx(max(naive.rows[number]), abs=1e-5)
        assert float(row["probability_of_class"]) == pytest.approx(naive.rows[number][naive.labels[number]], abs=1e-5)
    assert f"mistaken: {naive.paths[wrong[0]]} is {CLASSES[naive.labels[wrong[0]]]}, taken for " in said
    few, _ = evaluated(monkeypatch, capsys, trained, "--data.root", root, "--worst", 3)
    assert table(few["mistakes"]) == mistakes[:3]


def test_the_record_holds_the_figures_beside_their_protocol(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One entry for each data set; the same again takes its place."""
    for _ in range(2):
        for number, name in enumerate(("one", "two")):
            root = tmp_path / name
            if not root.is_dir():
                paintings(root, 20, first=300 + 20 * number)
            line, _ = evaluated(monkeypatch, capsys, trained, "--data.root", root)
    kept = read(RunFolder(trained), "evaluate")
    assert [result.data_root for result in kept] == [str(tmp_path / "two"), str(tmp_path / "one")]
    result = kept[0]
    assert result.figures == {name: line[name] for name in result.figures}
    assert sorted(result.figures) == [
        "evaluate_balanced_accuracy",
        "evaluate_ece",
        "evaluate_top1",
        "evaluate_top5",
    ]
    assert result.protocol | {"data": ""} == {
        "transform": "centre 1.0 of the short side, resized to 16",
        "canvas": None,
        "part": "all",
        "data": "",
        "images": 20,
        "unknown_images": 0,
        "unreadable_images": 0,
        "classes": 4,
        "classes_with_images": 4,
        "ece_bins": 15,
    }
    assert result.about["per_class"] == line["per_class"]
    files = {path.name for path in (trained / "results").iterdir()}
    assert len(files) == 1 + 2 * 3, "a record, and three files for each data set"


def test_classes_are_matched_by_name(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that comes earlier, and two that are not there, give every name another number."""
    root = paintings(tmp_path / "new", 30, ("dog", "aardvark", "cat", "zebra"), first=400)
    naive = Naive(trained, root)
    line, said = evaluated(monkeypatch, capsys, trained, "--data.root", root)
    known = len(naive.paths)
    assert line["images"] == known < 30
    assert 0 < naive.top(1) < 1
    assert line["evaluate_top1"] == pytest.approx(naive.top(1), abs=1e-12)
    for label, name in enumerate(CLASSES):
        assert line["per_class"][name]["recall"] == naive.recall(label)
    assert line["missing_classes"] == ["ant", "bee"]
    assert line["per_class"]["ant"]["recall"] is None
    assert line["unknown_classes"] == ["aardvark", "zebra"]
    assert line["unknown_images"] == 30 - known
    assert "of 2 of the classifier's 4 classes there is no image: ant, bee" in said
    assert f"{30 - known} images of 2 classes that the classifier does not know are left out: aardvark, zebra" in said
    (root / "aardvark").rename(root / "dogg")
    for image in (root / "zebra").iterdir():
        image.unlink()
    _, said = evaluated(monkeypatch, capsys, trained, "--data.root", root)
    assert "are left out: dogg; did you mean dog?" in said


def test_the_part_that_is_judged(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "parted"
    paintings(root / "train", 20, first=500)
    paintings(root / "test", 12, first=600)
    found = {}
    for part in ("auto", "train", "test", "all"):
        line, _ = evaluated(monkeypatch, capsys, trained, "--data.root", root, "--part", part)
        found[part] = line
    assert {part: line["images"] for part, line in found.items()} == {"auto": 12, "train": 20, "test": 12, "all": 32}
    assert [found[part]["part"] for part in ("auto", "all")] == ["test", "all"]
    hits = {part: round(line["evaluate_top1"] * line["images"]) for part, line in found.items()}
    assert hits["all"] == hits["train"] + hits["test"]
    assert hits["auto"] == hits["test"]


def test_images_that_it_was_trained_on_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By content, whatever they are called: here in the manifest that a run keeps of its training images."""
    run = classifier(tmp_path / "run")
    seen = paintings(tmp_path / "seen", 20, first=700)
    manifest = run / "contents" / "images.manifest"
    manifest.parent.mkdir()
    manifest.write_bytes(manifest_of(open_source(str(seen))).packed())
    judged = paintings(tmp_path / "judged", 12, first=800)
    assert "images_in_training" not in evaluated(monkeypatch, capsys, run, "--data.root", judged)[0]
    for number, path in enumerate(sorted(seen.rglob("*.png"))[:3]):
        (judged / path.parent.name / f"new_{number}.png").write_bytes(path.read_bytes())
    line, said = evaluated(monkeypatch, capsys, run, "--data.root", judged)
    assert "3 of 15 images have the content of one that the run was trained on; the first: " in " ".join(said.split())
    assert line["images_in_training"] == 3
    assert read(RunFolder(run), "evaluate")[0].about["images_in_training"] == 3
    manifest.write_bytes(b"{}")  # damaged: nothing is known, and nothing is wrong with the classifier
    assert evaluated(monkeypatch, capsys, run, "--data.root", judged)[0]["images"] == line["images"] == 15


def test_an_archive_and_batches_change_nothing_and_a_file_of_weights_keeps_no_record(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = paintings(tmp_path / "new", 30, first=700)
    expected, _ = evaluated(monkeypatch, capsys, trained, "--data.root", root)
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        for path in sorted(root.rglob("*.png")):
            archive.write(path, path.relative_to(root))
    words = (trained / "encoder.safetensors", "--data.root", tmp_path / "new.zip", "--batch-size", 7)
    line, _ = evaluated(monkeypatch, capsys, *words)
    assert "mistakes" not in line
    assert not list(tmp_path.glob("results"))
    for name in ("evaluate_top1", "evaluate_balanced_accuracy", "per_class", "data"):
        assert line[name] == expected[name]
    assert line["evaluate_ece"] == pytest.approx(expected["evaluate_ece"], abs=1e-5)


def test_an_unreadable_image_is_counted(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = paintings(tmp_path / "new", 30, first=800)
    (root / "bee" / "broken.png").write_bytes(b"no image")
    naive_root = paintings(tmp_path / "whole", 30, first=800)
    line, said = evaluated(monkeypatch, capsys, trained, "--data.root", root)
    assert (line["images"], line["unreadable_images"]) == (30, 1)
    assert "1 unreadable images are left out, such as " in said
    assert line["evaluate_top1"] == pytest.approx(Naive(trained, naive_root).top(1), abs=1e-12)
    (root / "bee" / "broken too.png").write_bytes(b"no image")
    assert call(monkeypatch, trained, "--data.root", root, *QUICK) == 2
    assert "2 of 32 images cannot be read, more than 1%" in capsys.readouterr().err


def test_names_of_any_script_are_in_the_table_and_disturb_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also those that a picture would take as a formula, and a spreadsheet as one of its own."""
    names = ("=1+1", "$x^{$", "\u732b")
    root = paintings(tmp_path / "new", 20, names)
    line, _ = evaluated(monkeypatch, capsys, classifier(tmp_path / "birds", names), "--data.root", root)
    assert [row["class"] for row in table(line["confusion"])] == ["'=1+1", "$x^{$", "\u732b"]
    assert list(line["per_class"]) == list(names)


def test_wrong_uses_are_answered_with_what_to_do(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = paintings(tmp_path / "new", 12)
    other = paintings(tmp_path / "other", 8, ("x", "y"))
    encoder = export_untrained(tmp_path / "run", SMALL, PLAIN)
    told: list[tuple[tuple[object, ...], str]] = [
        (
            (encoder, "--data.root", root),
            f"{encoder} has no classifier; make one: selfsup finetune {encoder} --data.root LABELLED\n"
            f"or judge the encoder: selfsup knn {encoder}, selfsup linear {encoder}\n",
        ),
        (
            (trained, "--data.root", other),
            f"none of the classes of {other} (x, y) is one of the classifier's (ant, bee, cat, dog)\n"
            "call the folders as the classifier calls its classes\n",
        ),
        (
            (trained, "--data.root", root / "ant"),
            "a classifier is judged by labels, and there are none: they lie in no folders; put the images",
        ),
        ((trained, "--data.root", root, "--part", "test"), f"{root} has no test part; wanted a folder 'test'"),
        ((trained,), "no images are named: give --data.root a folder"),
        ((trained, "--data.root", root, "--worst=-1"), "worst is -1; give a number of mistakes of at least 0"),
        ((), "the run folder or encoder file is missing\nusage: selfsup evaluate RUN"),
    ]
    for words, message in told:
        assert call(monkeypatch, *words) == 2, words
        assert f"selfsup: {message}" in capsys.readouterr().err, words
    assert not (trained / "results").exists()
    twins = classifier(tmp_path / "twins", ("ant", "bee", "ant"))
    assert call(monkeypatch, twins, "--data.root", root, *QUICK) == 2
    assert "two classes of the classifier are called ant; they cannot be told by name" in capsys.readouterr().err


def test_help_shows_a_use(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    assert "selfsup evaluate runs/birds/finetune_10pct --data.root new_labels/" in said
    assert "--worst" in said
