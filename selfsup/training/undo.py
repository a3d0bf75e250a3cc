"""What a step has written is taken back on the device, to the bit, without waiting for it."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

_WHOLE_NUMBERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Undo:
    """A copy of everything that a step may write: weights, memory, running statistics, the optimizer's state.

    The copy is made on the device before a step, and it takes as much room as they do. After the step `where_bad` has
    the device itself decide, by a number that lies there, whether what was written stays. Bits are copied and not
    numbers, so that one that is not finite leaves no trace.

    Args:
        method: on its device.
        optimizer: of its parameters. Tensors that it keeps on the CPU, such as Adam's count of steps, are copied for
            each step, and put back by `put_back`.
    """

    def __init__(self, method: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.method, self.optimizer = method, optimizer
        self.refresh()

    def refresh(self) -> None:
        """Find the tensors anew: others may have taken their place."""
        held = [*self.method.parameters(), *self.method.buffers(), *self._states()]
        device = held[0].device
        bits = [_as_whole_number(tensor) for tensor in held if tensor.device == device and tensor.numel()]
        self._own = [[part for part in bits if part.dtype == dtype] for dtype in _WHOLE_NUMBERS.values()]
        self._own = [part for part in self._own if part]
        self._kept = [[torch.empty_like(tensor) for tensor in part] for part in self._own]
        self._elsewhere = [tensor for tensor in held if tensor.device != device]
        self._known = {(parameter, name) for parameter, name, _ in self._entries()}

    @property
    def nbytes(self) -> int:
        """What the copy takes on the device."""
        return sum(tensor.nbytes for part in self._kept for tensor in part)

    def keep(self) -> list[Tensor]:
        """Copy everything as it is before a step; returns what does not lie on the device, for `put_back`."""
        if self._count() != len(self._known):
            self.refresh()
        with torch.no_grad():
            for own, kept in zip(self._own, self._kept, strict=True):
                torch._foreach_copy_(kept, own)
            return [tensor.clone() for tensor in self._elsewhere]

    @torch.no_grad()
    def where_bad(self, good: Tensor) -> None:
        """Make everything as it was before the step, unless `good`, () bool on the device, is true.

        Waits for the device where the step has begun state of the optimizer that was not there: at the first one.
        """
        for own, kept in zip(self._own, self._kept, strict=True):
            # kept + (own - kept) * good, modulo 2^bits.
            torch._foreach_sub_(own, kept)
            torch._foreach_mul_(own, good.to(own[0].dtype))
            torch._foreach_add_(own, kept)
        if self._count() != len(self._known) and not bool(good):
            for parameter, name, _ in list(self._entries()):
                if (parameter, name) not in self._known:
                    del self.optimizer.state[parameter][name]
                    if not self.optimizer.state[parameter]:
                        del self.optimizer.state[parameter]

    @torch.no_grad()
    def put_back(self, elsewhere: Iterable[Tensor]) -> None:
        """Make what does not lie on the device as `keep` has returned it."""
        for own, kept in zip(self._elsewhere, elsewhere, strict=True):
            own.copy_(kept)

    def _entries(self) -> Iterator[tuple[Tensor, str, Any]]:
        for parameter, state in self.optimizer.state.items():
            for name, value in state.items():
                yield parameter, name, value

    def _states(self) -> list[Tensor]:
        return [value for _, _, value in self._entries() if isinstance(value, Tensor)]

    def _count(self) -> int:
        return sum(map(len, self.optimizer.state.values()))


class ToHost:
    """A small tensor on its way to the host: `read` waits for it, and for what was asked of the device before it."""

    def __init__(self, tensor: Tensor) -> None:
        if tensor.device.type != "cuda":
            self._copy, self._arrived = tensor.clone(), None
            return
        self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._copy.copy_(tensor, non_blocking=True)
        self._arrived = torch.cuda.Event()
        self._arrived.record()

    def read(self) -> Any:
        """As nested lists of numbers."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._copy.tolist()


def _as_whole_number(tensor: Tensor) -> Tensor:
    """The same memory, as whole numbers of the same size."""
    return tensor.detach().view(_WHOLE_NUMBERS[tensor.element_size()])
