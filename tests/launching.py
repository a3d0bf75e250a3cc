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
from tiny import tiny_run

import selfsup.pretrain
import selfsup.trainer
from selfsup import checkpoint, distributed
from selfsup.pretrain import Run

TESTS = Path(__file__).parent


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
        os.kill(os.getpid(), getattr(signal, self.act))


def _before(owner: Any, name: str, action: Callable[..., None]) -> None:
    """Have `action` called with the arguments of a function, ahead of it."""
    plain = getattr(owner, name)

    def both(*args: Any, **named: Any) -> Any:
        action(*args)
        return plain(*args, **named)

    setattr(owner, name, both)


def _arm(plan: Plan) -> None:
    if plan.place == "start":
        _before(selfsup.pretrain, "build_method", lambda *_: plan.happen())
    elif plan.place == "step":
        _before(selfsup.trainer._Run, "step", lambda _, step, *__: plan.happen() if step >= plan.step else None)
    elif plan.place == "evaluation":
        _before(selfsup.pretrain, "knn_accuracy", lambda *_: plan.happen())
    else:
        _before(selfsup.trainer._Run, "save", lambda *_: _on_saving(plan))


def _on_saving(plan: Plan) -> None:
    """The first process writes: it meets its signal in the middle of that. The others wait for it."""
    if distributed.rank() == 0:
        _before(os, "fsync", lambda _: plan.happen())
    else:
        plan.happen()


def planned_run(folder: str, changes: dict[str, Any]) -> Run:
    """What the recipe that `Launch` writes makes: a tiny run in which the plan of this launch happens."""
    if os.environ.get("SELFSUP_TEST_PLAN"):
        _arm(Plan(**json.loads(os.environ["SELFSUP_TEST_PLAN"])))
    return tiny_run(Path(folder), **changes)


def recipe(path: Path, folder: Path, **changes: Any) -> Path:
    """A recipe file of `planned_run`."""
    path.write_text(
        f"import sys\nsys.path.insert(0, {str(TESTS)!r})\nfrom launching import planned_run\n"
        f"recipe = planned_run({str(folder)!r}, {changes!r})\n"
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
    return os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"} | planned | more


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
