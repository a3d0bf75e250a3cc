"""Arrays of images of more than 8 bits a pixel, whole or floating-point numbers, and how they become 8."""

from typing import NamedTuple

import numpy as np

from selfsup.data.deep import Deep, Depth, to_bytes
from selfsup.data.levels import FULL, Levels

_CHUNK = 1 << 22  # pixels that are converted at a time
_LARGEST = 4  # bytes of a whole number whose type says what range is meant


class Ends(NamedTuple):
    """What range the pixels of each image fill."""

    deep: Deep
    lowest: np.ndarray  # (N,), NaN of an image without a finite pixel
    highest: np.ndarray  # (N,)

    def depth(self, row: int) -> Depth | None:
        low, high = float(self.lowest[row]), float(self.highest[row])
        return None if np.isnan(low) else Depth(self.deep.kind, self.deep.can, low, high)


def deep_array(array: np.ndarray) -> Deep | None:
    """How the pixels of an array are stored; None where they are no numbers, or of 8 bits and unsigned."""
    if array.dtype.kind == "f":
        return Deep("float", None)
    if array.dtype.kind not in "iu" or array.dtype == np.uint8:
        return None
    signed = "signed " if array.dtype.kind == "i" else ""
    kind = f"{signed}{8 * array.dtype.itemsize}-bit"
    if array.dtype.itemsize > _LARGEST:
        return Deep(kind, None)
    limits = np.iinfo(array.dtype)
    return Deep(kind, (float(limits.min), float(limits.max)))


def with_eight_bits(array: np.ndarray, deep: Deep, levels: Levels, origin: str) -> tuple[np.ndarray, Ends]:
    """An array (N, ...) as uint8 of the same shape, each image as `deep.to_bytes` makes it, and what range it had.

    Raises:
        ValueError: the type has no agreed range and `levels` gives none, or no pixel of an image is finite.
    """
    lowest, highest = _ends(array)
    if deep.can is None and levels == FULL:
        low, high = np.nanmin(lowest, initial=np.inf), np.nanmax(highest, initial=-np.inf)
        raise ValueError(
            f"{origin} is {array.dtype} from {low:g} to {high:g}; such numbers have no agreed range: give --data.range "
            f"{low:g}:{high:g}, file (each image's lowest and highest) or p1"
        )
    result = np.empty(array.shape, np.uint8)
    step = _step(array) if levels.kind in ("fixed", "type") else 1
    for start in range(0, len(array), step):
        try:
            result[start : start + step] = to_bytes(array[start : start + step], deep, levels)
        except ValueError as error:
            raise ValueError(f"{origin}[{start}]: {error}") from error
    return result, Ends(deep, lowest, highest)


def told(array: np.ndarray, deep: Deep, levels: Levels) -> str:
    """What became black and white."""
    if levels.kind == "file":
        return f"{array.dtype} pixels, of each image the lowest black and the highest white"
    if levels.kind == "percentile":
        return f"{array.dtype} pixels, of each image percentile {levels.low:g} black and {100 - levels.low:g} white"
    low, high = (levels.low, levels.high) if levels.kind == "fixed" or deep.can is None else deep.can
    return f"{array.dtype} pixels, {low:g} black and {high:g} white"


def _step(array: np.ndarray) -> int:
    return max(1, _CHUNK // max(1, int(np.prod(array.shape[1:]))))


def _ends(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest finite pixel of each image, (N,) float64; NaN where there is none."""
    step, found = _step(array), []
    for start in range(0, len(array), step):
        rows = array[start : start + step].reshape(len(array[start : start + step]), -1)
        finite = np.isfinite(rows)
        low = np.where(finite, rows, np.inf).min(axis=1, initial=np.inf)
        high = np.where(finite, rows, -np.inf).max(axis=1, initial=-np.inf)
        found.append(np.where(np.isfinite([low, high]), [low, high], np.nan))
    low, high = np.concatenate(found, axis=1)
    return low, high
