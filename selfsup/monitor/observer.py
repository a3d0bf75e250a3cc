"""What looks on while something is trained: the moments of a run, at which an observer is told or asked."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from torch import Tensor

from selfsup.batch import Batch

Phase = Literal["starting", "loading", "compiling", "step", "deciding", "saving", "evaluating", "clustering"]


class Diverged(ValueError):
    """The loss or the weights are not finite any more, or the features have collapsed."""


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A step whose gradients are there, and of which nothing is written yet."""

    step: int  # the first one is 0
    views: list[Tensor]  # of this process, as the method saw them
    batch: Batch  # of this process: labels and indices on the device
    loss: Tensor  # ()
    update: dict[str, Tensor]  # what is to be handed to memory
    norm: Tensor | None  # of the whole gradient, where it is known already


@dataclass(frozen=True, kw_only=True)
class Report:
    """The figures of a step that is reported, the same in every process; observers may add theirs."""

    step: int  # the first one is 1
    labels: Tensor  # (B,) of this process's images, on the device
    figures: dict[str, float]
    shown: tuple[Tensor, Tensor] | None = None  # `Step.shown` of the last step that counted


class Observer:
    """Looks on at a run, from when it is entered until it is left; does nothing at a moment that is not its own.

    Every process tells its observers of the same moments in the same order. What is collective in an observer must be
    in every process. What one raises ends the run.
    """

    behind: int = 0  # steps that may follow one before `left_out` says that it is to be left out

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def at(self, phase: Phase, step: int) -> None:
        """From here on the run does this, after so many steps."""

    def before_epoch(self, step: int, figures: dict[str, float]) -> None:
        """An epoch begins after so many steps, and what its beginning has found out are these figures."""

    def before_step(self, step: int, views: list[Tensor]) -> None:
        """The views of a step are made, the first one is 0, and nothing is computed yet."""

    def allows(self, taken: Taken) -> bool:
        """Whether the step may change anything; the same in every process. Else it must be as if it had not been."""
        return True

    def written(self, taken: Taken) -> None:
        """The step has written what it writes."""

    def left_out(self, everything: bool) -> int | None:
        """The first step, of those that were allowed, that is left out after all; the first one is 0.

        Everything is then as it was before that step, and those after it are to be taken again. None: there is none.

        Args:
            everything: whether to wait until all steps are known; else the last `behind` ones may stay open.
        """
        return None

    def report(self, report: Report) -> None:
        """Figures may be added to `report.figures`; what an observer before this one has added is there."""

    def after_step(self, step: int, figures: dict[str, float] | None) -> None:
        """The step is over, the first one is 1; with the figures of its report, if it is reported."""

    def due(self, step: int) -> bool:
        """Whether this process wants a checkpoint after the step; one that wants it is enough."""
        return False

    def after_epoch(self, step: int, figures: dict[str, float]) -> None:
        """An epoch has ended with this step, and these are the figures of its evaluation, if there was one."""

    def at_checkpoint(self, step: int, loss: Tensor | None, last: bool) -> None:
        """The state after this step is to be saved; before observers that save, others may refuse it.

        Args:
            step: the first one is 1.
            loss: () of the last step of this launch that was not left out; None where there was none.
            last: whether the run stops here, so that what is saved must be on the disk.
        """


class Observers(Observer):
    """Several as one: told in their order, left in the opposite order."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self.all = tuple(observers)
        self.behind = max((observer.behind for observer in self.all), default=0)
        self._entered = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as entered:
            for observer in self.all:
                entered.enter_context(observer)
            self._entered = entered.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.__exit__(kind, error, trace)

    def at(self, phase: Phase, step: int) -> None:
        for observer in self.all:
            observer.at(phase, step)

    def before_epoch(self, step: int, figures: dict[str, float]) -> None:
        for observer in self.all:
            observer.before_epoch(step, figures)

    def before_step(self, step: int, views: list[Tensor]) -> None:
        for observer in self.all:
            observer.before_step(step, views)

    def allows(self, taken: Taken) -> bool:
        return all([observer.allows(taken) for observer in self.all])  # each is asked

    def written(self, taken: Taken) -> None:
        for observer in self.all:
            observer.written(taken)

    def left_out(self, everything: bool) -> int | None:
        found = [observer.left_out(everything) for observer in self.all]
        return min((step for step in found if step is not None), default=None)

    def report(self, report: Report) -> None:
        for observer in self.all:
            observer.report(report)

    def after_step(self, step: int, figures: dict[str, float] | None) -> None:
        for observer in self.all:
            observer.after_step(step, figures)

    def due(self, step: int) -> bool:
        return any([observer.due(step) for observer in self.all])

    def after_epoch(self, step: int, figures: dict[str, float]) -> None:
        for observer in self.all:
            observer.after_epoch(step, figures)

    def at_checkpoint(self, step: int, loss: Tensor | None, last: bool) -> None:
        for observer in self.all:
            observer.at_checkpoint(step, loss, last)
