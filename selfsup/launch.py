"""Makes `accelerate launch --num_processes N` start N processes on machines without several GPUs too.

accelerate starts them for several GPUs; on CPUs it leaves that to MPI and starts a single process, without a word
(accelerate issue #2741). This module notices and starts the others by torch's own launcher.
"""

import ctypes
import os
import signal
import sys

import psutil


def asked_processes(words: list[str]) -> int | None:
    """The number after --num_processes in a launcher's command line, or None."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name in ("--num_processes", "--num-processes"):
            text = value or following
            return int(text) if text.isdigit() else None
    return None


def _end_with_parent() -> None:
    """Have this process, and what replaces it, terminated when accelerate is: it passes no signal on to its child."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG, see prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)


def start_missing_processes(arguments: list[str]) -> None:
    """Replace this process by a launcher of as many as accelerate was asked for, where it started only one.

    Args:
        arguments: of the selfsup command, passed on to every process.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    if not launched or "WORLD_SIZE" in os.environ or "PMI_SIZE" in os.environ or "OMPI_COMM_WORLD_SIZE" in os.environ:
        return
    parent = psutil.Process().parent()
    count = asked_processes(parent.cmdline()) if parent else None
    if count is None or count < 2:
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    _end_with_parent()
    port = os.environ.pop("MASTER_PORT")
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={count}", f"--master-port={port}"]
    # Without -- it takes --start for an abbreviation of a flag of its own.
    words = [*launcher, "--", "-m", "selfsup"]
    os.execv(sys.executable, [sys.executable, *words, *arguments])
