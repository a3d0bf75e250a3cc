"""What may come from anyone: names and words on their way to a terminal, and files that are read as JSON."""

import json
import stat
from pathlib import Path
from typing import Any

_LONGEST = 2_000  # characters of a line
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


def read_bytes(path: Path) -> bytes:
    """The content of a file. A pipe or a device, which might never end, is refused.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is no file.
    """
    require_file(path)
    return path.read_bytes()


def require_file(path: Path) -> None:
    """Raise ValueError where `path` is a pipe, a socket or a device; OSError where there is nothing."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # what is done to a folder says best what is wrong with it
        raise ValueError(f"{plain_name(path)} is a pipe, a socket or a device; wanted a file")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is not JSON, too deeply nested, or something else than an object; the message names the file.
    """
    return parse_json(read_bytes(path), path)


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
