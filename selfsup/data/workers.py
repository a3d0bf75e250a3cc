"""Processes that decode beside this one: how they are started, what signals do to them, and when they end."""

import contextlib
import functools
import multiprocessing.context
import os
import signal
from collections.abc import Iterator
from multiprocessing import popen_fork
from typing import Any

from selfsup import distributed
from selfsup.output import message
from selfsup.runtime.parent_death import end_with_parent


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache  # once, although every epoch and evaluation starts workers
def say_where_too_many(workers: int, available: int) -> None:
    """One line where there are more workers than cores."""
    if workers > available and distributed.rank() == 0:
        faster = f"decode no faster than {available}; give --workers {available}"
        message(f"{workers} workers share {available} cores, and {faster}")


class _Killed(popen_fork.Popen):
    """A forked process that is killed where it should be terminated, because it ignores that signal.

    One that waits for another that was lost (to the system's want of memory, say) would be waited for without end.
    """

    def terminate(self) -> None:
        self.kill()


class _Worker(multiprocessing.context.ForkProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> _Killed:
        return _Killed(process_obj)


class Fork(multiprocessing.context.ForkContext):
    """Starts processes that can always be ended."""

    Process = _Worker


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Those that `leave_signals_to_parent` is about come later; processes started meanwhile never get them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _left_to_parent())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _left_to_parent() -> list[signal.Signals]:
    # Windows has neither SIGUSR1 nor SIGHUP.
    names = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


def leave_signals_to_parent(worker: int) -> None:
    """Terminals and launchers signal the whole group: the parent finishes its step, and needs its workers for that.

    A parent that is killed takes them along: they hold its open files, with the lock of the run folder.
    """
    for number in _left_to_parent():
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(9)  # SIGKILL
