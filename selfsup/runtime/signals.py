"""Graceful shutdown on signals: they are noted, and all processes take the same decision after the same step."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from types import FrameType

import torch
import torch.distributed as dist
from torch import Tensor

from selfsup import distributed
from selfsup.output import message

# What ends a run: a launcher or a person, the terminal, a scheduler that warns before its limit, a closed terminal.
SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
    if hasattr(signal, name)  # not on Windows
)
_elsewhere = threading.local()  # whether this thread, which is not the main one, has been told of that


class _Note:
    """Notes the signals of a process."""

    def __init__(self) -> None:
        self.caught: list[int] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        # Launchers pass on the signal of a terminal that their processes have had from it already.
        if self.caught and number == signal.SIGINT and distributed.launched() == 1:
            raise KeyboardInterrupt
        self.caught.append(number)
        if len(self.caught) == 1:
            message(f"stopping ({signal.Signals(number).name}): the current step is finished and saved first")


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """SIGTERM, SIGINT, SIGUSR1 and SIGHUP are noted in the list instead of ending the process.

    In a run of one process a second SIGINT interrupts at once. Inside another `caught_signals` the list is that one's.
    SIGHUP stays ignored where nohup had it ignored. In a thread other than the main one, where Python can catch no
    signals, the list stays empty, and that is said.
    """
    outer = signal.getsignal(signal.SIGTERM)
    if isinstance(outer, _Note):
        yield outer.caught
        return
    if threading.current_thread() is not threading.main_thread():
        _say_uncaught()
        yield []
        return
    note = _Note()
    previous = {number: signal.signal(number, note) for number in SIGNALS if not _ignored(number)}
    try:
        yield note.caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _ignored(number: int) -> bool:
    """Whether nohup asks to go on when the terminal closes. torchrun ends its ranks then, whatever nohup asks for."""
    hangs_up = hasattr(signal, "SIGHUP") and number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN
    return hangs_up and "TORCHELASTIC_RUN_ID" not in os.environ


def _say_uncaught() -> None:
    if not getattr(_elsewhere, "told", False):
        message(
            "this run is not in the main thread, so no signal is caught: Ctrl-C or SIGTERM ends it without saving, and "
            "the same run goes on from its last checkpoint; max_steps and max_minutes stop it with one"
        )
    _elsewhere.told = True


def leave(number: int) -> int:
    """The exit code of a process that this signal asked to stop; from here on no signal disturbs its leaving.

    128 + number; but 0 under a launcher that would start a run again that ends otherwise (--max-restarts).
    """
    for other in SIGNALS:  # the launcher sends one to those that leave last
        signal.signal(other, signal.SIG_IGN)
    return 0 if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0 else 128 + number


class Consensus:
    """What all processes decide or have to know in every step, over a CPU group so that no GPU is waited for.

    Args:
        timeout: how long to wait for the others, at most.
    """

    def __init__(self, timeout: timedelta) -> None:
        needs_own = distributed.is_distributed() and dist.get_backend() != "gloo"
        self._group: dist.ProcessGroup | None = None
        if needs_own:
            group = dist.new_group(backend="gloo", timeout=timeout)
            assert isinstance(group, dist.ProcessGroup)  # this process is a member
            self._group = group

    def __call__(self, *values: int) -> tuple[int, ...]:
        """The largest of each value over all processes."""
        if not distributed.is_distributed():
            return values
        tensor = torch.tensor(values)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self._group)
        return tuple(tensor.tolist())

    def everyone(self, own: Tensor) -> Tensor:
        """(B,) numbers on the CPU, as many in every process -> (N,), those of all processes in their order."""
        if not distributed.is_distributed():
            return own
        parts = [torch.empty_like(own) for _ in range(distributed.world_size())]
        dist.all_gather(parts, own.contiguous(), group=self._group)
        return torch.cat(parts)
