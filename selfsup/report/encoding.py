"""Features of a sample of images within a given time, by one process alone: others may be gone already."""

import time
from typing import NamedTuple

import torch
from torch import Tensor, nn

from selfsup import randomness
from selfsup.augment.size import height_and_width
from selfsup.augment.views import Center
from selfsup.data.sources import Source
from selfsup.evaluation.features import Features, encoded
from selfsup.randomness import Stream

PIXELS = 32  # side of what raw pixels are compared by, at most
_BATCH = 256
_FIRST = 32  # images of the first part


class Deadline:
    """A time by which to be ready.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds, at least 0."""
        return max(0.0, self._end - time.monotonic())

    @property
    def passed(self) -> bool:
        return not self.left


class Feeding(NamedTuple):
    """How images reach an encoder."""

    center: Center
    device: torch.device
    canvas: int | None
    workers: int
    batch_size: int = _BATCH


def drawn(source: Source, most: int) -> Source:
    """At most so many images in a fixed random order, so that any first ones of them are a sample too."""
    return source.select(randomness.permutation(0, Stream.SUBSET, len(source))[:most])


def features_within(encoder: nn.Module, source: Source, feeding: Feeding, deadline: Deadline) -> Features | None:
    """Features of the first images of `source`, of as many as there is time for; None where there is none.

    They are read in parts that begin small and grow, none larger than the speed so far allows. The encoder is put back
    in its mode afterwards, and stays on the device.
    """
    was_training = encoder.training
    encoder.to(feeding.device).eval()
    read, done, begin = list[Features](), 0, time.monotonic()
    size = min(_FIRST, feeding.batch_size)
    while done < len(source) and not deadline.passed:
        if done:
            size = min(size, int(deadline.left * done / (time.monotonic() - begin)))
        if size < 1:
            break
        part = source.select(torch.arange(done, min(done + size, len(source))))
        part.tolerated = 1.0  # of a small part one image is much
        for batch in encoded(
            *(encoder, part, feeding.center, feeding.device, (0, 1), {}),
            batch_size=feeding.batch_size,
            canvas=feeding.canvas,
            workers=feeding.workers,
        ):
            read.append(Features(batch.features.cpu(), batch.labels.cpu(), batch.indices.cpu() + done))
        done += len(part)
        size = min(2 * size, 16 * feeding.batch_size)
    encoder.train(was_training)
    if not read:
        return None
    return Features(*(torch.cat(column) for column in zip(*read, strict=True)))


def raw_pixels(center: Center) -> nn.Module:
    """What takes an image's pixels for its features; of large images those of a smaller one."""
    if max(height_and_width(center.size)) <= PIXELS:
        return nn.Flatten()
    return nn.Sequential(nn.AdaptiveAvgPool2d(PIXELS), nn.Flatten())


def first(features: Features, count: int) -> Features:
    """The first rows."""
    return Features(*(column[:count] for column in features))


def labelled(features: Features) -> Features:
    """The rows with a label."""
    kept = features.labels >= 0
    return features if bool(kept.all()) else Features(*(column[kept] for column in features))


def unit(rows: Tensor) -> Tensor:
    """Rows of length one."""
    return torch.nn.functional.normalize(rows)
