"""Images that are there twice: whose files have the same bytes, or arrays the same pixels."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from selfsup.data.base import Source
from selfsup.data.collected import Collected
from selfsup.data.content import image_content
from selfsup.data.identity import image_digests
from selfsup.data.looked import WHOLE
from selfsup.data.settings import Verify


class Contents(NamedTuple):
    """What is in the files of N images, or in the pixels of arrays."""

    bytes: np.ndarray  # (N,) int64, of files; -1 where there is none
    digests: np.ndarray  # (N, 16) uint8, see `identity.image_digests`

    @property
    def known(self) -> np.ndarray:  # (N,) bool
        """Where something is known without decoding."""
        return np.asarray(self.digests.any(axis=1))


def contents_of(sources: Sequence[Source], full: bool) -> Contents:
    """Of all parts together; with `full` files are read that the list of files knows, too."""
    found = [image_digests(source, full) for source in sources]
    return Contents(np.concatenate([sizes for sizes, _ in found]), np.concatenate([digests for _, digests in found]))


def contents_numbered(sources: Sequence[Source], contents: Contents) -> np.ndarray:
    """(N,) int64: images of equal content have one number, that of the first of them; -1 where nothing is known.

    Files above 64 KiB, of which digests know the beginning, the middle and the end, and arrays are compared whole. Of
    what is in neither the digest decides, which a caller may have made of decoded pixels.
    """
    numbers = np.where(contents.known, np.arange(len(contents.bytes)), -1)
    columns = (*np.ascontiguousarray(contents.digests).view("<u8").T, contents.bytes.astype("<i8"))
    order = np.lexsort(columns)  # stable, so that the first of equal ones comes first
    differs = np.any([np.diff(column[order]) != 0 for column in columns], axis=0)
    groups = np.concatenate([[0], np.cumsum(differs)])
    starts = np.flatnonzero(np.concatenate([[True], differs]))
    numbers[order] = np.where(contents.known[order], order[starts[groups]], -1)
    sizes = np.bincount(groups)[groups]
    rows = np.sort(order[(sizes > 1) & contents.known[order]])
    firsts: dict[tuple[int, bytes], int] = {}
    for row in rows[(contents.bytes[rows] > WHOLE) | (contents.bytes[rows] < 0)].tolist():
        content = _content(sources, row)
        key = int(numbers[row]), hashlib.sha256(content).digest()
        gone = not content and contents.bytes[row] >= 0  # a file that cannot be read any more is equal to nothing
        numbers[row] = row if gone else firsts.setdefault(key, row)
    return numbers


def _content(sources: Sequence[Source], row: int) -> bytes:
    for source in sources:
        if row < len(source):
            return image_content(source, row)
        row -= len(source)
    raise IndexError(row)


class SameBytes(NamedTuple):
    """Of N images, which have equal content."""

    first: np.ndarray  # (N,) int64: the first image with the same content; its own number where none is before it
    sizes: np.ndarray  # (N,) int64 bytes of files; -1 for arrays and packs


def same_bytes(images: Collected, verify: Verify = "auto") -> SameBytes:
    """Which images have the content of another; nothing is equal of those whose content is not known."""
    contents = contents_of(images.parts, verify == "full")
    numbers = contents_numbered(images.parts, contents)
    return SameBytes(np.where(numbers < 0, np.arange(len(numbers)), numbers), contents.bytes)
