"""Processes that must not outlive the one that started them.

A launcher that is killed passes nothing on: its ranks would train on, or sleep in a collective for half an hour, with
the lock of the run folder. So a rank looks after its launcher. What counts as one are the programs that gave a process
its place among others: the nearest ancestor whose own environment lacks what tells a rank its number, or, for
accelerate, that it was launched. All processes on the way to it (torchrun's agent, a shell) count too. The shell that a
plain command is typed into, a scheduler, nohup and a CI job are no launchers: a run outlives them.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import psutil

# What launchers tell a process: torchrun, anybody's, Open MPI, MPICH and Intel MPI, MVAPICH, accelerate.
_TORCHRUN, _BY_HAND, _ACCELERATE = "TORCHELASTIC_RUN_ID", "RANK", "ACCELERATE_MIXED_PRECISION"
_MARKS = (_TORCHRUN, _BY_HAND, "LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", _ACCELERATE)
_SHELLS = ("sh", "bash", "dash", "zsh", "ksh", "fish", "csh", "tcsh", "busybox")
_TICK = 0.5  # seconds between two looks
GRACE = 4.0  # seconds for finishing a step and saving it; with two ticks well below 10, also on a busy machine
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h, as where another rank is lost
_following = threading.Lock()  # held from the first look on


def end_with_parent(number: int) -> None:
    """Have the system send this signal to this process, and to what replaces it, when its parent ends (Linux only).

    The parent has to have started it from a thread that lasts, such as its main one: it counts as the parent.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG, see prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, number)


def follow_launcher() -> None:
    """End within 10 seconds of the launcher's end, whatever this process is doing; nothing where there is no launcher.

    Where torchrun's agent is lost the system kills the process at once, also inside a call that never returns: the last
    checkpoint stands. Where another launcher is lost a thread sends SIGTERM, by which a run finishes its step and
    saves, and ends the process after 4 seconds at the latest. To be called as early as possible; later calls do
    nothing.
    """
    if not any(mark in os.environ for mark in _MARKS) or not _following.acquire(blocking=False):
        return
    ancestors = psutil.Process().parents()
    if _TORCHRUN in os.environ and ancestors and _came_too_late(ancestors[0]):
        threading.Thread(target=_end, args=(ancestors[0],), name="selfsup.launcher", daemon=True).start()
        return
    places = {mark: _place(ancestors, mark) for mark in _MARKS if mark in os.environ}
    if places.get(_TORCHRUN) == 1:
        end_with_parent(signal.SIGKILL)  # torchrun starts ranks from its main thread
    launchers = ancestors[: max(places.values())]
    if launchers:
        # One that was lost since `ancestors` were found is so at the first look.
        threading.Thread(target=_watch, args=(launchers, _end), name="selfsup.launcher", daemon=True).start()


def _place(ancestors: list[psutil.Process], mark: str) -> int:
    """How many levels up the launcher is that set this variable; 0 where none did."""
    for place, ancestor in enumerate(ancestors, start=1):
        environment = _environment(ancestor)
        if environment is None:  # another user's, such as a container's or a scheduler's: that looks after its own
            return 0
        if mark not in environment:
            return 0 if _is_none(ancestor, mark) else place
    return 0  # it was set for the whole machine, as in a container


def _is_none(process: psutil.Process, mark: str) -> bool:
    """Whether this process set a variable without being a launcher: a shell that a person types into, for example."""
    try:
        shell = process.name().lstrip("-").removesuffix(".exe") in _SHELLS
        if process.pid == 1 or not shell:
            return bool(process.pid == 1)  # all ends with it
        by_hand = mark in (_TORCHRUN, _ACCELERATE) or sys.platform == "win32"  # these launchers are no shells
        return by_hand or _outlived(process)
    except (psutil.Error, OSError):
        return True


def _came_too_late(parent: psutil.Process) -> bool:
    """Whether torchrun's agent, a Python program, was lost before this process looked: its parent is another now."""
    try:
        return _TORCHRUN not in parent.environ() and "py" not in os.path.basename(parent.exe())
    except (psutil.Error, OSError):
        return False


def _environment(process: psutil.Process) -> dict[str, str] | None:
    """What a process was started with, or None where that cannot be seen."""
    try:
        found: dict[str, str] = process.environ()
    except (psutil.Error, OSError):
        return None
    return found


def _outlived(shell: psutil.Process) -> bool:
    """Whether this process is meant to outlive a shell: a person types into it, or nohup or setsid have cut it off."""
    typed_into = shell.terminal() is not None and os.getsid(shell.pid) == shell.pid
    return typed_into or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN or os.getsid(shell.pid) != os.getsid(0)


def _lost(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _watch(launchers: list[psutil.Process], end: Callable[[psutil.Process], None]) -> None:
    while not any(_lost(launcher) for launcher in launchers):
        time.sleep(_TICK)
    end(next(launcher for launcher in launchers if _lost(launcher)))


def _end(launcher: psutil.Process) -> None:
    """Ask this process to end, and end it."""
    text = (
        f"selfsup: what started this process is gone (process {launcher.pid}): saving, if {GRACE:.0f} s are enough, "
        "and ending; the same command goes on from the last checkpoint\n"
    )
    with contextlib.suppress(OSError):  # not by `message`: a thread that is stuck may hold the lock of the terminal
        os.write(2, text.encode())
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(EXIT_CODE)
