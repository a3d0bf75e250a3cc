"""Labels from a table: a CSV or TSV file, or lines `path label`, and which part of the data each image is of."""

import csv
import io
import os
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from selfsup.data.base import NoTestPart
from selfsup.data.columns import Columns
from selfsup.data.found import Found, named
from selfsup.data.layout import TEST_WORDS, TRAIN_WORDS, Arranged, Classes, Split, part_word
from selfsup.data.listing import Listing
from selfsup.storage.untrusted import plain_name, read_bytes

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_OTHERS = {"semicolons": ";", "tabs": "\t", "commas": ","}  # what may stand between the words of a wrong one
_LARGEST = 1 << 30  # bytes


class Line(NamedTuple):
    """What a table says of an image."""

    number: int  # of the line, from 1
    path: str  # as it stands there
    label: str  # "" where it has none
    split: str  # "" where it has none


class LabelFile:
    """A table of labels, with the images of one folder or archive that it names.

    Args:
        file: the table, as `read_lines` reads it.
        columns: what its columns are called.
        images: relative POSIX paths of all images below `root`.
        root: the folder or archive. Paths in the table are from there, or from the folder of the table itself: of both
            what more of them fit, from `root` where both fit alike.

    Raises:
        ValueError: the table cannot be read, names images that are not there, or says two things of one image.
    """

    def __init__(self, file: Path, columns: Columns, images: Sequence[str], root: Path) -> None:
        self.file = file
        lines, self.divides = read_lines(file, columns)
        known, here = set(images), os.path.abspath(root)
        bases = _bases(file, root)
        readings = [(base, [(_below(here, base, line.path), line) for line in lines]) for base in bases]
        if any("\\" in line.path for line in lines):  # paths of Windows; where these fit no better, as they stand
            slashed = [line._replace(path=line.path.replace("\\", "/")) for line in lines]
            readings += [(base, [(_below(here, base, line.path), line) for line in slashed]) for base in bases]
        base, placed = min(readings, key=lambda reading: sum(place not in known for place, _ in reading[1]))
        if missing := [line for place, line in placed if place not in known]:
            raise ValueError(
                f"{file} names {len(missing):,} of {len(lines):,} images that are not in {root}, the first is "
                f"{plain_name(missing[0].path)} (line {missing[0].number}); paths are from data.root or from the "
                "folder of the file: check both, or take these lines out"
            )
        self.from_file = bool(base)
        self.lines = _once(file, placed)

    def classes(self, paths: Sequence[str], known: Sequence[str] = ()) -> Classes:
        """Labels of images, numbered as `layout.class_labels` numbers folders: in the order of the words' code points.

        Args:
            paths: of the images, from the root.
            known: class names of the training part, which keep their numbers.
        """
        words = [self.lines[path].label if path in self.lines else "" for path in paths]
        found = sorted(set(words) - {""})
        same = bool(set(known) & set(found))
        names = (*known, *(name for name in found if name not in known)) if same else tuple(found)
        number = {name: label for label, name in enumerate(names)} | {"": -1}
        notes = [f"labels from {plain_name(self.file.name)}{' (paths from its folder)' if self.from_file else ''}"]
        if not self.divides and (strange := [path for path in paths if path not in self.lines]):
            notes.append(f"{named(strange, 'image')} that it does not name without a label")
        labels = torch.tensor([number[word] for word in words], dtype=torch.int64)
        return Classes(labels, names, notes, f"{self.file.name} gives none of these images a label")

    def arranged(self, listing: Listing, split: Split) -> Arranged:
        """The images of one part, as the table divides them.

        Raises:
            NoTestPart: no line is of the test part.
            ValueError: a line is of a part that has no known name, or none is of the training part.
        """
        words = {path: self._part(line) for path, line in self.lines.items()}
        tests = [word for word in TEST_WORDS if word in words.values()]
        wanted = TRAIN_WORDS if split == "train" else tuple(tests[:1])
        paths = sorted(path for path, word in words.items() if word in wanted)
        if not paths and split == "test":
            raise NoTestPart(f"{self.file} has no line of a test part; wanted the word test or val in its split column")
        if not paths:
            raise ValueError(f"{self.file} has no line of the training part; wanted the word train in its split column")
        known = sorted({self.lines[path].label for path, word in words.items() if word in TRAIN_WORDS} - {""})
        classes = self.classes(paths, known if split == "test" else ())
        left_out = []
        if strange := [path for path in listing.images if path not in words]:
            left_out.append(f"{named(strange, 'image')} that {plain_name(self.file.name)} does not name")
        if bare := sorted(path for path, word in words.items() if not word):
            left_out.append(f"{named(bare, 'image')} of no part in it")
        for other in tests[1:]:
            more = sorted(path for path, word in words.items() if word == other)
            left_out.append(f"{named(more, 'image')} of the part {other}")
        notes = (*classes.notes, "parts from its split column")
        return Arranged("", paths, classes.labels, classes.names, Found(notes, tuple(left_out), classes.no_labels))

    def _part(self, line: Line) -> str:
        word = part_word(line.split)
        if line.split and word not in (*TRAIN_WORDS, *TEST_WORDS):
            raise ValueError(
                f"{self.file}, line {line.number}: the split is {plain_name(line.split, 80)}; wanted train, test, val "
                "or nothing, or --data.split-column '' to leave this column alone"
            )
        return word


