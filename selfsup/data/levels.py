"""Which brightness becomes black and which white, of pixels that have more than 8 bits: `--data.range`."""

import math
from typing import Literal, NamedTuple


class Levels(NamedTuple):
    """How pixels of 16 or 32 bits, whole or floating-point numbers, become 8. Pixels of 8 bits stay as they are."""

    # type: from the lowest to the highest number that the pixels' type can hold; file: from the lowest to the highest
    # pixel of each file; percentile: from the `low`-th percentile of each file to the (100 - `low`)-th; fixed: from
    # `low` to `high`.
    kind: Literal["type", "file", "percentile", "fixed"]
    low: float = 0.0
    high: float = 0.0


FULL = Levels("type")


def parse_levels(text: str) -> Levels:
    """The levels that `data.range` names: `type`, `file`, `p1` (a percentile) or `0:4095`.

    Raises:
        ValueError: it is none of these.
    """
    if text == "type":
        return FULL
    if text == "file":
        return Levels("file")
    try:
        if text.startswith("p") and 0 <= (low := float(text[1:])) < 50:
            return Levels("percentile", low)
        first, _, last = text.partition(":")
        low, high = float(first), float(last)
        if math.isfinite(low) and math.isfinite(high) and low < high:
            return Levels("fixed", low, high)
    except ValueError:
        pass
    raise ValueError(
        f"data.range is {text!r}; it must be type, file, a percentile from p0 to p49.9 such as p1, or LOW:HIGH such as "
        "0:4095"
    )
