"""Which devices have no double precision, and where it is computed for them: on the CPU.

There the CPU also computes what needs whole numbers of 64 bits to be exact, the counter-based random numbers.
"""

import torch
from torch import Tensor

WITHOUT_DOUBLE = frozenset({"mps"})  # types of devices


def lacks_double(device: torch.device) -> bool:
    """Whether no tensor of double precision can lie on this device."""
    return device.type in WITHOUT_DOUBLE


def double_device(device: torch.device) -> torch.device:
    """Where double precision is computed for what lies on `device`: there, or on the CPU where it has none."""
    return torch.device("cpu") if lacks_double(device) else device


def to_double(values: Tensor) -> Tensor:
    """In double precision, on the `double_device` of where they are; the gradient comes back as they were."""
    # In two steps: one alone would convert before it moves.
    return values.to(double_device(values.device)).double()


def back(values: Tensor, like: Tensor) -> Tensor:
    """Of the type of `like` and on its device, after what was computed in double precision."""
    return values.to(like.dtype).to(like.device)
