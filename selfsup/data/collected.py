"""Images that are named one by one: files, folders, zip archives and lists of paths, in the order of their names."""

import bisect
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from selfsup.data.base import Source
from selfsup.data.channels import Channels
from selfsup.data.encoded import Decoded
from selfsup.data.files import FileSource, ZipSource
from selfsup.data.formats import FORMATS
from selfsup.data.found import by_suffix, named
from selfsup.data.joined import OfParts
from selfsup.data.levels import Levels
from selfsup.data.listing import Listing, list_archive, list_folder
from selfsup.output import message
from selfsup.storage.untrusted import plain_name, require_file

STANDARD_INPUT = "-"
_ARCHIVE, _TABLE = "an archive of another kind", "a table"
_OTHERS = {".tar": _ARCHIVE, ".gz": _ARCHIVE, ".tgz": _ARCHIVE, ".7z": _ARCHIVE, ".rar": _ARCHIVE}
_OTHERS |= {".parquet": _TABLE, ".arrow": _TABLE, ".csv": _TABLE, ".tsv": _TABLE, ".jsonl": _TABLE}


class NamedFiles(FileSource):
    """Files that are called as they were given, wherever they lie; one that is not there is an unreadable image."""

    def __init__(self, paths: Sequence[str], levels: Levels) -> None:
        super().__init__(Path(), paths, torch.full((len(paths),), -1), levels=levels)

    def name(self, index: int) -> str:
        path: bytes = self.paths[index]
        return path.decode("utf-8", "surrogateescape")


class Collected(OfParts):
    """The images of several sources, one after the other, without labels. However many are unreadable, none stops it.

    Args:
        parts: at least one, none of them empty.
    """

    tolerated = 1.0

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = tuple(parts)
        self.ends = list(itertools.accumulate(map(len, self.parts)))
        self.labels = torch.full((self.ends[-1],), -1)
        self.classes = ()

    def place(self, index: int) -> tuple[int, int]:
        number = bisect.bisect_right(self.ends, index)
        return number, index - (self.ends[number - 1] if number else 0)


def collect(words: Sequence[str], levels: Levels, channels: Channels = "rgb") -> Collected:
    """The images that these words name.

    Args:
        words: paths of files, of folders (all images below), of .zip archives; and once `-`, for a list of paths of
            files on standard input, one a line.
        levels: what becomes black and white, of pixels of more than 8 bits.
        channels: that images are read with.

    Raises:
        ValueError: there is nothing under a name, or no image in it; arrays; standard input is empty or named twice.
    """
    if words.count(STANDARD_INPUT) > 1:
        raise ValueError("standard input, -, is named twice; it can be read only once")
    for word in words:
        _check(word)
    parts: list[Decoded] = []
    for single, group in itertools.groupby(words, key=_is_single):
        if single:
            parts.append(NamedFiles(list(group), levels))
            continue
        for word in group:
            if word == STANDARD_INPUT:
                parts.append(NamedFiles(_paths_from_input(), levels))
            else:
                parts.append(_archive(Path(word), levels) if _is_archive(word) else _folder(Path(word), levels))
    for part in parts:
        part.kept = channels
    return Collected(parts)


def _check(word: str) -> None:
    if word == STANDARD_INPUT:
        return
    path = Path(word)
    if not path.exists():
        raise ValueError(f"there is no file or folder {plain_name(word)}")
    if path.suffix.lower() in (".npz", ".npy") and path.is_file():
        raise ValueError(
            f"{plain_name(word)} holds arrays; give image files, folders or .zip archives\n"
            "in a program selfsup.load(RUN).classify(array) takes uint8 arrays (N, H, W, C)"
        )
    if path.suffix.lower() in _OTHERS and path.is_file():
        raise ValueError(
            f"{plain_name(word)} is {_OTHERS[path.suffix.lower()]}; give image files, folders or .zip archives"
        )


def _is_archive(word: str) -> bool:
    return Path(word).suffix.lower() == ".zip" and Path(word).is_file()


def _is_single(word: str) -> bool:
    return word != STANDARD_INPUT and not _is_archive(word) and not Path(word).is_dir()


def _folder(path: Path, levels: Levels) -> FileSource:
    listing = list_folder(path)
    _account(listing, path)
    return FileSource(path, listing.images, torch.full((len(listing.images),), -1), levels=levels)


def _archive(path: Path, levels: Levels) -> ZipSource:
    require_file(path)
    listing = list_archive(path)
    _account(listing, path)
    return ZipSource(path, "", listing.images, torch.full((len(listing.images),), -1), levels=levels)


def _account(listing: Listing, path: Path) -> None:
    """Say what was found, and what was left out."""
    if not listing.images:
        instead = f"; found {by_suffix(listing.others)}" if listing.others else ""
        raise ValueError(f"no image in {plain_name(path)}; wanted {', '.join(FORMATS)} files{instead}")
    line = f"{plain_name(path)}: {len(listing.images):,} image{'' if len(listing.images) == 1 else 's'}"
    if listing.by_content:
        line += f"; {named(listing.by_content, 'file')} taken as images by their first bytes"
    left_out = [f"no images: {by_suffix(listing.others)}"] if listing.others else []
    if listing.hidden:
        left_out.append(named(listing.hidden, "hidden file or folder"))
    message(line + (f"; left out: {'; '.join(left_out)}" if left_out else ""))


def _paths_from_input() -> list[str]:
    content = sys.stdin.buffer.read()
    if b"\0" in content:
        raise ValueError("the paths on standard input are parted by zero bytes; give one a line (find without -print0)")
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    paths = [line for given in lines if (line := given.removesuffix("\r")).strip()]
    if not paths:
        raise ValueError("standard input holds no path; give one a line, such as: find /photos -name '*.jpg'")
    return paths
