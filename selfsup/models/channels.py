"""How many channels the images of a network have, and weights for three of them in one for another number."""

import math
from collections.abc import Mapping

from torch import Tensor

from selfsup import distributed
from selfsup.config.checks import require
from selfsup.output import message

MOST = 1024  # channels; no camera has more
_COLOURS = 3


def require_channels(count: int) -> None:
    """Raise ValueError for a number of channels that no image has."""
    require(1 <= count <= MOST, f"in_channels is {count}; give the number of channels of the images, 1 to {MOST}")


def channels_label(count: int) -> str:
    """What the name of a network says of its channels: nothing of three."""
    return "" if count == _COLOURS else f"_{count}ch"


def channels_told(count: int) -> str:
    """What a sentence on a network says of its channels: nothing of three."""
    return "" if count == _COLOURS else f", for images of {count} channel{'s'[: count > 1]}"


def adapted(weight: Tensor, channels: int) -> Tensor:
    """The first convolution of a network for colours, (O, 3, h, w), for images of C channels: (O, C, h, w).

    As timm does it (`adapt_input_conv`): for one channel the three are added up, so that a gray image gives what it
    gave as colours; for more they are repeated in turn, times 3 / C, so that features stay of the same size.
    """
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    repeated = weight.repeat(1, math.ceil(channels / _COLOURS), 1, 1)[:, :channels]
    return (repeated.double() * (_COLOURS / channels)).to(weight.dtype)


def with_channels(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Weights of a network for colours, the first convolution `adapted` to one for C channels, which is said.

    Args:
        tensors: the weights, by name.
        wanted: those of the network that they are for; only shapes are looked at.
        where: they are from, for the message.

    Returns:
        the weights, all others as they were, whatever their shapes.
    """
    result = dict(tensors)
    for name, value in wanted.items():
        found = tensors.get(name)
        if found is None or found.ndim != 4 or value.ndim != 4 or found.shape == value.shape:
            continue
        channels = value.shape[1]
        if found.shape == (value.shape[0], _COLOURS, *value.shape[2:]):
            result[name] = adapted(found, channels)
            if distributed.rank() == 0:
                how = "added up to one" if channels == 1 else f"repeated to {channels}, times 3/{channels}"
                message(f"{where}: the three input channels of {name} are {how}")
    return result
