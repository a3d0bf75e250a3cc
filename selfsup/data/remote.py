"""Files that lie elsewhere (`s3://`, `gs://`, `https://` and the like), fetched once by fsspec."""

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from selfsup.data.looked import forget, list_folder
from selfsup.output import message
from selfsup.storage.untrusted import create, plain_name

_BLOCK = 1 << 22  # bytes that are copied at a time
_SUFFIXES = (".zip", ".tar", ".npz", ".npy", ".parquet", ".arrow")


def is_remote(root: str) -> bool:
    """Whether data are named by an address: `s3://bucket/images.tar`."""
    return "://" in root


def fetched(root: str) -> Path:
    """The file of this address on this machine, fetched unless it is there already, as it is now.

    It is kept in `selfsup/remote/` of `$XDG_CACHE_HOME` (by default `~/.cache`), under what the server says of it: one
    that has changed is fetched again, and one that was not used for 90 days is removed. A file that was not fetched
    whole is never there under its name. Of several processes of a machine one fetches, and the others wait.

    Raises:
        ValueError: fsspec knows no such protocol, or lacks a package for it; there is no such file, or it is a folder,
            or no file of images by its name; or there is no room for it.
    """
    name = root.rstrip("/").rpartition("/")[2].partition("?")[0]
    if not name.lower().endswith(_SUFFIXES):
        raise ValueError(
            f"{plain_name(root)} names no file that can be fetched whole ({', '.join(_SUFFIXES)}); put the images into "
            "one .tar or .zip, or mount the folder on this machine"
        )
    system, path, status = _asked(root)
    folder = list_folder()
    if folder is None:
        raise ValueError(
            f"{root} has to be kept on this machine, and there is no home folder; set XDG_CACHE_HOME to one"
        )
    key = hashlib.sha256(f"{root}\0{status['key']}".encode()).hexdigest()[:32]
    place = folder / "remote" / key
    kept = place / name
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(place / "fetching.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.is_file():
                forget(place.parent)
                _fetch(system, path, root, status["size"], kept)
            os.utime(place)  # it is in use
    except OSError as error:
        raise ValueError(
            f"{root} cannot be kept in {folder}: {error.strerror or error}; XDG_CACHE_HOME may name another folder"
        ) from error
    return kept


def _asked(root: str) -> tuple[Any, str, dict[str, Any]]:
    """The file system of an address, the path there, and the size and the state of the file."""
    try:
        import fsspec

        system, path = fsspec.core.url_to_fs(root)
        found = system.info(path)
        key = str(system.ukey(path))
    except ImportError as error:
        raise ValueError(f"{plain_name(root)} needs a package that is not installed: {error}") from error
    except Exception as error:  # each protocol has errors of its own
        raise ValueError(
            f"{plain_name(root)} cannot be reached: {type(error).__name__}: {plain_name(str(error), 300)}\n"
            "check the address, the network and the credentials"
        ) from error
    if found.get("type") == "directory":
        raise ValueError(f"{plain_name(root)} is a folder; put the images into one .tar or .zip")
    return system, path, {"size": found.get("size"), "key": key}


def _fetch(system: Any, path: str, root: str, size: int | None, kept: Path) -> None:
    told = "" if size is None else f" ({size / 1e6:,.0f} MB)"
    free = shutil.disk_usage(kept.parent).free
    if size is not None and size > free:
        raise ValueError(f"{root} has {size:,} bytes, and {free:,} are free in {kept.parent}")
    message(f"fetching {plain_name(root)}{told} to {kept.parent}, which is done once")
    part = kept.with_name(f"{kept.name}.{secrets.token_hex(4)}.part")
    count = 0
    try:
        with create(part) as target:
            try:
                with system.open(path, "rb") as source:
                    while block := source.read(_BLOCK):
                        target.write(block)
                        count += len(block)
            except OSError:
                raise
            except Exception as error:  # each protocol has errors of its own
                raise ValueError(f"{root} could not be fetched: {type(error).__name__}: {error}") from error
        if size is not None and count != size:
            raise ValueError(f"{root} has {size:,} bytes, and {count:,} came; start the command again")
        os.replace(part, kept)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
