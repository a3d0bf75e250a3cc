"""What data are is what is in them: the content of a data set, wherever it lies (docs/protocols.md, "Data")."""

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from selfsup import distributed
from selfsup.data.base import ArraySource, Source, UnreadableImage
from selfsup.data.datasets import DatasetSource
from selfsup.data.encoded import EncodedSource
from selfsup.data.files import FileSource
from selfsup.data.joined import JoinedSource
from selfsup.data.looked import NOTHING, look_at_entries, look_at_files
from selfsup.data.manifest import DIGEST, Manifest
from selfsup.data.packed import Packed
from selfsup.data.settings import Verify

_BLOCKS = 1 << 16  # entries of an array at most
_CHUNK = 256  # of them that one task looks at
_THREADS = 8


class Content(NamedTuple):
    """What a run records of its data."""

    fact: dict[str, Any]  # {"count": images, "content": 40 hexadecimal digits}
    manifest: Manifest | None  # in the first process; None in the others
    before: dict[str, Any]  # facts as releases recorded them that did not look at content, by what they are called


def content_of(source: Source, verify: Verify, before: dict[str, Any]) -> Content:
    """The content of a data set, looked at by the first of several processes. All must call it.

    Args:
        source: of files, arrays, or both.
        verify: "full" reads what the list of files knows, too.
        before: what earlier releases recorded of it, `fingerprint_before` and what else has another form now.

    Raises:
        ValueError, OSError: as reading the archive raises.
    """
    looked: list[Manifest] = []

    def look() -> dict[str, Any]:
        looked.append(manifest_of(source, verify == "full"))
        return {"count": len(source), "content": looked[0].digest}

    fact = in_first(look)
    return Content(fact, looked[0] if looked else None, before)


def identity(verify: Verify, *sources: Source) -> str:
    """A short name of what is judged, for the protocol of a result. All processes must call it.

    Raises:
        ValueError, OSError: as `content_of`.
    """
    full = verify == "full"
    digests = in_first(lambda: {"digests": [manifest_of(source, full).digest for source in sources]})["digests"]
    return f"content {hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:16]}"


