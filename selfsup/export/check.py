"""Whether a written file computes what the encoder does."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from selfsup.export.outgoing import Outgoing
from selfsup.runtime import arithmetic

TOLERANCE = 1e-5


class Compared(NamedTuple):
    """How far a written network is from the encoder."""

    difference: float  # the greatest, of any image and any output
    greatest: float  # the greatest absolute value that the encoder computes
    images: int

    @property
    def equal(self) -> bool:
        """Whether the difference is at most 1e-5, or 1e-5 of the greatest value where that is above 1."""
        return self.difference <= TOLERANCE * max(1.0, self.greatest)  # of what is no number: False


@torch.no_grad()
def compared(outgoing: Outgoing, forward: Callable[[Tensor], Tensor], pixels: Tensor) -> Compared:
    """Compare a written network with the encoder that it was written from, on a batch of 1 and the rest.

    Args:
        outgoing: what was written.
        forward: the written network, as its own library has it.
        pixels: (N, C, S, T) uint8 images, resized to what the encoder wants.

    Raises:
        ValueError: the encoder computes what is not finite.
    """
    exported = outgoing.exported
    original = exported.encoder if outgoing.part == "backbone" else exported.network("embedding")
    images = exported.feed.center()((pixels,), None, torch.device("cpu"))
    with arithmetic.full_precision():
        expected = original(images).double()
        fed = (pixels if outgoing.pixels else images).contiguous()
        parts = [part for part in (fed[:1], fed[1:]) if len(part)]
        found = torch.cat([forward(part).double() for part in parts])
    if not expected.isfinite().all():
        raise ValueError("the encoder computes what is not finite; nothing can be compared with it")
    if found.shape != expected.shape:
        raise ValueError(f"the written network computes {tuple(found.shape)} and the encoder {tuple(expected.shape)}")
    return Compared(float((found - expected).abs().max()), float(expected.abs().max()), len(pixels))
