"""Images that are files of their own: in folders, or one per entry of a zip archive."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from selfsup.data.base import UnreadableImage
from selfsup.data.encoded import MAX_BYTES, Decoded, EncodedSource, Holders, pack_names
from selfsup.data.levels import FULL, Levels


class FileSource(Decoded):
    """Image files below a folder.

    Args:
        root: the folder.
        paths: relative POSIX paths in the order of numbering.
        labels, classes: as `layout.class_labels` returns them.
        levels: how pixels of more than 8 bits become 8.
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[str],
        labels: Tensor,
        classes: tuple[str, ...] = (),
        levels: Levels = FULL,
    ) -> None:
        self.root = root
        self.levels = levels
        self.labels = labels
        self.classes = classes
        self.paths = pack_names(paths)

    def name(self, index: int) -> str:
        return str(self.root / self.paths[index].decode("utf-8", "surrogateescape"))

    def _content(self, index: int) -> Path:
        return self.root / os.fsdecode(self.paths[index])


class ZipSource(EncodedSource):
    """Images in a zip archive, read in place: nothing is extracted, so a name such as `../x.jpg` can do no harm.

    Args:
        archive: the zip file.
        prefix: leading part of the entries' names that is not part of `paths`.
        paths, labels, classes, levels: as for FileSource.
    """

    def __init__(
        self,
        archive: Path,
        prefix: str,
        paths: Sequence[str],
        labels: Tensor,
        classes: tuple[str, ...] = (),
        levels: Levels = FULL,
    ) -> None:
        self.archive = archive
        self.levels = levels
        self.prefix = prefix
        self.labels = labels
        self.classes = classes
        self.paths = pack_names(paths)
        self._open: tuple[int, zipfile.ZipFile] | None = None

    def name(self, index: int) -> str:
        return f"{self.archive}[{self._entry(index)}]"

    def content(self, index: int) -> bytes:
        try:
            archive = self._archive()
            entry = archive.getinfo(self._entry(index))
            if entry.file_size > MAX_BYTES:  # zipfile reads no more than this figure, whatever the entry holds
                raise ValueError(f"unpacks to {entry.file_size:,} bytes, more than {MAX_BYTES:,}")
            return archive.read(entry)
        except Exception as error:  # a damaged, encrypted or oddly compressed entry
            raise UnreadableImage(self.name(index), f"{type(error).__name__}: {error}") from error

    def sizes(self) -> np.ndarray:
        try:
            archive = self._archive()
            return np.array([archive.getinfo(self._entry(index)).file_size for index in range(len(self))], np.int64)
        except Exception:  # damaged archives raise nearly every class there is
            return np.full(len(self), -1)

    def holders(self) -> Holders:
        return Holders([self.archive], np.zeros(len(self), np.int64))

    def _entry(self, index: int) -> str:
        return self.prefix + self.path(index)

    def _archive(self) -> zipfile.ZipFile:
        # Once per process: a forked worker shares its parent's file position, so it needs a handle of its own.
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), zipfile.ZipFile(self.archive))
        return self._open[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}
