"""Runs of several processes, started as launchers start them, with signals and faults at chosen places."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil

import selfsup.evaluation.online
import selfsup.pretraining
from selfsup import distributed
from selfsup.pretraining import Run
from selfsup.storage import checkpoint
from selfsup.training import trainer
from tests.support.places import ROOT
from tests.support.tiny import tiny_run


class Plan(NamedTuple):
    """What is to happen in a run, once, and where."""

    act: str  # the name of a signal; or "hang", or "raise"
    place: Literal["start", "step", "evaluation", "saving"]
    ranks: tuple[int, ...]
    marker: str  # a file that tells when it happened, and by its presence that it has
    step: int = 0  # not before this one

    def happen(self) -> None:
        marker = Path(f"{self.marker}.{distributed.rank()}")
        if distributed.rank() not in self.ranks or marker.exists():
            return
        marker.write_text(json.dumps({"time": time.time(), "pid": os.getpid()}))
        if self.act == "raise":
            raise LookupError("no such luck")
        if self.act == "hang":
            threading.Event().wait()
        signal.raise_signal(getattr(signal, self.act))


def _before(owner: Any, name: str, action: Callable[..., None]) -> None:
    """Have `action` called with the arguments of a function, ahead of it."""
    plain = getattr(owner, name)

    def both(*args: Any, **named: Any) -> Any:
        action(*args)
        return plain(*args, **named)

    setattr(owner, name, both)


def arm(plan: Plan) -> None:
    """Have the plan happen in this process."""
    if plan.place == "start":
        _before(selfsup.pretraining, "online_evaluation", lambda *_: plan.happen())
    elif plan.place == "step":
        _before(trainer.Trainer, "step", lambda _, step, *__: plan.happen() if step >= plan.step else None)
    elif plan.place == "evaluation":
        _before(selfsup.evaluation.online, "knn_accuracy", lambda *_: plan.happen())
    else:
        _before(trainer.Trainer, "save", lambda *_: _on_saving(plan))


def _on_saving(plan: Plan) -> None:
    """The first process writes: it meets its signal in the middle of that. The others wait for it."""
    if distributed.rank() == 0:
        _before(os, "fsync", lambda _: plan.happen())
    else:
        plan.happen()


def planned_run(folder: str, changes: dict[str, Any]) -> Run:
    """What the recipe that `Launch` writes makes: a tiny run in which the plan of this launch happens."""
    if os.environ.get("SELFSUP_TEST_PLAN"):
        arm(Plan(**json.loads(os.environ["SELFSUP_TEST_PLAN"])))
    return tiny_run(Path(folder), **changes)


def recipe(path: Path, folder: Path, **changes: Any) -> Path:
    """A recipe file of `planned_run`."""
    path.write_text(
        f"from tests.support.launching import planned_run\nrecipe = planned_run({str(folder)!r}, {changes!r})\n"
    )
    return path


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def environment(plan: Plan | None = None, **more: str) -> dict[str, str]:
    """For a run of several processes on this machine, whose name may not resolve."""
    planned = {"SELFSUP_TEST_PLAN": json.dumps(plan._asdict())} if plan else {}
    threads = os.environ.get("TEST_THREADS", "1")
    return os.environ | {"OMP_NUM_THREADS": threads, "GLOO_SOCKET_IFNAME": "lo"} | planned | more


class Launch:
    """Processes of one launch; what they say is in files. All end with the `with` block at the latest."""

    def __init__(self, said: Path) -> None:
        self.said = said
        self.processes: list[subprocess.Popen[bytes]] = []
        said.mkdir(parents=True)

    def start(self, command: list[str], env: dict[str, str]) -> None:
        number = len(self.processes)
        with open(self.said / f"{number}.out", "wb") as out, open(self.said / f"{number}.err", "wb") as err:
            self.processes.append(subprocess.Popen(command, stdout=out, stderr=err, env=env))

    def __enter__(self) -> "Launch":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
                for member in family:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        member.kill()
            process.wait()

    def wait(self, seconds: float) -> list[int]:
        """The exit codes, once all have ended. Raises subprocess.TimeoutExpired."""
        end = time.monotonic() + seconds
        return [process.wait(max(0.0, end - time.monotonic())) for process in self.processes]

    def errors(self, number: int = 0) -> str:
        return (self.said / f"{number}.err").read_text(errors="replace")

    def result(self) -> dict[str, Any]:
        """The figures that the first process printed."""
        lines = (self.said / "0.out").read_text().splitlines()
        found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return found


@contextlib.contextmanager
def started(world: int, said: Path, recipe: Path, *flags: str, plan: Plan | None = None) -> Iterator[Launch]:
    """Processes without a launcher, as srun starts them: the first one holds the store."""
    command = [sys.executable, "-m", "selfsup", "pretrain", str(recipe), *flags]
    shared = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    with Launch(said) as launch:
        for rank in range(world):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            launch.start(command, environment(plan, **shared, **own))
        yield launch


def torchrun(*options: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *options, "--", "-m", "selfsup", "pretrain"]


@contextlib.contextmanager
def torchrun_started(
    said: Path, recipe: Path, *flags: str, plan: Plan | None = None, restarts: int = 0
) -> Iterator[Launch]:
    """Two processes below torch's launcher."""
    options = ("--nproc-per-node=2", f"--master-port={free_port()}", f"--max-restarts={restarts}")
    with Launch(said) as launch:
        launch.start([*torchrun(*options), str(recipe), *flags], environment(plan))
        yield launch


