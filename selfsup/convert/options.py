"""What a person says of a file of weights, where the file does not."""

from dataclasses import dataclass
from typing import Literal

from selfsup.augment.parameters import Interpolation
from selfsup.config.checks import require


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a person says of a file of weights; all that is left out is read off the file, or is the layout's."""

    layout: str = ""  # whose file it is, by a name of docs/weights.md; empty: told by its names
    network: str = ""  # of several in the file, such as query, key, teacher; empty: the one the layout takes
    head: Literal["keep", "drop"] = "keep"  # whether the projection head comes along where one fits
    drop: tuple[str, ...] = ()  # beginnings of the names of further tensors that are to be left out
    architecture: str = ""  # the name of a network of timm, of files by timm's names
    heads: int | None = None  # of attention, where the file does not tell
    size: int | None = None  # pixels of a side at test time; a transformer's positions are resampled to it
    fraction: float | None = None  # side of the central box at test time over that of the largest one
    mean: tuple[float, float, float] | None = None  # of the channels, from 0 to 1
    std: tuple[float, float, float] | None = None  # standard deviations of the channels
    interpolation: Interpolation | None = None  # of the resize at test time

    def __post_init__(self) -> None:
        for name in ("heads", "size"):
            given = getattr(self, name)
            require(given is None or given >= 1, f"{name} is {given}; give at least 1")
