"""A step of a method on a device that is not there: which operations it asks for, and whether it would wait.

Tensors are fake: they have shapes, types and a device, and no values. Whatever asks for a value (a branch on a tensor,
`.item()`, a boolean index, `unique`) raises, and so does a mix of devices.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from selfsup.batch import Batch
from tests.contracts.case import Case, Run

# Not "cuda": without a CUDA device autograd cannot run a backward pass there. This one it runs on the CPU's thread,
# and to the code under test it is a device like any other that is not the CPU.
DEVICE = torch.device("lazy")
_COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
_INDEXING = {
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
}


class Operations(TorchDispatchMode):
    """Counts operations by name, and raises where one would wait for the device: a copy in either direction."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.in_double = 0  # operations with a tensor of double precision on the device

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function.namespace == "aten":
            # Views launch nothing.
            if not function.is_view and function.overloadpacket != torch.ops.aten.lift_fresh:
                self.names[function.overloadpacket.__name__ + _of_what(args)] += 1
            self._refuse_waits(function, args, kwargs)
        answer = function(*args, **kwargs)
        self.in_double += any(_is_double(value) for value in tree_leaves((args, kwargs, answer)))
        return answer

    def _refuse_waits(self, function: Any, args: Any, kwargs: Any) -> None:
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        devices = {value.device.type for value in given}
        if function == torch.ops.aten._to_copy.default and kwargs.get("device") is not None:
            devices.add(torch.device(kwargs["device"]).type)
        if len(devices) < 2:
            return
        blocking = not (kwargs.get("non_blocking") or (function == torch.ops.aten.copy_.default and len(args) > 2))
        if function in _COPIES and (blocking or given[-1].device.type != "cpu"):
            raise AssertionError(f"{function} between {sorted(devices)} waits for the device")
        if function in _INDEXING:
            raise AssertionError(f"{function} by numbers of the CPU waits for the device")


def _is_double(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == DEVICE.type and value.dtype == torch.float64


def _of_what(args: Any) -> str:
    """Whole numbers add up to the same in any order."""
    given = [value for value in tree_leaves(args) if isinstance(value, Tensor)]
    return " of whole numbers" if given and not any(value.is_floating_point() for value in given) else ""


class Step:
    """A step of a case on the device, after some real ones on the CPU that fill its memory."""

    def __init__(self, case: Case, before: int = 3, batch_size: int | None = None) -> None:
        sizes = {} if batch_size is None else {"batch_size": batch_size, "count": 8 * batch_size}
        self.run, self.number = Run(case, **sizes), before
        for step in range(before):
            self.run.step(step)
        self.fake = FakeTensorMode()
        with self.fake:
            _to_device(self.run.method)

    @contextmanager
    def counting(self) -> Iterator[Operations]:
        """Fake tensors, and counts of what is done with them."""
        # Autocast does not know the device; what is counted runs without it, and the losses only turn it off.
        without_autocast = mock.patch.object(torch, "autocast", return_value=nullcontext())
        with without_autocast, self.fake, Operations() as operations:
            yield operations

    def batch(self) -> tuple[list[Tensor], Batch]:
        """The views and the batch of the step, on the device as the trainer hands them over."""
        views, batch = self.run.batch(self.number)
        self.run.method.foresee(batch.indices)
        with self.fake:
            on_device = [_fake(value) for value in (batch.labels, batch.indices)]
            return [_fake(view) for view in views], Batch((), *on_device)


def operations_of(case: Case) -> dict[str, Operations]:
    """What forward, backward and after_step ask the device for; raises where they wait for it."""
    step = Step(case)
    views, batch = step.batch()
    found = {}
    with step.counting() as operations:
        out = step.run.method(views, batch)
    found["forward"] = operations
    with step.counting() as operations:
        out.loss.backward()
    found["backward"] = operations
    with step.counting() as operations:
        step.run.method.after_step(out.update, 0.5)
    found["after_step"] = operations
    return found


def _fake(value: Tensor) -> Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=DEVICE)


def _to_device(method: nn.Module) -> None:
    """Put parameters and buffers on the device; one that is held in several places stays one."""
    moved: dict[int, Tensor] = {}
    for module in method.modules():
        for held in (module._parameters, module._buffers):
            for name, value in held.items():
                if value is None:
                    continue
                if id(value) not in moved:
                    fake = _fake(value)
                    as_it_was = nn.Parameter(fake, value.requires_grad) if isinstance(value, nn.Parameter) else fake
                    moved[id(value)] = as_it_was
                held[name] = moved[id(value)]
