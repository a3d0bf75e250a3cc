"""Labels from a table: what class folders say, a table says to the same bits; what it cannot mean is refused."""

import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from selfsup.data.base import NoTestPart
from selfsup.data.columns import Columns
from selfsup.data.identity import manifest_of
from selfsup.data.labelled import image_names
from selfsup.data.loader import Loader
from selfsup.data.opening import open_part
from selfsup.data.parts import open_data
from selfsup.data.settings import Data
from selfsup.data.sources import Source, open_source
from selfsup.evaluation.logistic import FeatureProbe
from selfsup.pretraining import learnt_from
from selfsup.stages.knn import KNN, run_knn
from selfsup.stages.linear import run_linear
from tests.support.encoders import export_untrained
from tests.support.pictures import folder_of
from tests.support.tiny import photographs, tiny_run

CLASSES = ("cat", "ant", "bee")
PARTS = {"train": ("cat", "ant", "bee"), "val": ("cat", "bee")}


def written(file: Path, rows: list[tuple[str, ...]], names: tuple[str, ...] = ("path", "label")) -> str:
    """A table of one of the three forms, by the end of its name."""
    delimiter = {".csv": ",", ".tsv": "\t"}.get(file.suffix, " ")
    lines = [*([names] if file.suffix in (".csv", ".tsv") else []), *rows]
    file.write_text("".join(delimiter.join(line) + "\n" for line in lines))
    return str(file)


def by_folders(root: Path, place: Path | None = None) -> list[tuple[str, ...]]:
    """A line for each image, of the class that its folder names, from the last to the first."""
    paths = sorted((path for path in root.rglob("*.png")), reverse=True)
    return [(str(path.relative_to(place or root)), path.parent.name) for path in paths]


def equal(one: Source, other: Source) -> bool:
    return manifest_of(one).digest == manifest_of(other).digest


@pytest.mark.parametrize("kind", ["csv", "tsv", "txt"])
@pytest.mark.parametrize("place", ["in the root", "elsewhere", "beside, from the file"])
def test_a_table_says_what_class_folders_say(tmp_path: Path, kind: str, place: str) -> None:
    root = folder_of(tmp_path / "data", 12, CLASSES)
    file = {"in the root": root, "elsewhere": tmp_path / "other", "beside, from the file": tmp_path}[
        place
    ] / f"l.{kind}"
    file.parent.mkdir(exist_ok=True)
    table = written(file, by_folders(root, tmp_path if "beside" in place else None))
    folders, labelled = open_source(str(root)), open_source(str(root), labels=table)
    assert equal(folders, labelled)
    assert labelled.classes == ("ant", "bee", "cat")
    batches = [
        list(Loader(source, batch_size=4, seed=1, device=torch.device("cpu"), canvas=8).epoch(2))
        for source in (folders, labelled)
    ]
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("packed", [False, True])
def test_parts_of_folders_are_labelled_by_a_table_too(tmp_path: Path, packed: bool) -> None:
    root = tmp_path / "data"
    for part, classes in PARTS.items():
        folder_of(root / part, 6, classes)
    table = written(tmp_path / "labels.csv", by_folders(root))
    where = str(root)
    if packed:
        with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
            for path in root.rglob("*.png"):
                archive.write(path, path.relative_to(root))
        where = str(tmp_path / "data.zip")
    for split in ("train", "test"):
        assert equal(open_source(str(root), split), open_source(where, split, labels=table))  # type: ignore[arg-type]


