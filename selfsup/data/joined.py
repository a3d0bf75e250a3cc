"""Two data sets as one: labelled images of one domain, then unlabelled ones of another."""

import torch
from PIL import Image
from torch import Tensor

from selfsup.config import Data
from selfsup.data.base import Source
from selfsup.data.sources import open_source


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
        return open_source(data.root, "train", labels=data.labels, limit=data.limit)
    first = open_source(data.labelled_root, "train", limit=data.limit)
    if int(first.labels.min()) < 0:
        raise ValueError(
            f"data.labelled_root {data.labelled_root} has no labels; put the images of each class in "
            "a folder of its own"
        )
    return JoinedSource(first, open_source(data.root, "train", labels="none", limit=data.limit))
