"""What may come from anyone: names on their way to a terminal or a table, files that are read, folders written to."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import IO, Any, BinaryIO

import psutil

_SURROGATES = "".join(map(chr, range(0xDC80, 0xDD00)))  # bytes of a name that are no UTF-8
_LONGEST = 2_000  # characters of a line
_JSON_BYTES = 256 << 20  # of a file that is read as JSON
_DEEPEST = 50  # lists and objects in one another, so that no function that goes through them runs out of stack


def plain(text: str) -> str:
    """`text` with all that could drive a terminal, or hide in one, written out as \\x1b and \\u202e; lines are cut.

    File names and files may hold anything. New lines and tabs stay; see `plain_name` for what should be one line.
    """
    return "\n".join(_cut(_written_out(line, "\t"), _LONGEST) for line in text.split("\n"))


def plain_name(name: object, longest: int = 400) -> str:
    """A file's name, or another word from a file, as a part of one line."""
    return _cut(_written_out(str(name), ""), longest)


def _written_out(text: str, kept: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    return f"{text[: longest // 2]}[... {len(text):,} characters ...]{text[-longest // 2 :]}"


def is_text(name: str) -> bool:
    """Whether the name, as the system gave it, is of Unicode characters alone."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def as_cell(word: str) -> str:
    """A word as a cell of a CSV file: on one line, and with a ' before what a spreadsheet would carry out."""
    word = _written_out(word, _SURROGATES)  # names that are no UTF-8 stay as they are on the disk
    return f"'{word}" if word[:1] in ("=", "+", "-", "@") else word


_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


# Files that are read


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """The content of a file, which is looked at before it is read.

    Args:
        path: of the file.
        most: bytes; None: as many as fit into memory.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is a pipe or a device, which might never end, or too large.
    """
    require_room(path, most)
    return path.read_bytes()


def require_room(path: Path, most: int | None = None) -> None:
    """Raise what `read_bytes` would, before anything is read."""
    size = require_file(path)
    room = int(psutil.virtual_memory().available)
    if size > (room if most is None else most):
        what = f"the {room} bytes of free memory" if most is None else f"the {most} bytes of the largest such file"
        raise ValueError(f"{plain_name(path)} has {size} bytes, more than {what}")


def require_file(path: Path) -> int:
    """The size of a file. Raises ValueError where it is a pipe, a socket or a device; OSError where there is none."""
    found = path.stat()
    mode = found.st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # what is done to a folder says best what is wrong with it
        raise ValueError(f"{plain_name(path)} is a pipe, a socket or a device; wanted a file")
    return found.st_size


# Files that are written, in folders that may come from anyone


def create(path: Path) -> BinaryIO:
    """A new file, for writing. Raises OSError where there is one already, or a link."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666), "wb")


def open_own(path: Path, mode: str) -> IO[Any]:
    """A file of a run that is written on, for "a", "r+b" or "wb"; made where there is none.

    Raises:
        OSError: it is a link, a pipe or a device, and so may be a file outside of the run; or it cannot be written.
    """
    flags = {"a": os.O_WRONLY | os.O_APPEND, "r+b": os.O_RDWR, "wb": os.O_WRONLY}[mode]
    # Not to be stopped by a pipe that nobody reads.
    try:
        handle = os.open(path, flags | os.O_CREAT | _NO_LINK | getattr(os, "O_NONBLOCK", 0), 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a pipe that nobody reads
            raise OSError(f"{plain_name(path)} is not a file of its own; remove it") from error
        raise
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(handle)
        raise OSError(f"{plain_name(path)} is not a file of its own; remove it")
    if mode == "wb":
        os.ftruncate(handle, 0)
    return os.fdopen(handle, mode, buffering=1 if mode == "a" else -1)


def require_own_folder(path: Path) -> None:
    """Raise ValueError where a folder of a run is a link, through which files elsewhere would be written or removed."""
    if path.is_symlink():
        raise ValueError(
            f"{plain_name(path)} is a link, and would be written through; replace it by a folder, or give --folder a "
            "run folder on the other disk"
        )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is not JSON, too deeply nested, or something else than an object; the message names the file.
    """
    return parse_json(read_bytes(path, _JSON_BYTES), path)


def parse_json(text: bytes, path: Path) -> dict[str, Any]:
    """`read_json` of a text that has been read from `path`."""
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{path} is not valid JSON: it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if _nested(content) > _DEEPEST:
        raise ValueError(f"{path} is nested more than {_DEEPEST} deep")
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; wanted a JSON object")
    return content


def _nested(content: Any) -> int:
    """How deep the lists and objects are nested, as far as is of interest."""
    level, depth = [content], 0
    while level and depth <= _DEEPEST:
        level = [
            item
            for holder in level
            if isinstance(holder, dict | list)
            for item in (holder.values() if isinstance(holder, dict) else holder)
        ]
        depth += 1
    return depth
