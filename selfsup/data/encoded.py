"""Images whose files lie within larger ones: entries of archives, cells of tables."""

import io
from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

import numpy as np
from torch import Tensor

from selfsup.augment.bands import Held, Picture
from selfsup.data.base import Header, Source, UnreadableImage
from selfsup.data.channels import Channels, channel_count
from selfsup.data.decode import decode, decode_held, header_of, measured_depth
from selfsup.data.deep import Depth
from selfsup.data.levels import Levels
from selfsup.data.truncated import CutShort

MAX_BYTES = 1 << 29  # of one image file, unpacked
Found = TypeVar("Found")


class Holders(NamedTuple):
    """The files that hold the images."""

    files: list[Path]
    of: np.ndarray  # (N,) int64: which one of `files` holds each image


class Decoded(Source):
    """Images that are decoded from files of their own, or from the bytes of such files.

    Subclasses set `labels`, `classes`, and:
        paths: (N,) bytes, the names of the images below the data's root, in the order of numbering.
        levels: how pixels of more than 8 bits become 8.
    """

    paths: np.ndarray
    levels: Levels
    kept: Channels = "rgb"  # the channels that files are read with
    cut_short: CutShort | None = None  # where files that are cut short are read as far as they go, an account of them

    @property
    def channels(self) -> int:
        return channel_count(self.kept)

    @abstractmethod
    def _content(self, index: int) -> Path | io.BytesIO:
        """The file of image `index`, or its bytes. Raises UnreadableImage."""

    def load(self, index: int) -> Picture:
        file, name = self._content(index), self.name(index)
        return self._noted(index, lambda: decode(file, name, None, self.levels, self.kept))[0]

    def load_for_canvas(self, index: int, side: int) -> tuple[Picture, tuple[int, int]]:
        file, name = self._content(index), self.name(index)
        return self._noted(index, lambda: decode(file, name, side, self.levels, self.kept))

    def load_for_crop(self, index: int) -> Held:
        file, name = self._content(index), self.name(index)
        return self._noted(index, lambda: decode_held(file, name, self.levels, self.kept))

    def depth(self, index: int) -> Depth | None:
        try:
            return measured_depth(self._content(index))
        except UnreadableImage:  # counted where it is decoded
            return None

    def header(self, index: int) -> Header | None:
        try:
            return header_of(self._content(index))
        except UnreadableImage:  # counted where it is decoded
            return None

    def _noted(self, index: int, decode: Callable[[], Found]) -> Found:
        return decode() if self.cut_short is None else self.cut_short.decoded(index, decode)

    def select(self, rows: Tensor) -> Self:
        part = super().select(rows)
        part.paths = self.paths[rows.numpy()]
        part.cut_short = self.cut_short.select(rows) if self.cut_short else None
        return part

    def names_cut_short(self) -> list[str]:
        return [self.name(place) for place in self.cut_short.places()] if self.cut_short else []

    def is_cut_short(self, index: int) -> bool:
        return self.cut_short is not None and self.cut_short.holds(index)


class EncodedSource(Decoded):
    """Images by the bytes of their files, which `content` reads."""

    @abstractmethod
    def content(self, index: int) -> bytes:
        """The bytes of the file of image `index`. Raises UnreadableImage."""

    @abstractmethod
    def sizes(self) -> np.ndarray:
        """(N,) int64: bytes of the image files, as what holds them states; -1 where it cannot be read."""

    @abstractmethod
    def holders(self) -> Holders:
        """The files that hold the images: where one is unchanged, so are the images in it."""

    def _content(self, index: int) -> io.BytesIO:
        return io.BytesIO(self.content(index))

    def path(self, index: int) -> str:
        """The name of image `index` below the data's root."""
        found: bytes = self.paths[index]
        return found.decode("utf-8", "surrogateescape")


def pack_names(paths: Sequence[str]) -> np.ndarray:
    """(N,) bytes. One block: a million str objects would be copied into every worker as their counts change."""
    return np.array([path.encode("utf-8", "surrogateescape") for path in paths], dtype=np.bytes_)
