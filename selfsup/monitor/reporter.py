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
        self._marked = time.monotonic()
        self._warm: tuple[int, float] | None = None  # the first step of this launch, and when it was over

    def __enter__(self) -> Self:
        self._marked = time.monotonic()
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
        self._warm = self._warm or (step, time.monotonic())
        self.log.advance(step, self._left(step))

    def after_epoch(self, step: int, figures: dict[str, float]) -> None:
        if figures:
            self.log.scalars(step, figures)
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
