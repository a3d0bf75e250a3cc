"""Two data sets as one: labelled images of one domain, then unlabelled ones of another."""

from dataclasses import replace

import torch
from PIL import Image
from torch import Tensor

from selfsup.data.base import Source
from selfsup.data.deep import Depth
from selfsup.data.opening import labelled_part, open_part
from selfsup.data.settings import Data


class JoinedSource(Source):
    """The images of `first`, then those of `second`, without their labels."""

    def __init__(self, first: Source, second: Source) -> None:
        self.parts = (first, second)
        self.labels = torch.cat([first.labels, torch.full((len(second),), -1)])
        self.classes = first.classes
        self.rows = torch.arange(len(self.labels))  # positions in both parts together, kept by `select`

    def _part(self, index: int) -> tuple[Source, int]:
        row = int(self.rows[index])
        first, second = self.parts
        return (first, row) if row < len(first) else (second, row - len(first))

    def name(self, index: int) -> str:
        part, row = self._part(index)
        return part.name(row)

    def load(self, index: int) -> Image.Image:
        part, row = self._part(index)
        return part.load(row)

    def load_for_canvas(self, index: int, side: int) -> tuple[Image.Image, tuple[int, int]]:
        part, row = self._part(index)
        return part.load_for_canvas(row, side)

    def depth(self, index: int) -> Depth | None:
        part, row = self._part(index)
        return part.depth(row)

    def select(self, rows: Tensor) -> "JoinedSource":
        part = super().select(rows)
        part.rows = self.rows[rows]
        return part


def open_training(data: Data) -> Source:
    """The training images of a run; labelled ones of another domain, where `data.labelled_root` names some, come first.

    Raises:
        ValueError: as `open_source`; the labelled images have no labels.
    """
    if not data.labelled_root:
        return open_part(data, "train")
    first = labelled_part(open_part(replace(data, root=data.labelled_root, labels="auto"), "train"), "train")
    if int(first.labels.min()) < 0:
        raise ValueError(f"data.labelled_root {data.labelled_root} has no labels: {first.found.no_labels}")
    return JoinedSource(first, open_part(replace(data, labels="none"), "train"))