def fingerprint_before(source: Source) -> dict[str, Any]:
    """What runs of earlier releases recorded of their data: the number, the labels, names of a few images."""
    places = sorted({0, len(source) // 2, len(source) - 1})
    return {
        "count": len(source),
        "labels_sha256": hashlib.sha256(source.labels.numpy().tobytes()).hexdigest()[:16],
        "names": [Path(source.name(place)).name for place in places],
    }


def in_first(look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the first process finds, in all of them; an error there is one everywhere, and none waits for it."""
    if not distributed.is_distributed():
        return look()
    found: dict[str, Any] = {}
    failure: Exception | None = None
    if distributed.rank() == 0:
        try:
            found = look()
        except Exception as error:
            failure, found = error, {"failed": str(error)}
    found = distributed.json_from_first(found)
    if failure is not None:
        raise failure
    if "failed" in found:
        raise ValueError(found["failed"])
    return found


# By the kind of source


def manifest_of(source: Source, full: bool = False) -> Manifest:
    """All entries of a data set. Of files and entries of archives their bytes count, of arrays the pixels.

    Of a pack it is the digests that were written with it; with `full` the images are compared with them. Of a torch
    data set it is the pixels of some images; of a source of any other kind the names.

    Args:
        source: any.
        full: read what the list of files knows, too.
    """
    names, sizes, digests = _entries(source, full)
    return Manifest(names, sizes, digests, source.labels.numpy(), source.classes)


def _entries(source: Source, full: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Names (M,), sizes (M,) and digests (M, 16)."""
    if isinstance(source, Packed):
        if full:
            source.verify()
        return source.paths, np.full(len(source), source.images[0].numel()), source.digests[:, :DIGEST]
    if isinstance(source, FileSource):
        return source.paths, *look_at_files(source.root, source.paths, full)
    if isinstance(source, EncodedSource):
        return source.paths, source.sizes(), look_at_entries(source.holders(), source.paths, _reader(source), full)
    if isinstance(source, JoinedSource):
        return _of_all(source, full)
    if isinstance(source, ArraySource):
        return _of_pixels(_pixels(source))
    if isinstance(source, DatasetSource):
        return _of_some(source)
    names = np.array([os.fsencode(source.name(index)) for index in range(len(source))], np.bytes_)
    return names, np.full(len(names), -1), np.zeros((len(names), DIGEST), np.uint8)


def image_digests(source: Source, full: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """By what images of equal content are found: those of equal digests may be equal, all others are not.

    Args:
        source: any.
        full: read what the list of files knows, too.

    Returns:
        (N,) int64 bytes of files, -1 for arrays and packs, and (N, 16) uint8 digests: of files as
        `looked.digest_of`, of packs as they were written, of arrays the shape of an image and a weighted sum of its
        pixels, zeros where nothing is known.
    """
    if isinstance(source, JoinedSource):
        places = np.array([source.place(index)[0] for index in range(len(source))])
        sizes, digests = np.full(len(source), -1), np.zeros((len(source), DIGEST), np.uint8)
        for number, part in enumerate(source.chosen()):
            sizes[places == number], digests[places == number] = image_digests(part, full)
        return sizes, digests
    if isinstance(source, Packed):  # those that could not be read are all black
        digests = np.ascontiguousarray(source.digests[:, :DIGEST])
        black = np.isin(np.arange(len(source)), list(source.unreadable))
        return np.full(len(source), -1), np.where(black[:, None], np.uint8(0), digests)
    if isinstance(source, ArraySource):
        return np.full(len(source), -1), _sums(_pixels(source))
    if isinstance(source, FileSource | EncodedSource):
        _, sizes, digests = _entries(source, full)
        unread = (digests == np.frombuffer(NOTHING, np.uint8)).all(axis=1)
        return sizes, np.where(unread[:, None], np.uint8(0), digests)
    return np.full(len(source), -1), np.zeros((len(source), DIGEST), np.uint8)


def _pixels(source: ArraySource) -> Tensor:
    return source.images[source.rows] if source.mapped else source.images


def _sums(images: Tensor) -> np.ndarray:
    """(N, 16) uint8: sums over 8 bytes at a time, modulo 2^64, which takes a tenth of the time of SHA-256."""
    words = -(-images[0].numel() // 8)
    weights = np.random.Generator(np.random.PCG64(0)).integers(1 << 64, size=words, dtype=np.uint64)
    found = np.zeros((len(images), 2), np.uint64)
    found[:, 1] = 1 + sum(int(side) << 20 * place for place, side in enumerate(images.shape[1:]))
    for start in range(0, len(images), _CHUNK):
        rows = images[start : start + _CHUNK].flatten(1).numpy()
        padded = np.zeros((len(rows), 8 * words), np.uint8)
        padded[:, : rows.shape[1]] = rows
        found[start : start + len(rows), 0] = (padded.view("<u8") * weights).sum(axis=1)
    return found.view(np.uint8)


def _of_some(source: DatasetSource) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = np.zeros((len(source), DIGEST), np.uint8)
    for place, digest in source.digests().items():
        rows[place] = np.frombuffer(digest[:DIGEST], np.uint8)
    return _places(len(source), 1), np.full(len(source), -1), rows


def _reader(source: EncodedSource) -> Callable[[int], bytes | None]:
    def read(index: int) -> bytes | None:
        try:
            return source.content(index)
        except UnreadableImage:
            return None

    return read


def _of_all(source: JoinedSource, full: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entries of all parts, the names of each with the part's title before them."""
    found = [_entries(part, full) for part in source.chosen()]
    named = [np.char.add(os.fsencode(title), own[0]) for title, own in zip(source.titles, found, strict=True)]
    sizes, digests = (np.concatenate([part[column] for part in found]) for column in (1, 2))
    return np.concatenate(named), sizes, digests


def _places(count: int, block: int) -> np.ndarray:
    starts = range(0, count, block)
    if block == 1:
        return np.array([b"[%d]" % start for start in starts], np.bytes_)
    return np.array([b"[%d:%d]" % (start, min(start + block, count)) for start in starts], np.bytes_)


def _of_pixels(images: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of (N, 3, H, W) uint8: image by image, or so many in a block that there are no more than 65,536 blocks."""
    block = max(1, -(-len(images) // _BLOCKS))
    shape = torch.tensor(images.shape[1:]).numpy().astype("<i8").tobytes()

    def digest(start: int) -> bytes:
        found = hashlib.sha256(shape)
        found.update(images[start : start + block].contiguous().numpy().data)  # gray is spread over three channels
        return found.digest()[:DIGEST]

    starts = range(0, len(images), block)
    chunks = [starts[first : first + _CHUNK] for first in range(0, len(starts), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as threads:
        rows = b"".join(threads.map(lambda chunk: b"".join(map(digest, chunk)), chunks))
    sizes = np.array([min(block, len(images) - start) * images[0].numel() for start in starts], np.int64)
    return _places(len(images), block), sizes, np.frombuffer(rows, np.uint8).reshape(-1, DIGEST)
