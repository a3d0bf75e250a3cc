"""What a part of `tools.gpu_check` is asked to do, and how it tells what it found."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One part of the check.

    Args:
        part: its name, which every line of it bears.
        small: everything tiny, so that a CPU can do it too.
        out: folder of the report, of the run and of what is made for it.
        data: folders or files in which CIFAR-10 may be.
        epochs: of the learning part.
        end: the moment of `time.monotonic()` at which the part should have ended.
        stream: the open file of the lines; 1 is standard output.
    """

    part: str
    small: bool
    out: Path
    data: tuple[Path, ...]
    epochs: int
    end: float
    stream: int = 1

    @property
    def left(self) -> float:
        """Seconds until the end."""
        return self.end - time.monotonic()

    def tell(self, **figures: Any) -> None:
        """One line of JSON, on the stream and in the report, at once: what comes next may never return."""
        finite = {
            name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in figures.items()
        }
        line = json.dumps({"check": self.part} | finite) + "\n"
        with open(self.out / "report.jsonl", "a") as report:
            report.write(line)
        os.write(self.stream, line.encode())

    def attempt(self, what: dict[str, Any], work: Callable[[], bool]) -> bool:
        """Whether `work()` says so; what it raises is told, and costs no other figure.

        Args:
            what: names the figure, in the line about a failure.
            work: returns whether all was well.
        """
        try:
            return work()
        except Exception as error:  # whatever it is, the other figures are worth having
            self.tell(**what, ok=False, error=f"{type(error).__name__}: {error}"[:2000])
            return False
