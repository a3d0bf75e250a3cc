"""Images that are the same file twice."""

import hashlib
from typing import NamedTuple

import numpy as np

from selfsup.data.collected import Collected
from selfsup.data.content import image_content
from selfsup.data.identity import image_digests
from selfsup.data.looked import WHOLE
from selfsup.data.settings import Verify


class SameBytes(NamedTuple):
    """Of N images, which have equal content."""

    first: np.ndarray  # (N,) int64: the first image with the same content; its own number where none is before it
    sizes: np.ndarray  # (N,) int64 bytes of files; -1 for arrays and packs


def same_bytes(images: Collected, verify: Verify = "auto") -> SameBytes:
    """Which images have the content of another: files and entries of archives all bytes, arrays all pixels.

    Files of equal size and digest are read whole where their digest is not of all their bytes. Nothing is equal of
    images whose content is not known: files that cannot be read, rows of tables that are made when they are asked for.
    """
    found = [image_digests(part, verify == "full") for part in images.parts]
    sizes, digests = (np.concatenate([columns[at] for columns in found]) for at in (0, 1))
    keys = np.concatenate([np.ascontiguousarray(digests).view("<i8"), sizes[:, None]], axis=1)
    _, number, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    number = number.ravel()
    first = np.arange(len(images))
    known: dict[tuple[int, bytes], int] = {}
    for index in np.flatnonzero((count[number] > 1) & digests.any(axis=1)).tolist():
        whole = 0 <= sizes[index] <= WHOLE  # the digest is of all bytes
        content = b"" if whole else image_content(images, index)
        if whole or content:
            first[index] = known.setdefault((int(number[index]), hashlib.sha256(content).digest()), index)
    return SameBytes(first, sizes)
