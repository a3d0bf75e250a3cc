"""A device that has no double precision, on a machine that has no such device: it computes on the CPU.

Its tensors have values, so that everything runs, branches on values too, and gives the same bits as on the CPU. What a
real one would refuse, or is known to do wrongly, raises: a tensor of double precision on it, operations of its tensors
and the CPU's, arithmetic of words of 32 bits in 64, operations that MPS lacks (by the list of torch 2.14), a copy
to it that nobody waits for, images in channels last.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from selfsup.devices import double, moving

# Not "mps": torch is not built for it here. Autograd runs this one on the CPU's thread.
DEVICE = torch.device("lazy")
_ATEN = torch.ops.aten
_LACKING = {
    *(_ATEN._pdist_forward, _ATEN.segment_reduce, _ATEN._segment_reduce_backward),
    *(_ATEN.__lshift__, _ATEN.__rshift__, _ATEN.bitwise_xor),
}


class OnDevice(Tensor):
    """A tensor that says it is on the device."""

    held: Tensor  # what it is, on the CPU

    @staticmethod
    def __new__(cls, real: Tensor) -> "OnDevice":
        assert real.dtype != torch.float64, "there is no double precision on the device"
        made: OnDevice = Tensor._make_wrapper_subclass(
            cls,
            real.shape,
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=DEVICE,
        )
        made.held = real
        return made

    def tolist(self) -> Any:
        return self.held.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # torch's own way

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # torch's own types say less
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _carried_out(function, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """For what makes tensors of none."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _carried_out(function, args, kwargs or {})


def _carried_out(function: Any, args: Any, kwargs: Any) -> Any:
    given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    ours = {id(value.held): value for value in given if isinstance(value, OnDevice)}
    wanted = kwargs.get("device")
    there = bool(ours) if wanted is None else torch.device(wanted).type == DEVICE.type
    if function in (_ATEN._to_copy.default, _ATEN.copy_.default):
        crosses = bool(ours) != there or len({type(value) for value in given}) > 1
        hurried = kwargs.get("non_blocking") or (len(args) > 2 and args[2])
        assert not (crosses and there and hurried), "a copy to the device that nobody waits for"
        if function == _ATEN._to_copy.default and crosses and kwargs.get("dtype") is not None:
            # Converted where they lie: on the device there is no other way.
            assert there or kwargs["dtype"] != torch.float64, "double precision before it is moved"
    else:
        assert not (ours and function.overloadpacket in _LACKING), f"{function} on the device"
        strangers = [value for value in given if not isinstance(value, OnDevice) and value.ndim]
        assert not (ours and strangers), f"{function} of tensors of the device and of the CPU"
    assert not (there and kwargs.get("memory_format") == torch.channels_last), f"{function} to channels last"
    plain = dict(kwargs)
    if wanted is not None and there:
        plain["device"] = torch.device("cpu")
    answer = function(*tree_map(_real, args), **tree_map(_real, plain))

    def on_device(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return ours[id(value)] if id(value) in ours else OnDevice(value) if there else value

    return tree_map(on_device, answer)


def _real(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def on_cpu(value: Tensor) -> Tensor:
    """The values of a tensor, wherever it is."""
    return value.held if isinstance(value, OnDevice) else value


@contextmanager
def pretended() -> Iterator[None]:
    """Within, the device is there, is known to have no double precision, and has the faults of Apple's."""
    without_double = mock.patch.object(double, "WITHOUT_DOUBLE", frozenset({DEVICE.type}))
    apple = mock.patch.object(moving, "APPLE", frozenset({DEVICE.type}))
    # Autocast does not know the device; the losses only turn it off.
    without_autocast = mock.patch.object(torch, "autocast", return_value=nullcontext())
    with without_double, apple, without_autocast, _Mode():  # type: ignore[no-untyped-call]  # torch's
        yield


def move(module: nn.Module) -> None:
    """`module.to(DEVICE)`; a parameter or buffer that is held in several places stays one."""
    moved: dict[int, Tensor] = {}

    def to_device(value: Tensor) -> Tensor:
        return moved.setdefault(id(value), OnDevice(value.detach().clone()))

    module._apply(to_device)
