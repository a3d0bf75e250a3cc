"""Image files that are cut short, read as far as they go: only where it is asked for, and counted."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from selfsup.data.base import UnreadableImage
from selfsup.data.quiet import tolerant

Found = TypeVar("Found")


class CutShort:
    """Which images of a data set were cut short: one account for all processes that decode, and for all parts of it.

    Args:
        count: of the images.
    """

    def __init__(self, count: int) -> None:
        self.flags = torch.zeros(count, dtype=torch.uint8).share_memory_()
        self.rows = torch.arange(count)

    def select(self, rows: Tensor) -> "CutShort":
        """The same account, of the images of `rows` alone."""
        part = CutShort.__new__(CutShort)
        part.flags, part.rows = self.flags, self.rows[rows]
        return part

    def decoded(self, index: int, decode: Callable[[], Found]) -> Found:
        """What `decode` returns, but what Pillow can read of a damaged file is taken, and the image is noted."""
        try:
            return decode()
        except UnreadableImage as error:
            try:
                with tolerant():
                    found = decode()
            except UnreadableImage:
                raise error from None
            self.flags[self.rows[index]] = 1
            return found

    def holds(self, index: int) -> bool:
        """Whether an image that has been decoded was cut short."""
        return bool(self.flags[self.rows[index]])

    def places(self) -> list[int]:
        """Of those that have been decoded so far."""
        return [int(place) for place in self.flags[self.rows].nonzero()]