def test_the_split_column_divides_one_folder(tmp_path: Path) -> None:
    root = folder_of(tmp_path, 9, CLASSES)
    paths = [path for path, _ in by_folders(root)][::-1]  # ant 3 to 5, bee 6 to 8, cat 0 to 2
    words = ["train", "val", "TRAIN", "train", "", "train", "test", "train"]
    labels = ["b", "b", "a", "", "a", "b", "c", "b"]
    rows = list(zip(paths, labels, words, strict=False))  # the last image is not named
    table = written(tmp_path / "l.csv", rows, ("path", "label", "split"))
    train, test = open_source(str(root), labels=table), open_source(str(root), "test", labels=table)
    assert [Path(train.name(n)).relative_to(root).as_posix() for n in range(len(train))] == [
        paths[n] for n in (0, 2, 3, 5, 7)
    ]
    assert train.classes == ("a", "b")
    assert train.labels.tolist() == [1, 0, -1, 1, 1]
    assert image_names(test) == [paths[6]]  # test before val
    assert test.classes == ("c",)
    for word in (paths[8], paths[4], paths[1], "of the part val", "does not name", "of no part"):
        assert word in "; ".join(test.found.left_out)
    undivided = open_source(str(root), labels=table, columns=Columns(split=""))
    assert len(undivided) == 9
    assert "1 image (cat/0002.png) that it does not name without a label" in "; ".join(undivided.found.read_as)


def test_other_columns_a_mark_at_the_beginning_and_images_without_a_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder_of(tmp_path / "data", 4)
    rows = ["file,kind,fold", "./0000.png,x,training", f"{root}/0001.png,y,train", "0003.png,,test set"]
    (tmp_path / "t.CSV").write_bytes("\n".join(rows).encode("utf-8-sig"))
    data = Data(
        root=str(root), labels=str(tmp_path / "t.CSV"), path_column="file", label_column="kind", split_column="fold"
    )
    train, test = open_part(data, "train"), open_part(data, "test")
    assert (train.labels.tolist(), train.classes, test.labels.tolist()) == ([0, 1], ("x", "y"), [-1])
    told = capsys.readouterr().err
    assert "2 training images, 2 classes; labels from t.CSV; parts from its split column; left out: 1 image" in told
    assert "1 test images without labels (t.CSV gives none of these images a label)" in told


