"""What lies in a folder or a zip archive: images, and all that is none. Nothing is decoded."""

import os
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from selfsup.data.formats import SUFFIXES, first_bytes, images_by_content, suffix


@dataclass
class Listing:
    """Relative POSIX paths of what was found; all but `folders` sorted by code point."""

    images: list[str] = field(default_factory=list)
    by_content: list[str] = field(default_factory=list)  # those of `images` whose names do not say what they are
    others: list[str] = field(default_factory=list)  # files that are no images
    hidden: list[str] = field(default_factory=list)  # what is hidden or of macOS's making, not looked into
    folders: set[str] = field(default_factory=set)

    def settle(self, head: Callable[[str], bytes]) -> "Listing":
        """Sort all lists, and move what has no image's name but begins as one from `others` to `images`."""
        self.by_content = sorted(images_by_content(self.others, head))
        taken = set(self.by_content)
        self.images = sorted([*self.images, *self.by_content])
        self.others = sorted(name for name in self.others if name not in taken)
        self.hidden.sort()
        return self


def list_folder(root: Path, wanted: Callable[[set[str]], Iterable[str]] = lambda folders: folders) -> Listing:
    """All that lies below `root`; links are followed, loops are not.

    What has an image's name counts as one and is reported when it turns out to be none: a link that leads nowhere, a
    pipe, a folder without images. A folder with images is a folder, whatever its name.

    Args:
        root: the folder.
        wanted: of the names of the folders in `root`, those that are to be looked into.

    Raises:
        ValueError: a folder may not be read.
    """
    found = Listing()
    _walk(root, "", frozenset(), found, wanted)
    return found.settle(lambda name: first_bytes(root / os.fsdecode(name.encode("utf-8", "surrogateescape"))))


def _walk(
    folder: Path,
    prefix: str,
    above: frozenset[tuple[int, int]],
    found: Listing,
    wanted: Callable[[set[str]], Iterable[str]] = lambda folders: folders,
) -> bool:
    """Add what lies below `folder` to `found`; returns whether an image does, by its name."""
    own, entries = _looked_into(folder)
    if own in above:
        return False
    above |= {own}
    before, folders = len(found.images), {}
    for entry in entries:
        # UTF-8 whatever the locale, so that the numbering is the same everywhere.
        path = prefix + os.fsencode(entry.name).decode("utf-8", "surrogateescape")
        if entry.name[0] == "." or entry.name == "__MACOSX":
            found.hidden.append(path)
        elif _is_folder(entry):
            folders[path] = entry.name
        elif suffix(path) in SUFFIXES:
            found.images.append(path)
        else:
            found.others.append(path)
    found.folders.update(folders)
    chosen = set(wanted(set(folders)))
    for path, name in folders.items():
        inside = path in chosen and _walk(folder / name, path + "/", above, found)
        if not inside and path in chosen and suffix(path) in SUFFIXES:
            found.folders.discard(path)
            found.images.append(path)
    return len(found.images) > before


def _looked_into(folder: Path) -> tuple[tuple[int, int], list[os.DirEntry[str]]]:
    """What tells a folder from all others, and what is in it."""
    try:
        status = folder.stat()
        with os.scandir(folder) as entries:
            return (status.st_dev, status.st_ino), list(entries)
    except PermissionError as error:
        raise ValueError(f"the folder {folder} may not be read; change its permissions, or move it away") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: opening it tells what is wrong
        return False


def list_archive(path: Path) -> Listing:
    """All that a zip archive holds.

    Raises:
        ValueError: not a zip archive.
    """
    found = Listing()
    try:
        with zipfile.ZipFile(path) as archive:
            for name in dict.fromkeys(archive.namelist()):
                add_entry(name, found)
            return found.settle(lambda name: _head(archive, name))
    except Exception as error:  # damaged archives raise nearly every class there is
        raise ValueError(f"{path} is not a readable zip archive: {error}") from error


def add_entry(name: str, found: Listing) -> None:
    parts = name.split("/")
    if any(part == "__MACOSX" or (part[:1] == "." and part not in (".", "..")) for part in parts):
        found.hidden.append(name)
        return
    found.folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    if not name.endswith("/"):
        (found.images if suffix(name) in SUFFIXES else found.others).append(name)


def _head(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        with archive.open(name) as entry:
            return entry.read(16)
    except Exception:  # a damaged or encrypted entry is no image that could be read
        return b""
