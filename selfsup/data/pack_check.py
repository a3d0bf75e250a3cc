"""The images of a pack, compared with its checksums."""

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from selfsup.data.layout import Split
from selfsup.data.pack_manifest import IMAGES, Pack, damaged, image_header, own_file
from selfsup.storage.untrusted import plain_name

_THREADS = 4
_READ = 1 << 24  # bytes at a time


def check_images(
    folder: Path, pack: Pack, split: Split, columns: list[np.ndarray], advance: Callable[[int], None]
) -> None:
    """Compare the squares of a part with the digests. Raises DamagedFile."""
    part, path = pack.parts[split], folder / split / IMAGES
    names, digests = columns[0], columns[3]
    size = pack.channels * pack.size**2
    each = max(1, _READ // size)

    def look(start: int) -> list[int]:
        count = min(each, part.images - start)
        with open(path, "rb") as file:
            file.seek(len(image_header(part.images, pack.channels, pack.size)) + start * size)
            content = file.read(count * size)
        rows = [hashlib.sha256(content[row * size : (row + 1) * size]).digest() for row in range(count)]
        return [start + row for row, found in enumerate(rows) if found != digests[start + row].tobytes()]

    wrong: list[int] = []
    with ThreadPoolExecutor(_THREADS) as threads:
        for start, found in _in_turn(threads, look, range(0, part.images, each)):
            wrong += found
            advance(min(each, part.images - start))
    if wrong:
        name = names[wrong[0]].decode("utf-8", "surrogateescape")
        raise damaged(path, f"{len(wrong):,} of {part.images:,} images have changed, the first {plain_name(name)}")


def _in_turn(
    threads: ThreadPoolExecutor, look: Callable[[int], list[int]], starts: range
) -> Iterator[tuple[int, list[int]]]:
    """What is found from each start on; few are read ahead, so that memory is bounded."""
    for first in range(0, len(starts), 2 * _THREADS):
        some = starts[first : first + 2 * _THREADS]
        yield from zip(some, threads.map(look, some), strict=True)


def check_shards(folder: Path, pack: Pack, split: Split) -> None:
    """Compare the shards of a part with the manifest. Raises DamagedFile."""
    for name, listed in pack.parts[split].files.items():
        path = own_file(folder, name, listed.size)
        with open(path, "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != listed.sha256:
                raise damaged(path, "its SHA-256 differs from the manifest")
