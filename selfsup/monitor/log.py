"""Where figures go: metrics.jsonl, TensorBoard, and the terminal."""

import contextlib
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch import Tensor

from selfsup.output import console, message
from selfsup.packages import missing
from selfsup.storage.checkpoint import write_atomically
from selfsup.storage.untrusted import open_own, read_bytes

_WIDE = 100  # columns of a terminal that have room for a long bar
_MINUTE = 99.5  # seconds up to which they are counted


class Log:
    """Writes the figures of a run; a second life of a run goes on where its checkpoint was.

    No run ends because a figure cannot be written: that is said once, and no more are written.

    Args:
        metrics: the JSON-lines file; lines of steps after `step` (which will be run again) are dropped.
        tensorboard: folder of the event files.
        step: the step that the run starts from.
        total: the last step of the run.
        accuracy_is: what people read in place of "accuracy".
    """

    def __init__(self, metrics: Path, tensorboard: Path, step: int, total: int, accuracy_is: str = "accuracy"):
        _drop_after(metrics, step)
        self._file = open_own(metrics, "a")
        self._board = _board(tensorboard, step)
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

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Log figures by their names, as they stand, for one step."""
        self._last |= values
        with self._unless_it_fails() as writing:
            if writing:
                self._file.write(json.dumps({"step": step, "time": round(time.time(), 3)} | _finite(values)) + "\n")
                for name, value in values.items() if self._board else ():
                    self._board.add_scalar(name, value, step)

    def images(self, name: str, step: int, grid: Tensor) -> None:
        """Log a picture: (3, H, W) in [0, 1]."""
        with self._unless_it_fails() as writing:
            if writing and self._board:
                self._board.add_image(name, grid, step)

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

    def _pace(self, left: float | None) -> list[str]:
        rate = self._last.get("images_per_second")
        return [
            *([] if rate is None else [f"{rate:,.0f} images/s"]),
            *([] if left is None else [f"{duration(left)} left"]),
        ]

    def close(self) -> None:
        self._progress.stop()
        with self._unless_it_fails():
            if self._board:
                self._board.close()
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
    judged = {"knn_top1": "kNN", "top1": "top-1", "distill_top1": "top-1", "agreement": "agreement"}
    shares = [f"{name} {100 * figures[key]:.1f} %" for key, name in judged.items() if key in figures]
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


def _board(folder: Path, step: int) -> Any:
    """The writer of event files; None, which is said, where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import
    except ModuleNotFoundError as error:
        if (sentence := missing(error, "a picture of the run in TensorBoard")) is None:
            raise
        message(f"{sentence}\nthe figures are in metrics.jsonl all the same")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def _finite(values: dict[str, float]) -> dict[str, Any]:
    return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}


def _drop_after(metrics: Path, step: int) -> None:
    """Drop lines of later steps, and a last line that a crash cut off."""
    if not metrics.is_file():
        return
    lines, kept = read_bytes(metrics).decode(errors="replace").splitlines(), []
    for line in lines:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    if kept != lines:
        write_atomically(metrics, "".join(f"{line}\n" for line in kept).encode())
