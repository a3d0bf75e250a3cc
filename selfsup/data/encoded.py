"""Images whose files lie within larger ones: entries of archives, cells of tables."""

import io
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from PIL import Image
from torch import Tensor

from selfsup.data.base import Source, UnreadableImage
from selfsup.data.decode import decode, measured_depth
from selfsup.data.deep import Depth
from selfsup.data.levels import Levels

MAX_BYTES = 1 << 29  # of one image file, unpacked


class Holders(NamedTuple):
    """The files that hold the images."""

    files: list[Path]
    of: np.ndarray  # (N,) int64: which one of `files` holds each image


class EncodedSource(Source):
    """Images by the bytes of their files, which `content` reads.

    Subclasses set `labels`, `classes`, and:
        paths: (N,) bytes, the names of the images below the data's root, in the order of numbering.
        levels: how pixels of more than 8 bits become 8.
    """

    paths: np.ndarray
    levels: Levels

    @abstractmethod
    def content(self, index: int) -> bytes:
        """The bytes of the file of image `index`. Raises UnreadableImage."""

    @abstractmethod
    def sizes(self) -> np.ndarray:
        """(N,) int64: bytes of the image files, as what holds them states; -1 where it cannot be read."""

    @abstractmethod
    def holders(self) -> Holders:
        """The files that hold the images: where one is unchanged, so are the images in it."""

    def load(self, index: int) -> Image.Image:
        return decode(io.BytesIO(self.content(index)), self.name(index), levels=self.levels)[0]

    def load_for_canvas(self, index: int, side: int) -> tuple[Image.Image, tuple[int, int]]:
        return decode(io.BytesIO(self.content(index)), self.name(index), side, self.levels)

    def depth(self, index: int) -> Depth | None:
        try:
            return measured_depth(io.BytesIO(self.content(index)))
        except UnreadableImage:  # counted where it is decoded
            return None

    def select(self, rows: Tensor) -> Self:
        part = super().select(rows)
        part.paths = self.paths[rows.numpy()]
        return part

    def path(self, index: int) -> str:
        """The name of image `index` below the data's root."""
        found: bytes = self.paths[index]
        return found.decode("utf-8", "surrogateescape")


def pack_names(paths: Sequence[str]) -> np.ndarray:
    """(N,) bytes. One block: a million str objects would be copied into every worker as their counts change."""
    return np.array([path.encode("utf-8", "surrogateescape") for path in paths], dtype=np.bytes_)
