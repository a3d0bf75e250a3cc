"""Images that are files of their own: in folders, or one per entry of a zip archive."""

import io
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from selfsup.data.base import Source, UnreadableImage
from selfsup.data.decode import decode

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"))
MAX_BYTES = 1 << 29  # of one entry of an archive, unpacked


def is_image(path: str) -> bool:
    """Whether a relative POSIX path names an image: by its suffix, and neither hidden nor of macOS's making."""
    parts = PurePosixPath(path).parts
    hidden = any(part == "__MACOSX" or (part.startswith(".") and part != "..") for part in parts)
    return not hidden and PurePosixPath(path).suffix.lower() in SUFFIXES


def list_images(root: Path) -> list[str]:
    """Relative POSIX paths of all images below `root`, sorted by code point; links are followed, loops are not.

    What has an image's name counts as one and is reported when it turns out to be none: a link that leads nowhere, a
    pipe, a folder without images. A folder with images is a folder, whatever its name.
    """
    return sorted(_walk(root, "", frozenset()))


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    status = folder.stat()
    if (status.st_dev, status.st_ino) in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            # UTF-8 whatever the locale, so that the numbering is the same everywhere.
            path = prefix + os.fsencode(entry.name).decode("utf-8", "surrogateescape")
            inside = False
            if _is_folder(entry) and not entry.name.startswith(".") and entry.name != "__MACOSX":
                for found in _walk(folder / entry.name, path + "/", above | {(status.st_dev, status.st_ino)}):
                    inside = True
                    yield found
            if not inside and is_image(path):
                yield path


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: opening it tells what is wrong
        return False


def list_archive(path: Path) -> list[str]:
    """Names of all images in a zip archive, sorted by code point.

    Raises:
        ValueError: not a zip archive, or no image in it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted({name for name in archive.namelist() if not name.endswith("/") and is_image(name)})
    except Exception as error:  # damaged archives raise nearly every class there is
        raise ValueError(f"{path} is not a readable zip archive: {error}") from error
    if not names:
        raise ValueError(f"{path} holds no image; wanted entries named {_suffixes()}")
    return names


def folder_labels(paths: Sequence[str], known: Sequence[str] = ()) -> tuple[Tensor, tuple[str, ...]]:
    """Labels by folder, where every image lies exactly one folder deep and there are at least two folders.

    Args:
        paths: relative POSIX paths.
        known: class names of the training part. They keep their numbers here if any of them turns up, so that a test
            part that lacks a class is still labelled as the training part is.

    Returns:
        (N,) int64 and the class names; -1 and () where the folders are no classes.
    """
    folders = [path.split("/")[:-1] for path in paths]
    found = sorted({parts[0] for parts in folders if len(parts) == 1})
    if len(found) < 2 or any(len(parts) != 1 for parts in folders):
        return torch.full((len(paths),), -1), ()
    classes = (*known, *(name for name in found if name not in known)) if set(known) & set(found) else tuple(found)
    number = {name: label for label, name in enumerate(classes)}
    return torch.tensor([number[parts[0]] for parts in folders]), classes


class FileSource(Source):
    """Image files below a folder.

    Args:
        root: the folder.
        paths: relative POSIX paths in the order of numbering.
        labels, classes: as `folder_labels` returns them.
    """

    def __init__(self, root: Path, paths: Sequence[str], labels: Tensor, classes: tuple[str, ...] = ()) -> None:
        self.root = root
        self.labels = labels
        self.classes = classes
        self.paths = _pack_names(paths)

    def name(self, index: int) -> str:
        return str(self.root / self.paths[index].decode("utf-8", "surrogateescape"))

    def load(self, index: int) -> Image.Image:
        return decode(self._file(index), self.name(index))[0]

    def load_for_canvas(self, index: int, side: int) -> tuple[Image.Image, tuple[int, int]]:
        return decode(self._file(index), self.name(index), side)

    def _file(self, index: int) -> Path:
        return self.root / os.fsdecode(self.paths[index])

    def select(self, rows: Tensor) -> Self:
        part = super().select(rows)
        part.paths = self.paths[rows.numpy()]
        return part


class ZipSource(Source):
    """Images in a zip archive, read in place: nothing is extracted, so a name such as `../x.jpg` can do no harm.

    Args:
        archive: the zip file.
        prefix: leading part of the entries' names that is not part of `paths`.
        paths, labels, classes: as for FileSource.
    """

    def __init__(
        self, archive: Path, prefix: str, paths: Sequence[str], labels: Tensor, classes: tuple[str, ...] = ()
    ) -> None:
        self.archive = archive
        self.prefix = prefix
        self.labels = labels
        self.classes = classes
        self.paths = _pack_names(paths)
        self._open: tuple[int, zipfile.ZipFile] | None = None

    def name(self, index: int) -> str:
        return f"{self.archive}[{self._entry(index)}]"

    def load(self, index: int) -> Image.Image:
        return decode(self._read(index), self.name(index))[0]

    def load_for_canvas(self, index: int, side: int) -> tuple[Image.Image, tuple[int, int]]:
        return decode(self._read(index), self.name(index), side)

    def select(self, rows: Tensor) -> Self:
        part = super().select(rows)
        part.paths = self.paths[rows.numpy()]
        return part

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
        return self.prefix + self.paths[index].decode("utf-8", "surrogateescape")

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


def split_archive(names: Iterable[str]) -> tuple[str, list[str]]:
    """The folders that all entries share, as a prefix, and the rest of each name."""
    rest = list(names)
    prefix = ""
    while len(tops := {name.partition("/")[0] for name in rest}) == 1 and all("/" in name for name in rest):
        prefix += tops.pop() + "/"
        rest = [name.partition("/")[2] for name in rest]
    return prefix, rest


def _pack_names(paths: Sequence[str]) -> np.ndarray:
    # One block of bytes: a million str objects would be copied into every worker as their reference counts change.
    return np.array([path.encode("utf-8", "surrogateescape") for path in paths], dtype=np.bytes_)


def _suffixes() -> str:
    return ", ".join(sorted(SUFFIXES))
