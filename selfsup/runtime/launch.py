"""Makes `accelerate launch --num_processes N` start N processes on machines without several GPUs too.

accelerate starts them for several GPUs; on CPUs it leaves that to MPI and starts a single process, without a word
(accelerate issue #2741). This module notices and starts the others by torch's own launcher.
"""

import os
import signal
import socket
import sys

import psutil

from selfsup.runtime.parent_death import end_with_parent


def asked(words: list[str], flag: str) -> int | None:
    """The number after a flag, such as "--num_processes", in a launcher's command line, or None."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.partition("=")
        if name in (flag, flag.replace("_", "-")):
            text = value or following
            return int(text) if text.isdigit() else None
    return None


def start_missing_processes(arguments: list[str]) -> None:
    """Replace this process by a launcher of as many as accelerate was asked for, where it started only one.

    Args:
        arguments: of the selfsup command, passed on to every process.

    Raises:
        ValueError: accelerate was asked for several machines: those that it does not start cannot be started from here.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_PORT" in os.environ
    if not launched or "WORLD_SIZE" in os.environ or "PMI_SIZE" in os.environ or "OMPI_COMM_WORLD_SIZE" in os.environ:
        return
    parent = psutil.Process().parent()
    words = parent.cmdline() if parent else []
    count = asked(words, "--num_processes")
    if (asked(words, "--num_machines") or 1) > 1:
        raise ValueError(
            "accelerate starts a single process on each machine without GPUs\n"
            "start them by torchrun: --nnodes, --nproc-per-node, --rdzv-backend c10d, --rdzv-endpoint HOST:29500"
        )
    if count is None or count < 2:
        return
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    end_with_parent(signal.SIGTERM)  # accelerate passes no signal on to its child
    port, restarts = os.environ.pop("MASTER_PORT"), asked(words, "--max_restarts") or 0
    if port == "0":  # any; but torch's launcher would tell its processes this number, and they would wait for it
        port = str(_free_port())
    launcher = [f"--nproc-per-node={count}", f"--master-port={port}", f"--max-restarts={restarts}"]
    # Without -- it takes --start for an abbreviation of a flag of its own.
    command = [sys.executable, "-m", "torch.distributed.run", *launcher, "--", "-m", "selfsup", *arguments]
    os.execv(sys.executable, command)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        port: int = found.getsockname()[1]
    return port
