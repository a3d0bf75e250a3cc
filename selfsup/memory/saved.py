"""Whether saved state makes sense: a checkpoint from anyone may be whole, well sealed, and hold anything."""

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from selfsup.dtensor import local_tensors
from selfsup.memory.sharded import sharded


class Limits(NamedTuple):
    """What bounds the numbers of a run's state."""

    steps: int  # of the run; of one checkpoint its own step: nothing was counted more often
    images: int  # of the data set
    classes: int


class Saved:
    """The saved tensors of one module, by their names in it.

    Args:
        tensors: of the whole state, by their full names.
        prefix: of the module's own: "queue.", or empty.
        limits: of the run.
    """

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str, limits: Limits) -> None:
        self.tensors, self.prefix, self.limits = tensors, prefix, limits

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.prefix + name]

    def require(self, name: str, least: float, most: float, what: str) -> None:
        """Raise ValueError where a number in a tensor is not one of `least` to `most`; `what` says what they are."""
        wrong = outside(self[name], least, most)
        if wrong is not None:
            wanted = f"{least} to {most}" if math.isfinite(most) else f"at least {least}"
            raise ValueError(f"{self.prefix}{name} holds {wrong}; wanted {wanted}, {what}")


def outside(tensor: Tensor, least: float, most: float) -> float | None:
    """A number in a tensor that is not one of `least` to `most`, such as nan; None where there is none."""
    if tensor.numel() == 0:
        return None
    low, high = (bound.item() for bound in tensor.aminmax())
    return next((bound for bound in (low, high) if not least <= bound <= most), None)


@runtime_checkable
class Checked(Protocol):
    """A module that knows what its state may hold, beyond names, shapes, types, and numbers that are finite."""

    def check_saved(self, saved: Saved) -> None:
        """Raise ValueError for a number that no step can have written, above all for one that is used as an index."""


def check_layout(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Make sure that a state, of `training.state.whole_state`, has a module's names, shapes and types. Not collective.

    Raises:
        ValueError: it has not; the message begins with the tensor's name.
    """
    held = module.state_dict()
    shapes = {name: tuple(value.shape) for name, value in held.items()}
    shapes |= {f"{name}.features": (part.size, part.dim) for name, part in sharded(module).items()}
    for name in held:
        if name not in tensors:
            raise ValueError(f"{name} is missing")
    for name, value in tensors.items():
        if name not in held:
            raise ValueError(f"{name} is not of this method")
        if (value.dtype, tuple(value.shape)) != (held[name].dtype, shapes[name]):
            raise ValueError(
                f"{name} is of {value.dtype} and shape {tuple(value.shape)}; wanted {held[name].dtype} and shape "
                f"{shapes[name]}"
            )


def check_finite(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Make sure that what is finite in a module that was just built is so in a state of the same layout.

    Raises:
        ValueError: it is not; the message begins with the tensor's name.
    """
    held = module.state_dict()
    for name, value in tensors.items():
        if not value.is_floating_point():
            continue
        largest = torch.finfo(value.dtype).max
        wrong = outside(value, -largest, largest)
        if wrong is None or (math.isnan(wrong) and bool(local_tensors([held[name]])[0].isnan().any())):
            continue
        raise ValueError(f"{name} holds {wrong}; wanted finite numbers")


def check_sense(module: nn.Module, tensors: Mapping[str, Tensor], limits: Limits) -> None:
    """Have every part of a module that knows its numbers look at a state of the same layout.

    Args:
        module: any.
        tensors: its whole state.
        limits: with the step of the checkpoint.

    Raises:
        ValueError: a number cannot have been written by a run; the message begins with the tensor's name.
    """
    for name, part in module.named_modules():
        saved = Saved(tensors, f"{name}." if name else "", limits)
        if isinstance(part, Checked):
            part.check_saved(saved)
        if isinstance(part, _BatchNorm):
            for buffer, _ in part.named_buffers(recurse=False):
                if buffer.endswith(("running_var", "num_batches_tracked")):
                    saved.require(buffer, 0, math.inf, "a variance, or a count of batches")
