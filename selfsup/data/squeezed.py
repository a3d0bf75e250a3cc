"""Images that were squeezed to squares: what is known of them beside their pixels, wherever these are held."""

from typing import Self

import torch
from torch import Tensor

from selfsup.augment.bands import Picture
from selfsup.data.base import ArraySource, UnreadableImage


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
