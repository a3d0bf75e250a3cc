"""Images that are files of their own: in folders, or one per entry of a zip archive."""

import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image
from torch import Tensor

from selfsup.data.base import Source, UnreadableImage
from selfsup.data.decode import Content, decode, measured_depth
from selfsup.data.deep import Depth
from selfsup.data.levels import FULL, Levels
from selfsup.data.truncated import CutShort

MAX_BYTES = 1 << 29  # of one entry of an archive, unpacked


class _Files(Source):
    """What both kinds share: names, how they are decoded, and which were cut short."""

    paths: np.ndarray  # (N,) bytes
    levels: Levels
    cut_short: CutShort | None

    def _decoded(self, index: int, file: Content, side: int | None) -> tuple[Image.Image, tuple[int, int]]:
        if self.cut_short is None:
            return decode(file, self.name(index), side, self.levels)
        return self.cut_short.decoded(index, file, self.name(index), side, self.levels)

    def select(self, rows: Tensor) -> Self:
        part = super().select(rows)
        part.paths = self.paths[rows.numpy()]
        part.cut_short = self.cut_short.select(rows) if self.cut_short else None
        return part

    def names_cut_short(self) -> list[str]:
        return [self.name(place) for place in self.cut_short.places()] if self.cut_short else []


class FileSource(_Files):
    """Image files below a folder.

    Args:
        root: the folder.
        paths: relative POSIX paths in the order of numbering.
        labels, classes: as `layout.class_labels` returns them.
        levels: how pixels of more than 8 bits become 8.
        truncated: whether files that are cut short are read as far as they go.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        labels: Tensor,
        classes: tuple[str, ...] = (),
        levels: Levels = FULL,
        truncated: bool = False,
    ) -> None:
        self.root = root
        self.levels = levels
        self.labels = labels
        self.classes = classes
        self.paths = _pack_names(paths)
        self.cut_short = CutShort(len(paths)) if truncated else None

    def name(self, index: int) -> str:
        return str(self.root / self.paths[index].decode("utf-8", "surrogateescape"))

    def load(self, index: int) -> Image.Image:
        return self._decoded(index, self._file(index), None)[0]

    def load_for_canvas(self, index: int, side: int) -> tuple[Image.Image, tuple[int, int]]:
        return self._decoded(index, self._file(index), side)

    def depth(self, index: int) -> Depth | None:
        return measured_depth(self._file(index))

    def _file(self, index: int) -> Path:
        return self.root / os.fsdecode(self.paths[index])


class ZipSource(_Files):
    """Images in a zip archive, read in place: nothing is extracted, so a name such as `../x.jpg` can do no harm.

    Args:
        archive: the zip file.
        prefix: leading part of the entries' names that is not part of `paths`.
        paths, labels, classes, levels, truncated: as for FileSource.
    """

    def __init__(
        self,
        archive: Path,
        prefix: str,
        paths: Sequence[str],
        labels: Tensor,
        classes: tuple[str, ...] = (),
        levels: Levels = FULL,
        truncated: bool = False,
    ) -> None:
        self.archive = archive
        self.levels = levels
        self.prefix = prefix
        self.labels = labels
        self.classes = classes
        self.paths = _pack_names(paths)
        self.cut_short = CutShort(len(paths)) if truncated else None
        self._open: tuple[int, zipfile.ZipFile] | None = None

    def name(self, index: int) -> str:
        return f"{self.archive}[{self._entry(index)}]"

    def load(self, index: int) -> Image.Image:
        return self._decoded(index, self._read(index), None)[0]

    def load_for_canvas(self, index: int, side: int) -> tuple[Image.Image, tuple[int, int]]:
        return self._decoded(index, self._read(index), side)

    def depth(self, index: int) -> Depth | None:
        try:
            return measured_depth(self._read(index))
        except UnreadableImage:  # counted where it is decoded
            return None

    def content(self, index: int) -> bytes:
        """The bytes of entry `index`. Raises UnreadableImage."""
        return self._read(index).getvalue()

    def sizes(self) -> np.ndarray:
        """(N,) int64: bytes of the entries, as the archive states them; -1 where it cannot be read."""
        try:
            archive = self._archive()
            return np.array([archive.getinfo(self._entry(index)).file_size for index in range(len(self))], np.int64)
        except Exception:  # damaged archives raise nearly every class there is
            return np.full(len(self), -1)

    def _entry(self, index: int) -> str:
        path: bytes = self.paths[index]
        return self.prefix + path.decode("utf-8", "surrogateescape")

    def _read(self, index: int) -> io.BytesIO:
        try:
            archive = self._archive()
            entry = archive.getinfo(self._entry(index))
            if entry.file_size > MAX_BYTES:  # zipfile reads no more than this figure, whatever the entry holds
                raise ValueError(f"unpacks to {entry.file_size:,} bytes, more than {MAX_BYTES:,}")
            return io.BytesIO(archive.read(entry))
        except Exception as error:  # a damaged, encrypted or oddly compressed entry
            raise UnreadableImage(self.name(index), f"{type(error).__name__}: {error}") from error

    def _archive(self) -> zipfile.ZipFile:
        # Once per process: a forked worker shares its parent's file position, so it needs a handle of its own.
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), zipfile.ZipFile(self.archive))
        return self._open[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}


def _pack_names(paths: Sequence[str]) -> np.ndarray:
    # One block of bytes: a million str objects would be copied into every worker as their reference counts change.
    return np.array([path.encode("utf-8", "surrogateescape") for path in paths], dtype=np.bytes_)
