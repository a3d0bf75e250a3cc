"""What a person and metrics.jsonl are told of a run: figures, how fast it goes, and a picture of the views."""

import time
from types import TracebackType
from typing import Self

from torch import Tensor

from selfsup.augment.views import Augment
from selfsup.monitor.grid import view_grid
from selfsup.monitor.log import Log
from selfsup.monitor.observer import Observer, Report
from selfsup.optim.schedules import Horizon


class Reporter(Observer):
    """Hands on to a log what comes up in a run. For the main process alone.

    Args:
        log: closed when the run is left.
        horizon: of the run.
        augment: which the views are made by.
        step: that the run goes on from.
    """

    def __init__(self, log: Log, horizon: Horizon, augment: Augment, step: int) -> None:
        self.log, self.horizon, self.augment = log, horizon, augment
        self._first = self._marked_step = step
        self._begin = self._marked = time.monotonic()

    def __enter__(self) -> Self:
        self._begin = self._marked = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.log.close()

    def before_epoch(self, step: int, figures: dict[str, float]) -> None:
        if figures:
            self.log.scalars(step + 1, figures)  # of the epoch's first step

    def before_step(self, step: int, views: list[Tensor]) -> None:
        if step == self._first or step % self.horizon.steps_per_epoch == 0:
            self.log.images("views", step, view_grid(views, self.augment))

    def report(self, report: Report) -> None:
        now = time.monotonic()
        images = (report.step - self._marked_step) * self.horizon.batch_size
        report.figures["images_per_second"] = images / (now - self._marked)
        self._marked, self._marked_step = now, report.step

    def after_step(self, step: int, figures: dict[str, float] | None) -> None:
        if figures is not None:
            self.log.scalars(step, figures)
        self.log.advance(step)

    def after_epoch(self, step: int, figures: dict[str, float]) -> None:
        if figures:
            self.log.scalars(step, figures)
        now = time.monotonic()
        left = (self.horizon.total_steps - step) * (now - self._begin) / (step - self._first)
        self.log.epoch(step // self.horizon.steps_per_epoch, self.horizon.epochs, left)
        self._marked = now  # an evaluation is not training
