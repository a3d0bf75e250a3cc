"""Seconds until a command answers, and until training has taken its first step: `python -m tools.benchmarks.startup`.

Each command is a process of its own. They take turns with what is beside them: Python that does nothing, `import
torch`, which most commands cannot do without, and lightly where the interpreter has it; both libraries import little
before something of theirs is used, so that is measured, too. One JSON line for each: seconds by the wall as median,
minimum and maximum, the median of the process's own seconds on processors, and the ratio of the first to that of
`import torch`. The first round, which reads files for the first time, does not count.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch

from selfsup.output import print_figures, program
from tools.benchmarks.side_by_side import about, short

RECIPE = "simclr_cifar10_cpu"
COMMANDS: dict[str, tuple[str, ...]] = {
    "python": ("-c", "pass"),
    "import_torch": ("-c", "import torch"),
    "import_lightly": ("-c", "import lightly"),
    "from_lightly": ("-c", "import lightly.loss, lightly.transforms"),
    "import_selfsup": ("-c", "import selfsup"),
    "from_selfsup": ("-c", "from selfsup import SimCLR, pretrain"),
    "help": ("-m", "selfsup", "--help"),
    "recipes": ("-m", "selfsup", "recipes"),
    "recipe_help": ("-m", "selfsup", "pretrain", RECIPE, "--help"),
    "methods": ("-m", "selfsup", "methods"),
    "doctor": ("-m", "selfsup", "doctor"),
}
FIRST_STEP = "first_step"  # of the recipe, which is then stopped
GOALS = {"help": 0.5}  # seconds of the processor, at most
_NEEDS = {"import_lightly": "lightly", "from_lightly": "lightly"}
_STEP = ("--data.root", "shapes:512", "--log-every", "1", "--evaluate-every", "0", "--max-steps", "2")
_POLL = 0.001  # seconds between looks at a process
_LATEST = 300.0  # seconds that a command may take


class Spent(NamedTuple):
    """Seconds of a process."""

    wall: float
    processor: float


def spent(command: Sequence[str], enough: Callable[[], bool] | None = None) -> Spent:
    """What a command takes until it ends, or until there is `enough`, when it is killed.

    Raises:
        ValueError: it fails, or takes too long, or ends before there was enough.
    """
    with tempfile.TemporaryFile("w+") as said:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        found = ended = False
        while not ended and not found and time.perf_counter() < begin + _LATEST:
            time.sleep(_POLL)
            number, status, usage = os.wait4(process.pid, os.WNOHANG)
            ended, found = number != 0, enough is not None and enough()
        wall = time.perf_counter() - begin
        if not ended:
            process.kill()
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        last = said.read().strip().rpartition("\n")[2]
    if found or (ended and enough is None and process.returncode == 0):
        return Spent(wall, usage.ru_utime + usage.ru_stime)
    raise ValueError(f"after {wall:.1f} s it {f'ended with {process.returncode}' if ended else 'was killed'}: {last}")


def first_step() -> Spent:
    """From the start of the process until the figures of the first step are in the log of the run."""
    with tempfile.TemporaryDirectory(prefix="selfsup_startup_") as folder:
        log = Path(folder) / "run" / "metrics.jsonl"
        command = [sys.executable, "-m", "selfsup", "pretrain", RECIPE, "--folder", str(log.parent), *_STEP]
        return spent(command, lambda: log.is_file() and '"loss"' in log.read_text())


def in_turn(works: Mapping[str, Callable[[], Spent]], runs: int) -> dict[str, list[Spent]]:
    """What each run of each takes; one that fails in the first round, which does not count, is told and left out."""
    found: dict[str, list[Spent]] = {}
    for name, work in works.items():
        try:
            work()
            found[name] = []
        except ValueError as error:
            print_figures({"name": f"startup/{name}", "failed": str(error)})
    for _ in range(runs):
        for name, times in found.items():
            times.append(works[name]())
    return found


def tell(found: Mapping[str, list[Spent]]) -> None:
    """A line for each."""
    medians = {name: statistics.median(one.wall for one in times) for name, times in found.items()}
    facts = about(torch.device("cpu"), "lightly", "numba")
    for name, times in found.items():
        processor = statistics.median(one.processor for one in times)
        walls = [one.wall for one in times]
        line: dict[str, object] = {"name": f"startup/{name}", "unit": "s", "runs": len(times)}
        line |= {"median": short(medians[name]), "min": short(min(walls)), "max": short(max(walls))}
        line |= {"processor_seconds": short(processor)}
        if "import_torch" in medians:
            line["over_import_torch"] = short(medians[name] / medians["import_torch"])
        if name in GOALS:
            line |= {"goal": GOALS[name], "met": processor < GOALS[name]}
        print_figures(line | facts)


def measure(names: Sequence[str], runs: int) -> None:
    works: dict[str, Callable[[], Spent]] = {}
    for name in names:
        if name in _NEEDS and importlib.util.find_spec(_NEEDS[name]) is None:
            print_figures({"name": f"startup/{name}", "skipped": f"{_NEEDS[name]} is not installed here"})
        else:
            works[name] = first_step if name == FIRST_STEP else partial(spent, [sys.executable, *COMMANDS[name]])
    tell(in_turn(works, runs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = (*COMMANDS, FIRST_STEP)
    parser.add_argument("--only", nargs="+", choices=every, default=every, help="some of them (default: all)")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    measure(arguments.only, max(1, arguments.runs))


if __name__ == "__main__":
    with program():
        main()
