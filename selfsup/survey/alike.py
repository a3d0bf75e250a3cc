"""Pictures that look alike: the same one saved anew, in another format, size, quality or brightness.

A picture becomes a sketch, its brightness in 18 x 16 fields. Which of two fields side by side, of 9 x 8 larger ones, is
the brighter one gives 64 bits, the difference hash (dHash: Krawetz, "Kind of like that", 2013). Pictures whose bits
differ in at most 7 places are looked up by multi-index hashing (Norouzi, Punjani and Fleet, "Fast search in Hamming
space with multi-index hashing", CVPR 2012): of four parts of 16 bits one then differs in at most one bit. What is found
so is alike only where the sketches, too, have a correlation of 0.97 or more: 64 bits alone take many a simple drawing
for another. Mirrored, turned and cropped copies are not found.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from selfsup.augment.bands import Picture

ACROSS, DOWN = 18, 16  # fields of a sketch
SKETCH = ACROSS * DOWN
RADIUS = 7  # bits in which alike pictures differ at most
CORRELATION = 0.97  # that sketches of alike pictures have at least
_PARTS, _BITS = 4, 16
_FLAT = 1.5  # standard deviation, of 255, below which a sketch shows nothing
_SAME_SHADE = 2.0  # by which the means of flat ones may differ
_MOST = 1 << 30  # pairs that are looked at, at most
_HEADS = 256  # unlike pictures of one hash, beyond which all others are compared as those of different ones are
_BLOCK = 1 << 20  # pairs at a time
_SKETCHES = 1 << 13  # pairs of sketches at a time
# Each part takes bits from all over the picture, for those of one row are often all alike.
_ORDER = np.arange(64).reshape(_BITS, _PARTS).T.ravel()


class Alike(NamedTuple):
    """Which of N pictures look alike."""

    heads: np.ndarray  # (N,) int64: of each the first picture that it is alike to and has the bits of; else itself
    pairs: np.ndarray  # (P, 2) int64: heads that look alike, each pair once
    uncompared: int  # pairs of heads that would have to be compared, and were too many


def sketch(picture: Picture) -> np.ndarray:  # (SKETCH,) uint8
    """The brightness of fields; of other channels than red, green and blue that of the first."""
    gray = picture.convert("L") if isinstance(picture, Image.Image) else picture.bands[0]
    return np.asarray(gray.resize((ACROSS, DOWN), Image.Resampling.BOX)).ravel()


def difference_hash(sketches: np.ndarray) -> np.ndarray:
    """(N, SKETCH) uint8 -> (N,) uint64."""
    fields = sketches.reshape(-1, DOWN // 2, 2, ACROSS // 2, 2).astype(np.uint16).sum(axis=(2, 4))
    brighter = (fields[:, :, 1:] > fields[:, :, :-1]).reshape(len(sketches), 64)
    packed = np.packbits(brighter[:, _ORDER], axis=1)
    return np.ascontiguousarray(packed).view("<u8").ravel()


def alike(sketches: np.ndarray) -> Alike:
    """Find alike pictures among (N, SKETCH) uint8 sketches."""
    hashes = difference_hash(sketches)
    own = _of_one_hash(sketches, hashes)
    heads = np.flatnonzero(own == np.arange(len(own)))
    pairs, uncompared = [np.zeros((0, 2), np.int64)], 0
    for first, second, passed_over in candidates(hashes[heads]):
        uncompared += passed_over
        near = np.bitwise_count(hashes[heads[first]] ^ hashes[heads[second]]) <= RADIUS
        one, other = heads[first[near]], heads[second[near]]
        same = look_alike(sketches, one, other)
        pairs.append(np.stack([one[same], other[same]], axis=1))
    return Alike(own, np.concatenate(pairs), uncompared)


def _of_one_hash(sketches: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """(N,) int64: of each picture the first one with its bits that it is alike to, or itself."""
    own = np.arange(len(hashes))
    _, number, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    several = np.flatnonzero(counts[number] > 1)
    order = several[np.argsort(hashes[several], kind="stable")]
    for group in np.split(order, np.flatnonzero(np.diff(hashes[order])) + 1):
        for _ in range(_HEADS):
            if len(group) < 2:
                break
            head, group = group[0], group[1:]
            same = look_alike(sketches, np.full(len(group), head), group)
            own[group[same]] = head
            group = group[~same]
    return own


def look_alike(sketches: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(P,) bool: whether the sketches of each pair correlate or, where both show nothing, are of one shade."""
    found = np.zeros(len(first), bool)
    for start in range(0, len(first), _SKETCHES):
        rows = slice(start, start + _SKETCHES)
        one, other = (sketches[places[rows]].astype(np.float32) for places in (first, second))
        means = one.mean(axis=1), other.mean(axis=1)
        one -= means[0][:, None]
        other -= means[1][:, None]
        spread = np.sqrt((one**2).mean(axis=1)), np.sqrt((other**2).mean(axis=1))
        flat = (spread[0] < _FLAT) & (spread[1] < _FLAT)
        product = (one * other).mean(axis=1)
        shaped = (spread[0] >= _FLAT) & (spread[1] >= _FLAT) & (product >= CORRELATION * spread[0] * spread[1])
        found[rows] = shaped | (flat & (np.abs(means[0] - means[1]) <= _SAME_SHADE))
    return found


