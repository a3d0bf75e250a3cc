"""A file that grows piece by piece, and is there under its name when it is whole, or not at all."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from selfsup.storage.checkpoint import StorageError
from selfsup.storage.untrusted import create

_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def make_folder(path: Path) -> None:
    """Make the folder that `path` is to lie in, where it is not there.

    Raises:
        StorageError: it cannot be made, or a file has its name.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {path.parent} for {path.name}: {error.strerror}") from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Within, a new file beside `path`, open for writing; afterwards it is `path`, in place of an older one.

    Where an error leaves it, the new file is removed, and the older one is as it was.

    Raises:
        StorageError: the disk has no room or refuses.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    make_folder(path)
    try:
        with create(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and (error.errno in _OF_DISKS or error.filename == str(temporary)):
            raise StorageError(f"cannot write {path}: {error.strerror}; what was there before is untouched") from error
        raise
