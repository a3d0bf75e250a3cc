"""Several data sets as one."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from selfsup.augment.bands import Held, Picture
from selfsup.data.base import Header, Source
from selfsup.data.class_numbers import renumbered
from selfsup.data.deep import Depth
from selfsup.data.found import Found


class OfParts(Source):
    """Images that lie in several sources."""

    parts: tuple[Source, ...]  # at least one

    @abstractmethod
    def place(self, index: int) -> tuple[int, int]:
        """The number of the part that image `index` is from, and its position there."""

    @property
    def channels(self) -> int:
        return self.parts[0].channels

    def _part(self, index: int) -> tuple[Source, int]:
        number, row = self.place(index)
        return self.parts[number], row

    def name(self, index: int) -> str:
        part, row = self._part(index)
        return part.name(row)

    def load(self, index: int) -> Picture:
        part, row = self._part(index)
        return part.load(row)

    def load_for_canvas(self, index: int, side: int) -> tuple[Picture, tuple[int, int]]:
        part, row = self._part(index)
        return part.load_for_canvas(row, side)

    def load_for_crop(self, index: int) -> Held:
        part, row = self._part(index)
        return part.load_for_crop(row)

    def depth(self, index: int) -> Depth | None:
        part, row = self._part(index)
        return part.depth(row)

    def header(self, index: int) -> Header | None:
        part, row = self._part(index)
        return part.header(row)

    def is_cut_short(self, index: int) -> bool:
        part, row = self._part(index)
        return part.is_cut_short(row)


class JoinedSource(OfParts):
    """The images of the first part, then those of the second, and so on.

    Args:
        parts: at least one.
        labels: (N,) int64 of all images.
        classes: their names.
        titles: what each part is called, which stands before the names of its images where content is told.
    """

    def __init__(
        self, parts: Sequence[Source], labels: Tensor, classes: tuple[str, ...], titles: Sequence[str]
    ) -> None:
        self.parts, self.titles = tuple(parts), tuple(titles)
        self.labels, self.classes = labels, classes
        self.ends = torch.tensor([len(part) for part in parts]).cumsum(0)
        self.rows = torch.arange(len(labels))  # positions in all parts together, kept by `select`

    def place(self, index: int) -> tuple[int, int]:
        row = int(self.rows[index])
        number = int(torch.searchsorted(self.ends, row, right=True))
        return number, row - (int(self.ends[number - 1]) if number else 0)

    def chosen(self) -> list[Source]:
        """Of each part the images that are here, in their order here."""
        starts = torch.cat([torch.tensor([0]), self.ends])
        rows = [self.rows[(self.rows >= start) & (self.rows < end)] - start for start, end in pairwise(starts)]
        return [part.select(own) for part, own in zip(self.parts, rows, strict=True)]

    def names_cut_short(self) -> list[str]:
        return [name for part in self.chosen() for name in part.names_cut_short()]

    def select(self, rows: Tensor) -> "JoinedSource":
        part = super().select(rows)
        part.rows = self.rows[rows]
        return part


def two_domains(first: Source, second: Source) -> JoinedSource:
    """The images of `first`, then those of `second` without their labels."""
    labels = torch.cat([first.labels, torch.full((len(second),), -1)])
    return JoinedSource((first, second), labels, first.classes, ("labelled/", "unlabelled/"))


def joined(sources: Sequence[Source], roots: Sequence[str]) -> Source:
    """Data sets of several roots as one, their classes matched by name: those of the first root come first.

    Args:
        sources: what was found.
        roots: where each of them lies, for the account.
    """
    if len(sources) == 1:
        return sources[0]
    classes = tuple(dict.fromkeys(name for source in sources for name in source.classes))
    shared = [name for name in classes if sum(name in part.classes for part in sources) > 1]
    pairs = list(zip(sources, roots, strict=True))
    told = [f"{len(part):,} from {root} ({_classes(len(part.classes))})" for part, root in pairs]
    labels = torch.cat([renumbered(source, classes).labels for source in sources])
    source = JoinedSource(sources, labels, classes, [f"{number}/" for number in range(1, len(sources) + 1)])
    read_as = [f"in {root}: {note}" for part, root in pairs for note in part.found.read_as]
    left_out = [f"in {root}: {note}" for part, root in pairs for note in part.found.left_out]
    together = f"{', '.join(told)}; {_classes(len(shared))} in more than one by name"
    source.found = Found((together, *read_as), tuple(left_out), sources[0].found.no_labels)
    return source


def noted(source: Source, note: str) -> Source:
    """The source, with a phrase more of how it was read."""
    source.found = replace(source.found, read_as=(*source.found.read_as, note))
    return source


def _classes(count: int) -> str:
    return f"{count} class{'' if count == 1 else 'es'}"
