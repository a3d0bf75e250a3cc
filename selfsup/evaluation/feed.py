"""How an encoder is fed at test time: what it was trained on says it, and every stage keeps to it."""

from dataclasses import dataclass
from typing import Any, ClassVar

from selfsup.augment.geometry import Fit
from selfsup.augment.parameters import Interpolation
from selfsup.augment.size import LARGEST, Size, can_be_fed
from selfsup.augment.views import Augment, Center
from selfsup.config.checks import require
from selfsup.config.settings import dump
from selfsup.data.channels import Channels, reading_of
from selfsup.data.levels import parse_levels


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What the encoder wants to be fed at test time."""

    stored_as: ClassVar[str] = "feed"
    size: Size
    fraction: float  # side of the central box that is kept over that of the largest one
    mean: tuple[float, ...]  # of each channel; as many as the images have
    std: tuple[float, ...]
    fit: Fit = "center"  # whole: the whole image squeezed to the size, as training by shifts sees it
    interpolation: Interpolation = "bilinear"  # what all encoders were fed by before there was a choice
    range: str = "type"  # data.range of training, which stages take where they are given no other

    def __post_init__(self) -> None:
        require(
            can_be_fed(self.size) and 0 < self.fraction <= 1 and (min(self.std) > 0),
            f"an encoder cannot be fed with size {self.size}, fraction {self.fraction} and std {self.std}; wanted "
            f"1 to {LARGEST} pixels, a fraction above 0 and at most 1, and positive standard deviations",
        )
        require(
            len(self.mean) == len(self.std),
            f"an encoder cannot be fed with {len(self.mean)} means and {len(self.std)} standard deviations; wanted one "
            "of each for every channel",
        )
        parse_levels(self.range)

    @property
    def channels(self) -> Channels:
        """data.channels of the images that it is fed with."""
        return reading_of(len(self.mean))

    def center(self) -> Center:
        return Center(self.size, self.fraction, self.mean, self.std, self.interpolation, self.fit)

    @property
    def transform(self) -> str:
        """What an evaluation says of it."""
        part = "of the short side" if self.fit == "center" else "of both sides"
        said = f"centre {self.fraction} {part}, resized to {self.size}"
        return said + ("" if self.interpolation == "bilinear" else f", {self.interpolation}")

    @property
    def record(self) -> dict[str, Any]:
        """What a stage must find again when it goes on; the same as ever where images are fed as they ever were."""
        fed: dict[str, Any] = dump(self)
        del fed["range"]  # is in the data
        if self.interpolation == "bilinear":
            del fed["interpolation"]
        return fed


def feed_of(augment: Augment, fraction: float, interpolation: Interpolation, range: str) -> Preprocessing:
    """What an encoder wants to be fed that was trained on these views.

    Args:
        augment: the views of training.
        fraction: of the short side.
        interpolation: at test time.
        range: data.range of training.
    """
    view = augment.views[0]
    fit: Fit = "whole" if view.crop == "shifted" else "center"
    return Preprocessing(
        size=view.size,
        fraction=fraction,
        mean=view.mean,
        std=view.std,
        fit=fit,
        interpolation=interpolation,
        range=range,
    )
