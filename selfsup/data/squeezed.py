"""Images that are squeezed to squares, and what is known of them beside their pixels, wherever these are held."""

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from selfsup.augment.bands import Picture
from selfsup.data.base import ArraySource, Source, UnreadableImage


class Squeezed(ArraySource):
    """Squares that images were squeezed to, whose aspect ratio is not kept.

    `unreadable` lists those that could not be read, number -> reason, and `substitute` (N,) int64 leads from each of
    them to the next readable image, cyclically, from any other to itself. The row of an unreadable image is black.

    Args:
        images: (N, C, S, S) uint8.
        sizes: (N, 2) int64, the original heights and widths.
        unreadable: as above.
        labels, classes, origin: as for ArraySource.
    """

    def __init__(
        self,
        images: Tensor,
        sizes: Tensor,
        unreadable: dict[int, str],
        labels: Tensor,
        classes: tuple[str, ...],
        origin: str = "array",
    ) -> None:
        super().__init__(images, labels, classes, origin)
        self.sizes = sizes
        self.unreadable = unreadable
        self.substitute = _next_readable(len(sizes), unreadable)

    def load(self, index: int) -> Picture:
        if index in self.unreadable:
            raise UnreadableImage(self.name(index), self.unreadable[index])
        return super().load(index)

    def load_for_canvas(self, index: int, side: int) -> tuple[Picture, tuple[int, int]]:
        height, width = self.sizes[index].tolist()
        return self.load(index), (height, width)

    def select(self, rows: Tensor) -> Self:
        part = super().select(rows)
        part.sizes = self.sizes[rows]
        part.unreadable = {new: self.unreadable[old] for new, old in enumerate(rows.tolist()) if old in self.unreadable}
        part.substitute = _next_readable(len(rows), part.unreadable)
        return part


def _next_readable(length: int, unreadable: dict[int, str]) -> Tensor:
    substitute = torch.arange(length)
    for _ in range(2):  # twice round, for a run of unreadable images that goes over the end
        for index in reversed(unreadable):
            substitute[index] = substitute[(index + 1) % length]
    return substitute


def squeeze(source: Source, rows: Tensor, canvas: int) -> tuple[Tensor, Tensor, dict[int, str]]:
    """Decode the images of `rows`, (B,) int64, and squeeze them to canvas x canvas.

    Returns:
        (B, C, canvas, canvas) uint8, (B, 2) int64 original heights and widths, and number -> reason of the unreadable
        ones, in order, whose rows are black.
    """
    images = torch.zeros(len(rows), source.channels, canvas, canvas, dtype=torch.uint8)
    sizes = torch.zeros(len(rows), 2, dtype=torch.int64)
    return images, sizes, squeeze_into(images, sizes, source, rows, canvas)


def squeeze_into(images: Tensor, sizes: Tensor, source: Source, rows: Tensor, canvas: int) -> dict[int, str]:
    """`squeeze` into images and sizes that are zeros; returns number -> reason of the unreadable ones."""
    unreadable: dict[int, str] = {}

    def fill(row: int, index: int) -> None:
        try:
            image, size = source.load_for_canvas(index, canvas)
        except UnreadableImage as error:
            unreadable[index] = error.reason
            return
        square = image.resize((canvas, canvas), Image.Resampling.BILINEAR)
        images[row] = torch.from_numpy(np.array(square)).permute(2, 0, 1)
        sizes[row] = torch.tensor(size)

    # Threads suffice: Pillow decodes and resizes without holding the interpreter's lock.
    with ThreadPoolExecutor(cores()) as pool:
        for _ in pool.map(fill, range(len(rows)), rows.tolist()):
            pass
    return dict(sorted(unreadable.items()))


def cores() -> int:
    """Those that are this process's share of the machine."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
