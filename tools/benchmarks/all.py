"""The most telling figures within a time: `python -m tools.benchmarks.all --minutes 8 --out FILE.jsonl`.

Runs the other benchmarks one after the other, those that tell most first, each in a process of its own. One that has no
time left is cut off or left out, which is a line too, so that this always ends in time. Lines come as they are made.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from selfsup.output import print_figures, program


class Part(NamedTuple):
    """A benchmark, how it is called here, and the share of the time that it may take at most."""

    name: str
    flags: tuple[str, ...]
    share: float


PARTS = (
    Part("augment", ("--size", "32", "--runs", "5"), 0.15),
    Part("augment", ("--size", "224", "--runs", "5"), 0.2),
    Part("step", ("--setting", "simclr_cifar10_cpu", "--runs", "5"), 0.1),
    Part("startup", ("--only", "import_torch", "help", "first_step", "--runs", "2"), 0.15),
    Part("loss", ("--minutes", "1", "--images", "256", "1024", "2048"), 0.3),
    Part("knn", ("--images", "50000", "--queries", "2000", "--dim", "512", "--runs", "2"), 0.25),
    Part("cluster", ("--images", "10000", "--runs", "1"), 0.3),
    Part("knn", ("--growth", "--queries", "200", "--threads", "1", "--runs", "2"), 0.2),
    Part("augment", ("--growth", "--runs", "2"), 0.2),
)


def run_all(minutes: float, out: Path | None) -> int:
    """Every part in turn; returns how many failed, those cut off not counted."""
    begin, failed, lines = time.monotonic(), 0, list[dict[str, object]]()

    def keep(line: dict[str, object]) -> None:
        lines.append(line)
        print_figures(line)
        if out is not None:
            out.write_text("".join(json.dumps(one) + "\n" for one in lines))

    for part in PARTS:
        left = begin + 60 * minutes - time.monotonic()
        about = {"name": part.name, "flags": " ".join(part.flags)}
        if left < 1:
            keep({**about, "left_out": "no time was left"})
            continue
        granted = min(left, 60 * minutes * part.share)
        code, said = run_for(_command(part), granted, keep)
        if code is None:
            keep({**about, "cut_off": f"after {granted:.0f} s"})
        elif code != 0:
            failed += 1
            keep({**about, "failed": said or f"exit status {code}"})
    return failed


def _command(part: Part) -> list[str]:
    return [sys.executable, "-m", f"tools.benchmarks.{part.name}", *part.flags]


def run_for(command: list[str], seconds: float, keep: Callable[[dict[str, object]], None]) -> tuple[int | None, str]:
    """Exit status (None: it was cut off) and last line of errors of a command, whose lines are kept as they come."""
    with tempfile.TemporaryFile("w+") as errors:
        # A group of its own, so that what it has started ends with it and holds nothing up.
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        ) as process:
            over = threading.Timer(seconds, _end, [process.pid])
            over.start()
            assert process.stdout is not None
            try:
                for text in process.stdout:
                    keep(json.loads(text))
                code = process.wait()
            finally:
                in_time = over.is_alive()
                over.cancel()
                if process.poll() is None:  # this program was interrupted
                    _end(process.pid)
        errors.seek(0)
        last = errors.read().strip().rpartition("\n")[2]
    return code if in_time else None, last


def _end(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, help="a file for the lines, too")
    arguments = parser.parse_args()
    return 1 if run_all(arguments.minutes, arguments.out) else 0


if __name__ == "__main__":
    with program():
        sys.exit(main())
