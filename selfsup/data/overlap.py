"""Images that are in the training part and in the test part: figures on them say little."""

from typing import NamedTuple

import numpy as np

from selfsup.data.base import Source
from selfsup.data.content import image_content
from selfsup.data.identity import image_digests, in_first
from selfsup.data.looked import WHOLE
from selfsup.data.resident import CanvasSource
from selfsup.data.settings import Verify
from selfsup.output import message
from selfsup.storage.untrusted import plain_name

_COMPARED = 1 << 28  # bytes that are read at most to compare large files whole


class Shared(NamedTuple):
    """Test images whose content is that of a training image."""

    images: int
    first: tuple[str, str]  # a test image, by the order of the test part, and the first training image equal to it
    unread: int  # of them, large files of equal size, beginning, middle and end that were not compared whole


def shared_images(train: Source, test: Source, full: bool = False) -> Shared | None:
    """Test images that are training images, too; None where there is none.

    Files and entries of archives are equal by all their bytes, arrays by their pixels. A file is not compared with an
    array, nor is the same picture found that was saved in another way. Candidates are files of equal digests, which are
    of all bytes up to 64 KiB; larger ones are read whole, up to 256 MiB together.

    Args:
        train, test: the parts.
        full: read what the list of files knows, too.
    """
    train, test = (source.files if isinstance(source, CanvasSource) else source for source in (train, test))
    left, unread, found = _COMPARED, 0, []
    for asked, known, size in _candidates(train, test, full):
        if size > WHOLE and 2 * size > left:
            unread += 1
        elif size > WHOLE or size < 0:  # else the digest is of all bytes
            left -= 2 * max(size, 0)
            if image_content(test, asked) != image_content(train, known):
                continue
        found.append((asked, known))
    if not found:
        return None
    asked, known = found[0]
    return Shared(len(found), (test.name(asked), train.name(known)), unread)


def _candidates(train: Source, test: Source, full: bool) -> list[tuple[int, int, int]]:
    """Test image, the first training image of the same size and digest, and that size."""
    (known_sizes, known), (sizes, digests) = image_digests(train, full), image_digests(test, full)
    keys, asked = (np.ascontiguousarray(rows[:, :8]).view("<u8").ravel() for rows in (known, digests))
    order = keys.argsort(kind="stable")
    place = order[np.searchsorted(keys[order], asked).clip(max=len(keys) - 1)]
    same = (known[place] == digests).all(axis=1) & (known_sizes[place] == sizes) & digests.any(axis=1)
    rows = np.flatnonzero(same)
    return list(zip(rows.tolist(), place[rows].tolist(), sizes[rows].tolist(), strict=True))


def tell_shared(train: Source, test: Source, verify: Verify) -> int:
    """Say how many test images are training images; returns that number. All processes must call it."""

    def look() -> dict[str, int]:
        shared = shared_images(train, test, verify == "full")
        if shared is None:
            return {"count": 0}
        sure = f", {shared.unread:,} of them not compared whole" if shared.unread else ""
        message(
            f"{shared.images:,} of {len(test):,} test images have the content of a training image{sure}; "
            f"the first: {plain_name(shared.first[0])} is {plain_name(shared.first[1])}; figures "
            "are too good by them: take them out of one part"
        )
        return {"count": shared.images}

    return int(in_first(look)["count"])


def about_shared(train: Source, test: Source | None, verify: Verify) -> dict[str, int]:
    """What a result says of test images that are training images, after it has been told; nothing where none is."""
    count = 0 if test is None else tell_shared(train, test, verify)
    return {"test_images_in_training": count} if count else {}