def candidates(hashes: np.ndarray, most: int = _MOST) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Pairs of places, each once, in whose (N,) uint64 bits one part of four differs in at most one bit.

    Those that differ in at most 7 bits are all among them. Where they would be more than `most`, some are passed over.

    Yields:
        first and second places, (P,) int64, and how many pairs were passed over.
    """
    for part in range(_PARTS):
        keys = _part(hashes, part)
        order = np.argsort(keys, kind="stable")
        counts = np.bincount(keys, minlength=1 << _BITS)
        starts = np.concatenate([[0], np.cumsum(counts)])
        ranks = np.arange(len(keys)) - starts[keys[order]]  # of each in its bucket, in this order
        for mask in (0, *(1 << bit for bit in range(_BITS))):
            asking = np.arange(len(order)) if mask == 0 else np.flatnonzero((keys[order] & mask) == 0)
            asked = keys[order[asking]] ^ mask
            begin = starts[asked] + (ranks[asking] + 1 if mask == 0 else 0)
            end, passed_over = _within(begin, starts[asked + 1], most)
            most -= int((end - begin).sum())
            if passed_over:
                yield order[:0], order[:0], passed_over
            for one, other in _joined(asking, begin, end):
                first, second = order[one], order[other]
                new = np.ones(len(first), bool)
                for earlier in range(part):  # by which they were found before
                    apart = _part(hashes[first], earlier) ^ _part(hashes[second], earlier)
                    new &= np.bitwise_count(apart) > 1
                yield first[new], second[new], 0


def _part(hashes: np.ndarray, part: int) -> np.ndarray:
    return ((hashes >> np.uint64(_BITS * part)) & np.uint64((1 << _BITS) - 1)).astype(np.int64)


def _within(begin: np.ndarray, end: np.ndarray, most: int) -> tuple[np.ndarray, int]:
    """Ends with at most so many places in all, for which those with the most have none; and how many these had."""
    end = np.maximum(begin, end)
    counts = end - begin
    if counts.sum() <= most:
        return end, 0
    ascending = np.sort(counts)
    first = ascending[int(np.searchsorted(np.cumsum(ascending), most, side="right"))]  # with which it is too many
    kept = counts < first
    return np.where(kept, end, begin), int(counts[~kept].sum())


def _joined(asking: np.ndarray, begin: np.ndarray, end: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each of `asking` with all places from its `begin` to its `end`, about a block at a time."""
    counts = end - begin
    some = counts > 0
    asking, begin, counts = asking[some], begin[some], counts[some]
    total = np.cumsum(counts)
    start = 0
    while start < len(asking):
        done = total[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(total, done + _BLOCK, side="right")))
        rows = slice(start, stop)
        length = int(counts[rows].sum())
        offsets = np.arange(length) - np.repeat(np.cumsum(counts[rows]) - counts[rows], counts[rows])
        yield np.repeat(asking[rows], counts[rows]), np.repeat(begin[rows], counts[rows]) + offsets
        start = stop
