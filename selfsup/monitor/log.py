"""Where figures go: metrics.jsonl, TensorBoard, and the terminal."""

import contextlib
import json
import math
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from selfsup.output import console, message
from selfsup.packages import missing
from selfsup.storage.checkpoint import write_atomically
from selfsup.storage.untrusted import open_own, read_bytes


class Log:
    """Writes the figures of a run; a second life of a run goes on where its checkpoint was.

    No run ends because a figure cannot be written: that is said once, and no more are written.

    Args:
        metrics: the JSON-lines file; lines of steps after `step` (which will be run again) are dropped.
        tensorboard: folder of the event files.
        step: the step that the run starts from.
        total: the last step of the run.
    """

    def __init__(self, metrics: Path, tensorboard: Path, step: int, total: int):
        _drop_after(metrics, step)
        self._file = open_own(metrics, "a")
        self._board = _board(tensorboard, step)
        self._last: dict[str, float] = {}
        self._writing = True
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.0f} images/s, left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console(),
            disable=not console().is_terminal,
        )
        self._task = self._progress.add_task("steps", total=total, completed=step, rate=0.0, figures="")
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

    def advance(self, step: int) -> None:
        """Move the progress bar; shows the figures last logged."""
        figures = " ".join(f"{name} {self._last[name]:.3f}" for name in ("loss", "knn_top1") if name in self._last)
        self._progress.update(
            self._task, completed=step, rate=self._last.get("images_per_second", 0.0), figures=figures
        )

    def epoch(self, epoch: int, epochs: int, seconds_left: float) -> None:
        """One line for a finished epoch, also where there is no terminal."""
        names = {"loss": "loss", "accuracy": "accuracy", "knn_top1": "kNN", "images_per_second": "images/s"}
        figures = [f"{label} {self._last[name]:.4g}" for name, label in names.items() if name in self._last]
        left = timedelta(seconds=round(seconds_left))
        message(f"epoch {epoch}/{epochs}  {'  '.join(figures)}  left {left}")

    def close(self) -> None:
        self._progress.stop()
        with self._unless_it_fails():
            if self._board:
                self._board.close()
        with self._unless_it_fails():
            self._file.close()


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
