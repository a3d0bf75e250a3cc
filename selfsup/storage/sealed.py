"""JSON files with a checksum of themselves: not a byte of them changes unnoticed."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from selfsup.storage.untrusted import read_bytes, read_json

_CHECKSUM = "checksum"


class DamagedFile(ValueError):
    """A file is not as it was written."""


def seal(content: dict[str, Any]) -> bytes:
    """A JSON file of `content`, with the SHA-256 of all of it as its last entry."""
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return (json.dumps({**content, _CHECKSUM: digest}, indent=1) + "\n").encode()


def unseal(path: Path, older: Collection[str]) -> dict[str, Any]:
    """What `seal` was given.

    Args:
        path: of the file.
        older: entries of such a file from before there were checksums; one without a checksum may have no others.

    Raises:
        OSError: there is no such file, or it cannot be read.
        DamagedFile: a byte of it has changed.
    """
    try:
        content = read_json(path)
    except ValueError as error:
        raise DamagedFile(f"{path} is damaged: {error}") from error
    digest = content.pop(_CHECKSUM, None)
    if (digest is not None and read_bytes(path) != seal(content)) or (
        digest is None and not set(content) <= set(older)
    ):
        raise DamagedFile(
            f"{path} is damaged, or was changed by hand: its checksum differs\n"
            f'whoever changed it on purpose must delete its entry "{_CHECKSUM}"'
        )
    return content
