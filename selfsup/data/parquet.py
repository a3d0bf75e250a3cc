"""Parquet files as Arrow files, whose rows can be read in any order."""

import contextlib
import fcntl
import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from selfsup.data.looked import forget, list_folder
from selfsup.output import message
from selfsup.storage.untrusted import create

_ROWS = 256  # of one piece of the Arrow file


def as_arrow(file: Path, columns: Sequence[str]) -> Path:
    """The Arrow file of a table: the file itself, or what a Parquet file is unpacked to once.

    A Parquet file is compressed in groups of rows, and a random row costs its whole group. So the columns that are
    needed are written once to `selfsup/` of `$XDG_CACHE_HOME` (by default `~/.cache`), and removed when they were not
    used for 90 days.

    Raises:
        ValueError: the Parquet file cannot be read, or there is no room or no folder for the Arrow file.
    """
    if file.suffix.lower() != ".parquet":
        return file
    folder = list_folder()
    if folder is None:
        raise ValueError(f"{file} has to be unpacked, and there is no home folder; set XDG_CACHE_HOME to one")
    status = file.stat()
    told = (*map(str, (file.resolve(), status.st_size, status.st_mtime_ns, status.st_ino)), *columns)
    kept = folder / f"{hashlib.sha256(chr(0).join(told).encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.arrow"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(folder / "unpacking.lock", "w") as lock:  # one process does it for all
            fcntl.flock(lock, fcntl.LOCK_EX)
            if kept.is_file():
                with contextlib.suppress(OSError):
                    os.utime(kept)  # it is in use
            else:
                forget(folder)
                message(f"unpacking {file} ({status.st_size / 1e6:,.0f} MB) to {folder}, which is done once")
                _unpack(file, columns, kept)
    except OSError as error:
        raise ValueError(
            f"{file} cannot be unpacked to {folder}: {error.strerror or error}; XDG_CACHE_HOME may name another folder"
        ) from error
    return kept


def _unpack(file: Path, columns: Sequence[str], kept: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    part = kept.with_name(f"{kept.name}.{secrets.token_hex(4)}.part")
    try:
        with pyarrow.parquet.ParquetFile(file) as table, create(part) as target:
            schema = pyarrow.schema([table.schema_arrow.field(name) for name in columns], table.schema_arrow.metadata)
            with pyarrow.ipc.new_stream(target, schema) as writer:
                for batch in table.iter_batches(_ROWS, columns=list(columns)):
                    writer.write_batch(batch)
            target.flush()
            os.fsync(target.fileno())
        part.rename(kept)
    except (pyarrow.ArrowException, KeyError) as error:
        raise ValueError(f"{file} is not a readable Parquet file: {error}") from error
    finally:
        part.unlink(missing_ok=True)
