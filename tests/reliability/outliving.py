"""What is around a run goes away: its launcher, and whoever listens to it."""

import contextlib
import fcntl
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.reliability.figure import Figure, Measured
from tests.support.launching import Launch, Plan, await_, environment, free_port, recipe, steps_logged, torchrun

_SECONDS = 10.0  # of R23
_PLENTY = 600.0  # until a run trains, or ends by itself, also on a busy machine


class _Case(NamedTuple):
    """A launcher, and how it, or what it started, ends."""

    launcher: str
    processes: int
    act: str  # the name of a signal
    victim: str = "launcher"  # or "middle": torchrun's agent below accelerate
    hangs: bool = False  # one rank, so that the other one waits in a collective

    def command(self, path: Path, folder: Path) -> list[str]:
        if self.launcher == "torchrun":
            options = (f"--nproc-per-node={self.processes}", f"--master-port={free_port()}")
            return [*torchrun(*options), str(path), "--folder", str(folder)]
        words = f"--cpu --num_processes {self.processes} --main_process_port 0 -m selfsup pretrain".split()
        return [sys.executable, "-m", "accelerate.commands.launch", *words, str(path), "--folder", str(folder)]


_CASES = (
    _Case("torchrun", 2, "SIGKILL"),
    _Case("torchrun", 2, "SIGKILL", hangs=True),
    _Case("torchrun", 2, "SIGTERM"),
    _Case("accelerate", 2, "SIGKILL"),
    _Case("accelerate", 2, "SIGKILL", hangs=True),
    _Case("accelerate", 2, "SIGTERM"),
    _Case("accelerate", 2, "SIGKILL", victim="middle"),
    _Case("accelerate", 1, "SIGKILL"),
    _Case("accelerate", 1, "SIGTERM"),
)


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _outlived(case: _Case, folder: Path) -> dict[str, Any]:
    """How long the ranks live after what started them is gone, and whether its folder is free then."""
    run, marker = folder / "run", folder / "hangs"
    path = recipe(folder / "recipe.py", run, epochs=400, log_every=1)
    plan = Plan("hang", "step", (1,), str(marker), step=4) if case.hangs else None
    with Launch(folder / "said") as launch:
        launch.start(case.command(path, run), environment(plan))
        launcher = launch.processes[0]
        begun = (folder / "hangs.1").is_file if case.hangs else lambda: steps_logged(run) > 3
        await_(begun, launcher, _PLENTY)
        below = psutil.Process(launcher.pid).children(recursive=True)
        ranks = [one for one in below if "torch.distributed.run" not in one.cmdline()]  # and not torchrun's agent
        victim = psutil.Process(launcher.pid) if case.victim == "launcher" else below[0]
        victim.send_signal(getattr(signal, case.act))
        with contextlib.suppress(psutil.TimeoutExpired):
            victim.wait(_PLENTY)
        lost = time.monotonic()
        while (any(map(_alive, ranks)) or not _is_free(run)) and time.monotonic() < lost + 3 * _SECONDS:
            time.sleep(0.05)
        seconds, left = time.monotonic() - lost, sum(map(_alive, ranks))
        row = case._asdict() | {"seconds": round(seconds, 1), "left": left, "free": _is_free(run)}
    return row


def _is_free(run: Path) -> bool:
    """Whether another launch may go on in a run folder."""
    with open(run / ".lock", "w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def measure_launchers(folder: Path, quick: bool) -> Measured:
    """Launchers that end, however they do."""
    rows = []
    for number, case in enumerate(_CASES[:4] if quick else _CASES):
        (folder / str(number)).mkdir()
        rows.append(_outlived(case, folder / str(number)))
    wrong = [row for row in rows if row["left"] or row["seconds"] > _SECONDS or not row["free"]]
    slowest = max(row["seconds"] for row in rows)
    figure = f"{len(rows) - len(wrong)} of {len(rows)} cases, slowest {slowest:.1f} s"
    return Measured(figure, not wrong, "", {"cases": rows})


# Output that cannot be written

_SINKS = {  # where it goes, and who reads it
    "both to a full disk": (">/dev/full 2>/dev/full", ""),
    "figures to a full disk": (">/dev/full", ""),
    "messages to a full disk": ("2>/dev/full", ""),
    "a reader that leaves": ("2>&1", "| head -n 1"),
    "closed streams": (">&- 2>&-", ""),
}


def _said_to(sink: str, words: list[str], folder: Path) -> tuple[int, str]:
    """The exit code of a command whose output goes to a sink, and what is read of it all the same."""
    where, reader = _SINKS[sink]
    code = folder / "code"
    command = ["sh", "-c", f'{{ "$@" {where}; echo $? >{code}; }} {reader}', "sh", *words]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=_PLENTY)
    return int(code.read_text()), done.stdout + done.stderr


def measure_output(folder: Path, quick: bool) -> Measured:
    """A run, a stage and a help text whose output cannot be written."""
    selfsup = [sys.executable, "-m", "selfsup"]
    rows = []
    for sink in list(_SINKS)[1:4] if quick else list(_SINKS):
        place = folder / sink.replace(" ", "_")
        place.mkdir()
        path = recipe(place / "recipe.py", place / "run", epochs=1)
        code, said = _said_to(sink, [*selfsup, "pretrain", str(path)], place)
        row = {"sink": sink, "pretrain": code, "finished": (place / "run" / "encoder.safetensors").is_file()}
        code, more = _said_to(sink, [*selfsup, "knn", str(place / "run"), "--k", "5"], place)
        row |= {"knn": code, "kept": (place / "run" / "results" / "knn.json").is_file()}
        code, help_said = _said_to(sink, [*selfsup, "finetune", str(place / "run"), "--help"], place)
        row |= {"help": code, "tracebacks": sum(text.count("Traceback") for text in (said, more, help_said))}
        rows.append(row)
    lost = {sink for sink in _SINKS if sink != "messages to a full disk"}
    wrong = [
        row
        for row in rows
        for expected in [74 if row["sink"] in lost else 0]
        if not (row["finished"] and row["kept"] and row["pretrain"] == row["knn"] == expected and not row["tracebacks"])
    ]
    figure = f"{len(rows) - len(wrong)} of {len(rows)} kinds of lost output: run finished, figures kept, said by 74"
    return Measured(figure, not wrong, "", {"cases": rows, "wrong": json.dumps(wrong)})


FIGURES: tuple[Figure, ...] = (
    Figure("R23", f"ranks end within {_SECONDS:.0f} s of their launcher's end, however it ends", 4, measure_launchers),
    Figure("output", "output that cannot be written ends no run and loses no figure", 3, measure_output),
)