def test_identity_changes_with_a_label_and_not_with_the_place(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data", 6, CLASSES)
    rows = by_folders(root)
    before = manifest_of(open_source(str(root), labels=written(tmp_path / "l.csv", rows)))
    shutil.copytree(root, tmp_path / "moved")
    moved = manifest_of(open_source(str(tmp_path / "moved"), labels=written(tmp_path / "m.tsv", rows)))
    assert moved.digest == before.digest
    rows[0] = (rows[0][0], "ant")
    after = manifest_of(open_source(str(root), labels=written(tmp_path / "l.csv", rows)))
    assert after.digest != before.digest


def test_stages_judge_by_a_table_as_by_folders(tmp_path: Path) -> None:
    root = photographs(tmp_path / "data", 40)
    rows = [(path.relative_to(root).as_posix(), path.parent.name) for path in root.rglob("*.jpg")]
    run = tiny_run(tmp_path)
    torch.manual_seed(0)
    encoder = export_untrained(tmp_path, run.encoder, run.feed)
    results = []
    for labels in ("auto", written(tmp_path / "l.csv", rows)):
        data = Data(root=str(root), canvas=16, labels=labels, holdout=0.3)
        results.append(run_knn(encoder, KNN(data=data, device="cpu", workers=0, k=(3,))).results)
        results[-1] += run_linear(encoder, FeatureProbe(data=data, device="cpu", workers=0, l2=(0.1,))).results
    assert results[0] == results[1]
    assert learnt_from(tiny_run(tmp_path, "supcon"), open_data(data, "train")).labels.min() >= 0


def test_paths_of_windows_fit_where_those_of_the_folder_do_not(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "data", 4, ("a", "b"))
    words = "".join(
        f".\\{path.parent.name}\\{path.name},{path.parent.name}\r\n" for path in sorted(root.rglob("*.png"))
    )
    (tmp_path / "l.csv").write_bytes(f"path,label\r\n{words}".encode())
    source = open_source(str(root), labels=str(tmp_path / "l.csv"))
    assert source.labels.tolist() == open_source(str(root)).labels.tolist() == [0, 0, 1, 1]
    own = folder_of(tmp_path / "own", 1)
    (own / "0000.png").rename(own / "a\\b.png")  # a name that has one stays what it is
    (tmp_path / "l.csv").write_text("path,label\na\\b.png,x\n")
    assert open_source(str(own), labels=str(tmp_path / "l.csv")).classes == ("x",)


def refused_tables(root: Path) -> dict[str, tuple[str, bytes, str]]:
    return {
        "missing": (
            "l.csv",
            b"path,label\n0000.png,a\nx.png,b\ny.png,b\n",
            r"2 of 3 images .* the first is x.png \(line 3\)",
        ),
        "two labels": ("l.csv", b"path,label\n0000.png,a\n./0000.png,b\n", "the label 'a' in line 2 and 'b' in line 3"),
        "two splits": (
            "l.csv",
            b"path,label,split\n0000.png,a,train\n0000.png,a,test\n",
            "the split 'train' in line 2 and 'test' in line 3",
        ),
        "no column": (
            "l.csv",
            b"name,label\n0000.png,a\n",
            "0 columns path .its first line is name, label.*--data.path-",
        ),
        "one column twice": ("l.csv", b"path,label,label\n0000.png,a,b\n", "2 columns label"),
        "other delimiter": ("l.csv", b"path;label\n0000.png;a\n", "0 columns path .its first line is path;label"),
        "short": ("l.tsv", b"path\tlabel\n0000.png\n", "line 2: it has no path, or ends"),
        "no path": ("l.tsv", b"path\tlabel\n\ta\n", "line 2: it has no path, or ends"),
        "one word": ("l.txt", b"0000.png a\n\n0001.png\n", "line 3 is 0001.png; wanted a path and a label"),
        "empty": ("l.csv", b"path,label\n", "names no image"),
        "no file": ("m.csv", b"", "cannot read data.labels .*wanted auto, none or a table"),
        "unknown part": ("l.csv", b"path,label,split\n0000.png,a,fold3\n", "line 2: the split is fold3; wanted train"),
        "no training": ("l.csv", b"path,label,split\n0000.png,a,test\n", "no line of the training part"),
        "a large cell": ("l.csv", b"path,label\n" + b"x" * 200_000, "not a readable table"),
        "two bytes a letter": (
            "l.csv",
            "path,label\n0000.png,a\n".encode("utf-16"),
            "is no text in UTF-8",
        ),
        "a picture": ("l.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is no text in UTF-8; wanted a table"),
        "nothing": ("l.csv", b"", r"it is empty\); wanted a first line path,label"),
        "semicolons": ("l.csv", b"path;label\n0000.png;a\n", "parted by semicolons: save it with commas"),
        "commas": ("l.tsv", b"path,label\n0000.png,a\n", "parted by commas: save it with commas as .csv"),
        "no heading": ("l.csv", b"0000.png,a\n", "or begin with a line path,label"),
    }


@pytest.mark.parametrize("case", refused_tables(Path()))
def test_what_a_table_cannot_mean_is_refused(tmp_path: Path, case: str) -> None:
    root = folder_of(tmp_path / "data", 3)
    name, content, words = refused_tables(root)[case]
    (tmp_path / "l.csv").write_bytes(b"")
    if case != "no file":
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        open_source(str(root), labels=str(tmp_path / name))


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "array": (lambda path: open_source("shapes:20", labels=str(path)), "shapes:20 holds none"),
    "two roots": (lambda path: Data(root=("a", "b"), labels=str(path)), "of the images of one root"),
    "two domains": (lambda path: Data(root="a", labelled_root="b", labels=str(path)), "no data.labelled_root"),
    "no column": (
        lambda path: open_source(str(path.parent), labels=str(path), columns=Columns(split="fold")),
        "name the one that holds the split by --data.split-column",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_where_no_table_fits_is_said(tmp_path: Path, case: str) -> None:
    folder_of(tmp_path, 2)
    call, words = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(words)):
        call(Path(written(tmp_path / "l.csv", [("0000.png", "a")])))


def test_without_a_test_line_there_is_no_test_part(tmp_path: Path) -> None:
    root = folder_of(tmp_path, 2)
    table = written(tmp_path / "l.csv", [("0000.png", "a", "train")], ("path", "label", "split"))
    with pytest.raises(NoTestPart, match="no line of a test part"):
        open_source(str(root), "test", labels=table)
