"""What `accelerate launch` was asked for, on machines where it starts one process only."""

import os
import signal
import subprocess
import sys
from datetime import timedelta
from types import SimpleNamespace

import psutil
import pytest
import torch
import torch.distributed as dist

from selfsup import distributed
from selfsup.runtime import launch


def test_the_launchers_command_line_is_understood() -> None:
    assert launch.asked("python accelerate launch --num_processes 2 -m selfsup".split(), "--num_processes") == 2
    assert launch.asked("accelerate launch --num-processes=3 -m selfsup".split(), "--num_processes") == 3
    assert launch.asked("accelerate launch --max_restarts 4 -m selfsup".split(), "--num_processes") is None


def started_by(monkeypatch: pytest.MonkeyPatch, words: str, port: str) -> list[list[str]]:
    """What this process would be replaced by, where `accelerate launch` with these words started it."""
    line = f"accelerate launch {words} -m selfsup pretrain r.py".split()
    parent = SimpleNamespace(cmdline=lambda: line)
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(parent=lambda: parent))
    monkeypatch.setattr(launch, "end_with_parent", lambda number: None)
    begun: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, command: begun.append(command))
    for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    launch.start_missing_processes(["pretrain", "r.py"])
    return begun


def test_any_free_port_is_found_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's launcher would tell its processes that the port is 0, and they would wait for it for minutes."""
    (command,) = started_by(monkeypatch, "--num_processes 2 --main_process_port 0", "0")
    (port,) = (word.partition("=")[2] for word in command if word.startswith("--master-port"))
    assert int(port) > 0


def test_several_machines_are_not_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="torchrun"):
        started_by(monkeypatch, "--num_processes 4 --num_machines 2", "29500")


@pytest.mark.parametrize(("words", "restarts"), [("", 0), ("--max_restarts 3", 3)])
def test_as_many_processes_and_restarts_as_were_asked_for(
    monkeypatch: pytest.MonkeyPatch, words: str, restarts: int
) -> None:
    begun = started_by(monkeypatch, f"--num_processes 2 {words}", "29500")
    options = ["--nproc-per-node=2", "--master-port=29500", f"--max-restarts={restarts}"]
    assert begun == [
        [sys.executable, "-m", "torch.distributed.run", *options, "--", "-m", "selfsup", "pretrain", "r.py"]
    ]


@pytest.mark.parametrize(("attempt", "joined"), [("0", False), ("2", True)])
def test_a_restart_reads_no_addresses_of_processes_that_ended(
    monkeypatch: pytest.MonkeyPatch, attempt: str, joined: bool
) -> None:
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    settings = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    settings |= {"TORCHELASTIC_RESTART_COUNT": attempt, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in (settings | {"GLOO_SOCKET_IFNAME": "lo"}).items():
        monkeypatch.setenv(name, value)
    distributed.rejoin(torch.device("cpu"), timedelta(seconds=20))
    try:
        assert dist.is_initialized() == joined
        known = [key for key in store.list_keys() if not key.startswith("init/")]
        assert bool(known) == joined
        assert all("attempt_2" in key for key in known), known
    finally:
        distributed.shut_down()


SPOILED_END = """
import atexit, os, sys
import torch.distributed
from selfsup import cli

class Held:  # as a thread of gloo does, while Python takes itself apart
    def __del__(self, sys=sys, os=os):
        if sys.is_finalizing():
            os.abort()

held = Held()
atexit.register(lambda: print("what is registered is done"))
sys.argv = ["selfsup", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.parametrize(("words", "code"), [("recipes", 0), ("knn nothing", 2)])
def test_a_process_of_several_ends_with_its_own_code_whatever_python_meets_at_its_end(words: str, code: int) -> None:
    def run(processes: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"WORLD_SIZE": processes}
        command = [sys.executable, "-c", SPOILED_END, *words.split()]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    assert run("1").returncode == -signal.SIGABRT
    done = run("2")
    assert done.returncode == code, done.stderr
    assert done.stdout.endswith("what is registered is done\n")
