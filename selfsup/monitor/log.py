"""Where figures go: metrics.jsonl, loggers such as TensorBoard, and the terminal."""

import contextlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch import Tensor

from selfsup.monitor.groups import Group
from selfsup.monitor.logger import Ending
from selfsup.monitor.loggers import Loggers
from selfsup.output import console, message
from selfsup.storage.checkpoint import write_atomically
from selfsup.storage.untrusted import open_own, read_bytes

_WIDE = 100  # columns of a terminal that have room for a long bar
# What evaluations find, and how people read it.
_JUDGED = {"knn_top1": "kNN", "top1": "top-1", "distill_top1": "top-1", "agreement": "agreement"}
_MINUTE = 99.5  # seconds up to which they are counted


class Log:
    """Writes the figures of a run; a second life of a run goes on where its checkpoint was.

    No run ends because a figure cannot be written: that is said once, and no more are written there.

    Args:
        metrics: the JSON-lines file; lines of steps after `step` (which will be run again) are dropped.
        loggers: are told the same figures, and all pictures and histograms; closed with the log.
        step: the step that the run starts from.
        total: the last step of the run.
        accuracy_is: what people read in place of "accuracy".
    """

    def __init__(self, metrics: Path, loggers: Loggers, step: int, total: int, accuracy_is: str = "accuracy"):
        _drop_after(metrics, step)
        self._file = open_own(metrics, "a")
        self._loggers = loggers
        self._last: dict[str, float] = {}
        self._writing = True
        self._accuracy_is = accuracy_is
        # Where lines cannot be drawn anew there is no bar, and the line of an epoch says how fast it goes.
        self._drawn = console().is_terminal and not console().is_dumb_terminal
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=40 if console().width >= _WIDE else 12),
            TextColumn("{task.fields[told]}"),
            console=console(),
            disable=not self._drawn,
        )
        self._task = self._progress.add_task("steps", total=total, completed=step, told="")
        self._progress.start()

    def scalars(self, step: int, values: dict[str, float], otherwise: Group = "train") -> None:
        """Log figures by their names, as they stand, for one step.

        Loggers show each in its group of `selfsup.monitor.groups`; in `otherwise` where it has none there.
        """
        self._last |= values
        with self._unless_it_fails() as writing:
            if writing:
                self._file.write(json.dumps({"step": step, "time": round(time.time(), 3)} | _finite(values)) + "\n")
        self._loggers.scalars(step, values, otherwise)

    def image(self, name: str, step: int, picture: Tensor) -> None:
        """Log a picture: (3, H, W) in [0, 1]."""
        self._loggers.image(name, step, picture)

    def histogram(self, name: str, step: int, values: Tensor, edges: Tensor) -> None:
        """Log how (n,) values of the CPU are spread over the bins between (bins + 1,) ascending edges."""
        self._loggers.histogram(name, step, values, edges)

    @contextlib.contextmanager
    def _unless_it_fails(self) -> Iterator[bool]:
        """Whether figures are still written; a disk that does not take them is told, and ends that."""
        try:
            yield self._writing
        except OSError as error:
            if self._writing:
                message(f"figures are not logged any more: {self._file.name}: {error.strerror or error}")
            self._writing = False

    def advance(self, step: int, left: float | None) -> None:
        """Move the progress bar, which shows the figures last logged and the seconds that are left."""
        figures = [f"loss {self._last['loss']:.4g}"] if "loss" in self._last else []
        self._progress.update(self._task, completed=step, told="  ".join([*figures, *self._pace(left)]))

    def epoch(self, epoch: int, epochs: int, left: float | None) -> None:
        """One line for a finished epoch, also where there is no terminal; `left`: seconds."""
        figures = told(self._last, self._accuracy_is)
        message("  ".join([f"epoch {epoch}/{epochs}", *figures, *([] if self._drawn else self._pace(left))]))
        for name in _JUDGED:  # of this epoch, and not of the next, where nothing may be judged
            self._last.pop(name, None)

    def _pace(self, left: float | None) -> list[str]:
        rate = self._last.get("images_per_second")
        return [
            *([] if rate is None else [f"{rate:,.0f} images/s"]),
            *([] if left is None else [f"{duration(left)} left"]),
        ]

    def close(self, ending: Ending = "stopped") -> None:
        self._progress.stop()
        self._loggers.finish(ending)
        with self._unless_it_fails():
            self._file.close()


def told(figures: dict[str, float], accuracy_is: str) -> list[str]:
    """What people read of the figures last logged.

    Where nothing is judged, for want of labels, the spread of features stands in its place, which tells learning from
    collapse.
    """
    parts = [f"loss {figures['loss']:.4g}"] if "loss" in figures else []
    if "accuracy" in figures:
        parts.append(f"{accuracy_is} {100 * figures['accuracy']:.1f} %")
    shares = [f"{name} {100 * figures[key]:.1f} %" for key, name in _JUDGED.items() if key in figures]
    if shares:
        return [*parts, *shares]
    spread = {"feature_std": "std {:.2f}", "feature_rank": "rank {:.0f}"}
    found = [form.format(figures[name]) for name, form in spread.items() if name in figures]
    return [*parts, f"feature {', '.join(found)}"] if found else parts


def duration(seconds: float) -> str:
    """ "45 s", "12 min", "3 h 20 min", as exact as an estimate is."""
    minutes = round(seconds / 60)
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def _finite(values: dict[str, float]) -> dict[str, Any]:
    return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}


def last_steps(metrics: Path) -> dict[str, int]:
    """The last step at which each figure was logged, by its name; those that `Log` would drop among them."""
    return {name: step for _, step, names in _read(metrics) for name in names}


def _read(metrics: Path) -> list[tuple[str, int, list[str]]]:
    """Each line, with its step and the names of its figures; without those that a crash cut off."""
    if not metrics.is_file():
        return []
    found = []
    for line in read_bytes(metrics).decode(errors="replace").splitlines():
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            continue
        step = content.get("step") if isinstance(content, dict) else None
        if isinstance(step, int):
            found.append((line, step, [name for name in content if name not in ("step", "time")]))
    return found


def _drop_after(metrics: Path, step: int) -> None:
    """Drop lines of later steps, and a last line that a crash cut off."""
    if not metrics.is_file():
        return
    lines = read_bytes(metrics).decode(errors="replace").splitlines()
    kept = [line for line, of, _ in _read(metrics) if of <= step]
    if kept != lines:
        write_atomically(metrics, "".join(f"{line}\n" for line in kept).encode())
