"""The channels of images, of views and of an encoder are the same: what is checked, and what is measured for it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch

from selfsup import distributed
from selfsup.augment.channels import meaningless, normalised_by, same_of_all, told_for_colours
from selfsup.data.base import Source, UnreadableImage
from selfsup.data.channels import reading_of
from selfsup.output import message

Values = tuple[float, ...]
T = TypeVar("T")
MEASURED = 1024  # training images, spread evenly
_DIGITS = 4


def fitted(run: T, source: Source) -> T:
    """The settings of a pretraining run, with mean and std of its views for the channels of its images.

    A recipe's are of red, green and blue. For images of another number of channels, values that are the same for all
    three are taken for all channels; else they are measured, which is said, as a pure function of the images: so a run
    that goes on finds the same.

    Args:
        run: with the fields `augment` and `encoder`.
        source: the training images.

    Raises:
        ValueError: the encoder takes another number of channels, the views are normalised by another number of values,
            or change colours where there are none. The message names all at once, with the flags to give.
    """
    settings: Any = run
    channels, augment = source.channels, settings.augment
    told = list(_unlike(settings.encoder.channels, channels)) + list(meaningless(augment, channels))
    if told:
        images = f"images have {channels} channel{'s'[: channels > 1]} (data.channels)"
        raise ValueError(f"{images}, which these settings are not for: " + "; ".join(told))
    if channels != 3 and distributed.rank() == 0:
        shown = f"the first {'three' if channels > 3 else ''}".strip() + f" of {channels} channels"
        message(f"pictures of views show {'the channel in gray' if channels == 1 else shown}")
    if told_for_colours(augment, channels):
        mean, std = same_of_all(augment, channels) or _measured(source)
        augment = normalised_by(augment, mean, std)
    for number, view in enumerate(augment.views):
        if len(view.mean) != channels:
            raise ValueError(
                f"augment.views.{number} is normalised by {len(view.mean)} values, and images have {channels} "
                f"channels; give --augment.views.{number}.mean and std {channels} values each"
            )
    changed: T = replace(settings, augment=augment)
    return changed


def _unlike(taken: int, channels: int) -> Sequence[str]:
    if taken == channels:
        return ()
    return (f"the encoder takes {taken}, give --encoder.in-channels {channels} (of a class of yours, build it so)",)


def _measured(source: Source) -> tuple[Values, Values]:
    mean, std = statistics(source)
    if distributed.rank() == 0:
        message(
            f"views are normalised by mean {mean} and std {std}, measured on {min(MEASURED, len(source)):,} training "
            "images; the recipe's are of red, green and blue"
        )
    return mean, std


def statistics(source: Source) -> tuple[Values, Values]:
    """Mean and standard deviation of each channel, of pixels in [0, 1], by at most `MEASURED` readable images.

    Sums are of whole numbers, so that they are the same on every machine. The deviation of a channel that is the same
    everywhere is 1.

    Raises:
        ValueError: none of the images can be read.
    """
    count, total, squares = 0, np.zeros(source.channels, np.int64), np.zeros(source.channels, np.int64)
    looked_at = min(MEASURED, len(source))
    for place in torch.arange(looked_at).mul(len(source)).div(looked_at, rounding_mode="floor").tolist():
        try:
            pixels = np.array(source.load(place)).reshape(-1, source.channels).astype(np.int64)
        except UnreadableImage:  # told where images are trained on
            continue
        count += len(pixels)
        total += pixels.sum(axis=0)
        squares += (pixels**2).sum(axis=0)
    if not count:
        raise ValueError(f"none of the images looked at can be read, such as {source.name(0)}")
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0)) / 255
    return (
        tuple(round(float(value), _DIGITS) for value in mean / 255),
        tuple(round(float(value), _DIGITS) or 1.0 for value in std),
    )


def require_fed(source: Source, mean: Values) -> None:
    """Raise ValueError where images are not of as many channels as an encoder is fed with."""
    if source.channels != len(mean):
        raise ValueError(
            f"images are read with {source.channels} channel{'s'[: source.channels > 1]}, and the encoder is fed with "
            f"{len(mean)}; give --data.channels {reading_of(len(mean))}"
        )