def read_lines(file: Path, columns: Columns) -> tuple[list[Line], bool]:
    """The lines of a table, and whether it has a column that divides them into parts.

    A name that ends in .csv or .tsv is a table with a line of names, any other a list of lines `path label`, where the
    label is the last word, so that a path may have spaces. Words are stripped.

    Raises:
        ValueError: it cannot be read, lacks a column, or a line is cut short or empty.
    """
    try:
        content = read_bytes(file, _LARGEST)
    except OSError as error:
        raise ValueError(f"cannot read data.labels {file}: {error.strerror}; wanted auto, none or a table") from error
    if b"\0" in content:
        raise ValueError(f"{file} is no text in UTF-8; wanted a table: save it as CSV (UTF-8), its name ending in .csv")
    text = content.decode("utf-8-sig", "surrogateescape")
    delimiter = _DELIMITERS.get(file.suffix.lower())
    if delimiter is None:
        lines, divides = list(_plain_lines(file, text)), False
    else:
        try:
            lines, divides = _table(file, csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter), columns)
        except csv.Error as error:
            raise ValueError(f"{file} is not a readable table: {error}") from error
    if not lines:
        raise ValueError(f"{file} names no image; wanted a path and a label in each line")
    return lines, divides


def _plain_lines(file: Path, text: str) -> Iterator[Line]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip().rsplit(None, 1)
        if len(words) == 1:
            raise ValueError(f"{file}, line {number} is {plain_name(words[0], 80)}; wanted a path and a label")
        if words:
            yield Line(number, words[0], words[1], "")


def _table(file: Path, rows: "csv.DictReader[str]", columns: Columns) -> tuple[list[Line], bool]:
    names = [name.strip() for name in rows.fieldnames or ()]
    rows.fieldnames = names
    divides = columns.split in names
    wanted = {"path": columns.path, "label": columns.label or "label"}
    if columns.split not in ("", "split"):
        wanted["split"] = columns.split
    for what, name in wanted.items():
        if names.count(name) != 1:
            raise ValueError(f"{file} has {names.count(name)} columns {plain_name(name, 80)} {_remedy(names, what)}")
    lines = []
    for row in rows:
        path, label = row[wanted["path"]], row[wanted["label"]]
        split = row[columns.split] if divides else ""
        if path is None or label is None or split is None or not path.strip():
            raise ValueError(f"{file}, line {rows.line_num}: it has no path, or ends before all columns are there")
        lines.append(Line(rows.line_num, path.strip(), label.strip(), split.strip()))
    return lines, divides


def _remedy(names: list[str], what: str) -> str:
    """What to do where a table has not one column that holds `what`: its first line begins the sentence part."""
    if not names:
        return "(it is empty); wanted a first line path,label and a line for each image"
    told = f"(its first line is {plain_name(', '.join(names), 200)}); "
    parted = next((other for other, mark in _OTHERS.items() if len(names) == 1 and mark in names[0]), "")
    if parted:
        return f"{told}it is parted by {parted}: save it with commas as .csv, or with tabs as .tsv"
    return f"{told}name the one that holds the {what} by --data.{what}-column, or begin with a line path,label"


def _bases(file: Path, root: Path) -> list[str]:
    """Folders that paths in the table may be from: "" for the root, and that of the table where it is another."""
    own = os.path.abspath(file.parent)
    return [""] if root.is_file() or own == os.path.abspath(root) else ["", own]


def _below(root: str, base: str, path: str) -> str:
    """A path of the table as one from the root."""
    if base or os.path.isabs(path):
        return os.path.relpath(os.path.join(base, path), root).replace(os.sep, "/")
    return posixpath.normpath(path)


def _once(file: Path, placed: list[tuple[str, Line]]) -> dict[str, Line]:
    lines: dict[str, Line] = {}
    for place, line in placed:
        before = lines.setdefault(place, line)
        for what in ("label", "split"):
            one, other = getattr(before, what), getattr(line, what)
            if one != other:
                raise ValueError(
                    f"{file} gives {plain_name(place)} the {what} {plain_name(one, 80)!r} in line {before.number} and "
                    f"{plain_name(other, 80)!r} in line {line.number}; an image has one: take a line out"
                )
    return lines
