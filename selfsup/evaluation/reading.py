"""Settings of evaluations, without torch: help shows them at once."""

from dataclasses import dataclass
from typing import Literal

from selfsup.augment.size import Size, check_size
from selfsup.config.checks import require
from selfsup.data.settings import Data
from selfsup.devices.choice import Device

Layer = Literal["backbone", "embedding"]

RECALL_AT = (1, 2, 4, 8, 10)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How an evaluation reads images: the fields that evaluations on features share."""

    data: Data = Data()
    batch_size: int = 512
    workers: int = 2  # processes that decode photographs
    device: Device = "auto"  # a CUDA GPU, else an Apple GPU (mps), else the CPU
    size: Size | None = None  # of the images that the encoder is fed with, in pixels; None: as it was trained

    def __post_init__(self) -> None:
        check_size(self.size)


def check_temperature(temperature: float) -> None:
    """Raise ValueError for a temperature at which votes would overflow or mean nothing."""
    require(
        temperature >= 0.002,
        f"the kNN temperature is {temperature}; it must be at least 0.002 (0.07 and 0.1 are usual)",
    )
