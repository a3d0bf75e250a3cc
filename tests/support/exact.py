"""Whole runs in which rounding cannot grow: in double precision, from views that are the same bits in every share.

For comparisons of one number of processes with another, of whole with divided weights, of chunks with all at once.
Single precision rounds each of these differently, and a descent of some steps makes what it likes of that.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

import selfsup.augment.views
from selfsup.augment.parameters import Parameters, View
from selfsup.methods.base import Method
from selfsup.models.resnet import ResNet

R = TypeVar("R")
ROUNDING = 1e-7  # relative: far above what double precision leaves, far below what single precision makes of a run


@contextmanager
def double_precision() -> Iterator[None]:
    """Methods are trained in double precision, from the moment that they are moved to their device.

    Views are pixels picked from their images; at test time each is made by itself. What is computed for several at
    once, in single precision, may be rounded differently for others.
    """
    forward = ResNet.forward

    def to(self: Method, *args: Any, **kwargs: Any) -> Method:
        return nn.Module.to(self, *args, **kwargs).double()

    def in_the_precision_of_the_weights(self: ResNet, x: Tensor) -> Tensor:
        return forward(self, x.to(next(self.parameters()).dtype))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Method, "to", to)
        patch.setattr(ResNet, "forward", in_the_precision_of_the_weights)
        patch.setattr(selfsup.augment.views, "fused_view", window)
        patch.setattr(selfsup.augment.views, "_chunk_size", lambda device, shape: 1)
        yield


def window(view: View, images: Tensor, parameters: Parameters, sizes: Tensor | None, cropped: bool) -> Tensor:
    """In place of `fused_view`: each sample's window at the corner of its box, mirrored where the view should be."""
    assert sizes is None
    assert not cropped
    extents = torch.tensor(view.shape)
    corner = torch.minimum(parameters.boxes[:, :2].long(), torch.tensor(images.shape[-2:]) - extents)
    rows, columns = (corner[:, axis, None] + torch.arange(int(extents[axis])) for axis in (0, 1))
    columns = torch.where(parameters.flip[:, None], columns.flip(1), columns)
    picked = images[torch.arange(len(images))[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (B, S, T, 3)
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (view.mean, view.std))
    return (picked.double() / 255 - mean).div(std).permute(0, 3, 1, 2)


def in_double(function: Callable[..., R], *args: Any) -> R:
    """`function(*args)` in double precision; for processes that are started with it."""
    with double_precision():
        return function(*args)


def assert_equal_to_rounding(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Of the same names; within 1e-7 of a tensor's largest value, or of 1 where all are small; whole numbers equal."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        if not value.is_floating_point():
            assert torch.equal(actual[name], value), name
            continue
        error = (actual[name] - value).abs().max()
        assert error <= ROUNDING * value.abs().max().clamp(min=1), f"{name}: error {error:.3e}"
