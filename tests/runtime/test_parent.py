"""Ranks end with their launcher, whichever it is; what was started plainly outlives everything."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

# Says that it follows its launcher, and then does something for a minute.
RANK = """
import ctypes, os, signal, sys, time
from pathlib import Path
from selfsup.runtime import parent_death as parent
parent.GRACE, parent._TICK = 0.5, 0.1
parent.follow_launcher()
Path(sys.argv[1]).write_text(str(os.getpid()))
"""
SLEEPING = "time.sleep(60)"
STUCK = "ctypes.PyDLL(None).sleep(60)"  # in C, and no other thread can run
DEAF = "signal.signal(signal.SIGTERM, lambda *_: None)\nwhile True: time.sleep(60)"
# Starts the command in its arguments as a launcher does, with a variable that it does not have itself.
LAUNCHER = """
import os, subprocess, sys
sys.exit(subprocess.call(sys.argv[2:], env=os.environ | {sys.argv[1]: "1"}))
"""
MARKS = ("TORCHELASTIC_RUN_ID", "RANK", "LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "ACCELERATE_MIXED_PRECISION")


def unmarked() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in MARKS}


class Started:
    """A launcher with what it started."""

    def __init__(self, process: subprocess.Popen[bytes], rank: psutil.Process) -> None:
        self.process, self.rank = process, rank

    def ends(self, victim: psutil.Process | None = None) -> bool:
        """Whether the rank ends soon after this process was killed, by default the launcher."""
        (victim or psutil.Process(self.process.pid)).kill()
        return self.gone(seconds=8)

    def gone(self, seconds: float) -> bool:
        with contextlib.suppress(psutil.TimeoutExpired):
            self.rank.wait(seconds)
        try:
            return not self.rank.is_running() or self.rank.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


@contextlib.contextmanager
def started(place: Path, command: list[str]) -> Iterator[Started]:
    """`command`, below which a process writes its number to `place`."""
    process = subprocess.Popen(command, env=unmarked(), stderr=subprocess.DEVNULL)
    rank = None
    try:
        end = time.monotonic() + 30
        while not (place.is_file() and place.read_text()) and time.monotonic() < end:
            time.sleep(0.02)
        rank = psutil.Process(int(place.read_text()))
        yield Started(process, rank)
    finally:
        process.kill()
        if rank is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                rank.kill()
        process.wait()


def ranked(place: Path, act: str) -> list[str]:
    return [sys.executable, "-c", RANK + act, str(place)]


def launched(mark: str, command: list[str]) -> list[str]:
    return [sys.executable, "-c", LAUNCHER, mark, *command]


def below_shell(command: list[str]) -> list[str]:
    """A shell that stays."""
    return ["sh", "-c", '"$@"; true', "sh", *command]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems kill no process for the end of its parent")
def test_torchruns_rank_ends_also_where_no_thread_can_run(tmp_path: Path) -> None:
    with started(tmp_path / "pid", launched("TORCHELASTIC_RUN_ID", ranked(tmp_path / "pid", STUCK))) as run:
        assert run.ends()


@pytest.mark.parametrize("mark", ["RANK", "PMI_RANK", "ACCELERATE_MIXED_PRECISION"])
def test_a_rank_ends_with_its_launcher_behind_a_shell_and_other_launchers(tmp_path: Path, mark: str) -> None:
    """Also one that does not listen to a signal."""
    inner = launched("LOCAL_RANK", below_shell(ranked(tmp_path / "pid", DEAF)))
    with started(tmp_path / "pid", launched(mark, below_shell(inner))) as run:
        assert run.ends()


def test_a_rank_ends_with_what_is_between(tmp_path: Path) -> None:
    with started(tmp_path / "pid", launched("RANK", below_shell(ranked(tmp_path / "pid", SLEEPING)))) as run:
        between = run.rank.parent()
        assert between is not None
        assert between.pid != run.process.pid
        assert run.ends(between)


def test_an_agent_that_was_lost_before_its_rank_looked_is_missed(tmp_path: Path) -> None:
    """Its rank is the child of something else by then, here of a shell."""
    command = ["sh", "-c", 'TORCHELASTIC_RUN_ID=1 "$@"; true', "sh", *ranked(tmp_path / "pid", SLEEPING)]
    subprocess.run(command, env=unmarked(), stderr=subprocess.DEVNULL, check=True, timeout=50)


@pytest.mark.parametrize(
    "command",
    [
        '"$@" & wait',  # plainly
        'trap "" HUP; RANK=0 WORLD_SIZE=1 "$@" & wait',  # as nohup does
        'ACCELERATE_MIXED_PRECISION=no "$@" & wait',  # set by hand
    ],
)
def test_a_run_outlives_its_shell(tmp_path: Path, command: str) -> None:
    with started(tmp_path / "pid", ["sh", "-c", command, "sh", *ranked(tmp_path / "pid", SLEEPING)]) as run:
        run.process.send_signal(signal.SIGKILL)
        run.process.wait()
        assert not run.gone(seconds=1)
