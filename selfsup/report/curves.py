"""The figures that a run has logged, as curves: metrics.jsonl read back."""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from selfsup.storage.untrusted import read_bytes

POINTS = 600  # of a curve that are shown
_LARGEST = 512 << 20  # bytes of a log


class Curve(NamedTuple):
    """A figure over the steps at which it was logged."""

    steps: list[int]
    values: list[float]


def read_curves(metrics: Path) -> dict[str, Curve]:
    """Every figure in a metrics.jsonl by its name; none where there is no such file.

    Lines that are cut off or are none of ours are passed over, as are values that are no finite numbers.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no file.
    """
    found: dict[str, Curve] = {}
    if not metrics.is_file():
        return found
    for text in read_bytes(metrics, _LARGEST).decode(errors="replace").splitlines():
        try:
            line = json.loads(text)
            step = line["step"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        for name, value in line.items():
            number = name not in ("step", "time") and type(value) in (int, float) and type(step) is int
            if number and math.isfinite(value):
                curve = found.setdefault(name, Curve([], []))
                curve.steps.append(step)
                curve.values.append(float(value))
    return found


def thinned(curve: Curve, most: int = POINTS) -> Curve:
    """At most so many points: means of equally many neighbours, at the last of their steps; the last point stays."""
    count = len(curve.steps)
    if count <= most:
        return curve
    ends = [count * number // most for number in range(most + 1)]
    parts = [slice(first, end) for first, end in itertools.pairwise(ends)]
    values = [mean(curve.values[part]) for part in parts]
    return Curve([curve.steps[part.stop - 1] for part in parts], values)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def ends(curve: Curve, share: float = 0.1) -> tuple[float, float]:
    """Means of the first and the last values, each of this share of them, at least of one."""
    count = max(1, int(share * len(curve.values)))
    return mean(curve.values[:count]), mean(curve.values[-count:])
