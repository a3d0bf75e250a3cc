"""A folder that is there under its name when all of it is written, or not at all."""

import contextlib
import hashlib
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from selfsup.storage.checkpoint import StorageError
from selfsup.storage.untrusted import plain_name
from selfsup.storage.whole_file import make_folder

_SPARE = 64 << 20  # bytes left free beside it


def require_new(path: Path) -> None:
    """Raise ValueError where there is something at `path`."""
    if os.path.lexists(path):
        raise ValueError(f"there is something at {plain_name(path)} already; give another name, or remove it")


def require_disk(path: Path, needed: int) -> None:
    """Raise StorageError where the disk on which `path` will lie has no room for so many bytes."""
    make_folder(path)
    free = shutil.disk_usage(path.parent).free
    if free < needed + _SPARE:
        raise StorageError(
            f"no room for {plain_name(path)}: about {needed / 2**30:.2f} GiB are needed, and {free / 2**30:.2f} GiB "
            "are free there; free some, or give a name on another disk"
        )


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Within, a new hidden folder beside `path`; afterwards it is `path`, with all of its files on the disk.

    Where an error leaves it, nothing stays; what a killed process of this machine has left is removed first.

    Raises:
        ValueError: there is something at `path`.
        StorageError: the disk has no room or refuses.
    """
    require_new(path)
    make_folder(path)
    _remove_left_behind(path)
    aside = path.with_name(f"{_beginning(path)}{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        aside.mkdir()
        yield aside
        for place in sorted([aside, *aside.rglob("*")], reverse=True):  # files before the folders that they are in
            handle = os.open(place, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        require_new(path)
        os.rename(aside, path)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            raise StorageError(f"cannot write {plain_name(path)}: {error.strerror}; nothing of it is left") from error
        raise


def _beginning(path: Path) -> str:
    """Of hidden names beside `path`: those of this machine, whose processes can be asked for."""
    return f".{path.name}.{hashlib.sha256(platform.node().encode()).hexdigest()[:8]}."


def _remove_left_behind(path: Path) -> None:
    named = re.compile(re.escape(_beginning(path)) + r"(\d+)\.[0-9a-f]{8}\.tmp")
    for other in path.parent.iterdir():
        if (match := named.fullmatch(other.name)) and not other.is_symlink() and not _alive(int(match[1])):
            shutil.rmtree(other, ignore_errors=True)


def _alive(process: int) -> bool:
    return bool(psutil.pid_exists(process))
