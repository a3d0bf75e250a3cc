"""Stopping well: signals are noted, and all processes take the same decision after the same step."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import torch
import torch.distributed as dist

from selfsup import distributed
from selfsup.monitor.log import message


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """SIGTERM and SIGINT are noted in the list instead of ending the process; a second SIGINT interrupts at once."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)
        message("stopping: the current step is finished and saved first")

    previous = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Consensus:
    """Lets all processes take the same decision after every step, over a CPU group so that no GPU is waited for."""

    def __init__(self) -> None:
        needs_own = distributed.is_distributed() and dist.get_backend() != "gloo"
        self._group: dist.ProcessGroup | None = None
        if needs_own:
            group = dist.new_group(backend="gloo")
            assert isinstance(group, dist.ProcessGroup)  # this process is a member
            self._group = group

    def __call__(self, *values: int) -> tuple[int, ...]:
        """The largest of each value over all processes."""
        if not distributed.is_distributed():
            return values
        tensor = torch.tensor(values)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self._group)
        return tuple(tensor.tolist())
