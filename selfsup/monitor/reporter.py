"""What people and metrics.jsonl are told of a run: figures, how fast it goes, pictures of views, similarities."""

import time
from types import TracebackType
from typing import Self

from torch import Tensor

from selfsup.augment.views import Augment
from selfsup.monitor.grid import view_grid
from selfsup.monitor.log import Log
from selfsup.monitor.logger import Ending
from selfsup.monitor.observer import Observer, Phase, Report
from selfsup.monitor.similarities import EDGES, ROWS, similarities
from selfsup.optim.schedules import Horizon

HISTOGRAMS = 100  # of a run that is not interrupted, at most


class Reporter(Observer):
    """Hands on to a log what comes up in a run. For the main process alone.

    Args:
        log: closed when the run is left.
        horizon: of the run.
        augment: which the views are made by.
        step: that the run goes on from.
        evaluate_every: epochs between evaluations, after which there is a picture of views; 0: of the first ones alone.
        by_labels: the method pulls the images of a class together.
    """

    def __init__(
        self, log: Log, horizon: Horizon, augment: Augment, step: int, evaluate_every: int = 0, by_labels: bool = False
    ) -> None:
        self.log, self.horizon, self.augment = log, horizon, augment
        self._first = self._marked_step = self._step = step
        self._between = evaluate_every * horizon.steps_per_epoch  # pictures
        self._by_labels = by_labels
        self._marked = self._judged = self._evaluating = time.monotonic()
        self._warm: tuple[int, float] | None = None  # the first step of this launch, and when it was over
        self._due = 0  # the step whose report has the next histograms

    def __enter__(self) -> Self:
        self._marked = self._judged = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ending: Ending = "finished" if self._step >= self.horizon.total_steps else "stopped"
        self.log.close("failed" if kind is not None else ending)

    def at(self, phase: Phase, step: int) -> None:
        if phase == "evaluating":
            self._evaluating = time.monotonic()

    def before_epoch(self, step: int, figures: dict[str, float]) -> None:
        if figures:
            self.log.scalars(step + 1, figures)  # of the epoch's first step

    def before_step(self, step: int, views: list[Tensor]) -> None:
        if step == self._first or (self._between and step % self._between == 0):
            self.log.image("views", step + 1, view_grid(views, self.augment))

    def report(self, report: Report) -> None:
        now = time.monotonic()
        images = (report.step - self._marked_step) * self.horizon.batch_size
        report.figures["images_per_second"] = images / (now - self._marked)
        self._marked, self._marked_step = now, report.step
        if report.shown is not None and report.step >= self._due:
            self._due = report.step + -(-self.horizon.total_steps // HISTOGRAMS)
            self._spread(report, *report.shown)

    def _spread(self, report: Report, rows: Tensor, partners: Tensor) -> None:
        """Log how alike positives and negatives are. A report waits for the device anyway."""
        labels = report.labels.cpu()
        rows, partners = (part[:ROWS].float().cpu() for part in (rows, partners))
        found = similarities(rows, partners, len(labels), labels if self._by_labels else None)
        self.log.histogram("similarity/positive", report.step, found.positive, EDGES)
        self.log.histogram("similarity/negative", report.step, found.negative, EDGES)

    def after_step(self, step: int, figures: dict[str, float] | None) -> None:
        if figures is not None:
            self.log.scalars(step, figures)
        self._step = step
        self._warm = self._warm or (step, time.monotonic())
        self.log.advance(step, self._left(step))

    def after_epoch(self, step: int, figures: dict[str, float]) -> None:
        if figures:
            now = time.monotonic()
            # What lies between two evaluations, or between the start of this launch and the first one, and this one.
            costs = {"seconds_training": self._evaluating - self._judged, "seconds_evaluation": now - self._evaluating}
            self._judged = now
            self.log.scalars(step, figures | {name: round(value, 3) for name, value in costs.items()}, "eval")
        self.log.epoch(step // self.horizon.steps_per_epoch, self.horizon.epochs, self._left(step))
        self._marked = time.monotonic()  # an evaluation is not training

    def _left(self, step: int) -> float | None:
        """Seconds until the last step at the pace so far, evaluations among it; None where that is not known yet.

        Without the first step, in which code is compiled and images are read for the first time.
        """
        if self._warm is None or step <= self._warm[0]:
            return None
        first, over = self._warm
        return (self.horizon.total_steps - step) * (time.monotonic() - over) / (step - first)