def same_weights(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same files, bit for bit: the encoder and the tensors of the newest checkpoint."""
    if (one / "encoder.safetensors").read_bytes() != (other / "encoder.safetensors").read_bytes():
        return False
    found = [checkpoint.load_newest(folder / "checkpoints")[0] for folder in (one, other)]
    assert found[0] is not None
    assert found[1] is not None
    first, second = found[0].tensors, found[1].tensors
    return first.keys() == second.keys() and all(
        first[group].keys() == second[group].keys()
        and all(value.equal(second[group][name]) for name, value in first[group].items())
        for group in first
    )


# Two nodes in network namespaces of their own, joined by a cable that exists only between them. Nothing of the system's
# own network is touched, and all of it is gone when the processes end.
_NODES = """
ip link set lo up
unshare --net sh -c 'ip link set lo up
until ip link show node >/dev/null 2>&1; do sleep 0.05; done
ip address add 10.77.0.2/24 dev node && ip link set node up && exec "$@"' second $2 &
second=$!
while [ "$(readlink /proc/$second/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.05; done
ip link add node type veth peer name node netns $second || exit 77
ip address add 10.77.0.1/24 dev node && ip link set node up && $1
first=$?
wait $second && exit $first
"""


def _in_namespace() -> list[str]:
    return ["unshare", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"]), "--net"]


def namespaces_refused() -> str:
    """Why two network namespaces cannot be joined here; empty where they can."""
    try:
        tried = subprocess.run(
            [*_in_namespace(), "sh", "-c", _NODES, "sh", "true", "true"], capture_output=True, text=True
        )
    except OSError as error:
        return f"no network namespaces here: {error}"
    return f"no network namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


@contextlib.contextmanager
def two_nodes_started(
    said: Path, recipe: Path, *flags: str, plan: Plan | None = None, restarts: int = 0
) -> Iterator[Launch]:
    """Two nodes with a process and a launcher each; the exit code is 0 where both launchers end with that."""
    nodes = []
    for node in (0, 1):
        place = (f"--node-rank={node}", "--master-addr=10.77.0.1", "--master-port=29500", f"--max-restarts={restarts}")
        nodes.append(" ".join([*torchrun("--nnodes=2", "--nproc-per-node=1", *place), str(recipe), *flags]))
    with Launch(said) as launch:
        launch.start([*_in_namespace(), "sh", "-c", _NODES, "sh", *nodes], environment(plan, GLOO_SOCKET_IFNAME="node"))
        yield launch


class FakeScheduler:
    """`srun` and `scontrol` as far as tools/slurm.sh uses them, on this machine alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.requeued = folder / "requeued"
        programs = folder / "bin"
        programs.mkdir(parents=True)
        # srun hands signals to its task; the task takes its place here.
        (programs / "srun").write_text('#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n')
        (programs / "scontrol").write_text(
            f'#!/bin/sh\n[ "$1" = requeue ] && echo "$2" >>{self.requeued} || echo localhost\n'
        )
        for program in programs.iterdir():
            program.chmod(0o755)

    def begin(self, launch: Launch, *words: str, **settings: str) -> subprocess.Popen[bytes]:
        """Begin the job; the process is the batch script."""
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        job = {"SLURM_JOB_ID": str(free_port()), "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "localhost"}
        env = environment(None, PATH=path, PYTHON=sys.executable, **job) | settings
        launch.start(["bash", str(ROOT / "tools" / "slurm.sh"), *words], env)
        return launch.processes[-1]

    @property
    def requeues(self) -> int:
        return len(self.requeued.read_text().splitlines()) if self.requeued.is_file() else 0


def steps_logged(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return metrics.read_text().count('"loss"') if metrics.is_file() else 0


def await_(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    """Wait until something holds, as long as the process lives."""
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
