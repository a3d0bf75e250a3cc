"""More epochs for a run that has come to its end: from which epoch to which, and at which learning rate."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

from selfsup.config.checks import require
from selfsup.config.settings import restore
from selfsup.optim.schedules import Constant, Horizon, Schedule, Steps, half_cosine
from selfsup.run_folder.folder import RunFolder
from selfsup.storage import checkpoint

Run = TypeVar("Run")

Rate = Literal["restart", "constant", "continue"]


@dataclass(frozen=True, kw_only=True)
class Extend:
    """More epochs for a finished run.

    The run's own schedule has mostly brought the rate to 0, so the rate of the new epochs has to be stated.
    """

    stored_as: ClassVar[str] = "extend"
    to_epoch: int = 0  # the new end, counted from the run's first epoch; 0: no extension
    # restart: warm-up from 0, then half a cosine from the peak to 0. constant: the peak throughout. continue: the run's
    # own schedule goes on, where that has no end (constant, steps).
    schedule: Rate | None = None
    peak: float = 1.0  # of the rate, as a share of the run's peak rate
    warmup_epochs: float = 0.0  # of a restart

    def __post_init__(self) -> None:
        require(
            self.to_epoch >= 0, f"extend.to_epoch is {self.to_epoch}; it must be the number of the new last epoch, or 0"
        )
        require(
            0 < self.peak < float("inf"),
            f"extend.peak is {self.peak}; it must be positive, such as 0.1 of the run's peak rate",
        )
        require(
            0 <= self.warmup_epochs < float("inf"),
            f"extend.warmup_epochs is {self.warmup_epochs}; it must be 0 or more",
        )


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One extension, as it stands in config.json."""

    stored_as: ClassVar[str] = "segment"
    from_epoch: int  # finished before it began
    to_epoch: int
    schedule: Rate
    peak: float
    warmup_epochs: float

    @property
    def epochs(self) -> int:
        return self.to_epoch - self.from_epoch


@dataclass(frozen=True, kw_only=True)
class Extended(Schedule):
    """The schedule of a run with its extensions, each with its own rate from its own first step."""

    stored_as: ClassVar[str] = "extended"
    own: Schedule
    own_epochs: int
    segments: tuple[Segment, ...]

    def __call__(self, step: int, horizon: Horizon) -> float:
        begun = [s for s in self.segments if step >= s.from_epoch * horizon.steps_per_epoch]
        if not begun or begun[-1].schedule == "continue":
            return self.own(step, horizon._replace(epochs=self.own_epochs))
        segment = begun[-1]
        if segment.schedule == "constant":
            return segment.peak
        step -= segment.from_epoch * horizon.steps_per_epoch
        warmup = round(segment.warmup_epochs * horizon.steps_per_epoch)
        if step < warmup:
            return segment.peak * step / warmup
        return segment.peak * half_cosine((step - warmup) / (segment.epochs * horizon.steps_per_epoch - warmup))

    def progress(self, step: int, horizon: Horizon) -> float:
        """What a method brings to an end with the run's own epochs, such as a rising momentum, stays at its end."""
        return min(1.0, self.own.progress(step, horizon._replace(epochs=self.own_epochs)))


def extended_history(
    extend: Extend, own_epochs: int, own_schedule: Schedule, folder: RunFolder, steps_per_epoch: int
) -> tuple[Segment, ...]:
    """The extensions of a run: those that its folder records, and the one that is asked for now.

    Raises:
        ValueError: the run is not finished, or has gone on otherwise; or no rate is stated that fits.
    """
    known = tuple(restore(segment, Segment, "extensions") for segment in folder.extensions())
    if not extend.to_epoch:
        return known
    if extend.schedule is None:
        raise ValueError(
            "extend.schedule is missing: at the end of a run its learning rate has mostly come to 0\n"
            "give --extend.schedule restart (again by a cosine, with --extend.peak 0.1 from a tenth of the peak rate), "
            "constant, or continue"
        )
    end = known[-1].to_epoch if known else own_epochs
    asked = Segment(
        from_epoch=end if extend.to_epoch > end else _begin(known, extend.to_epoch),
        to_epoch=extend.to_epoch,
        schedule=extend.schedule,
        peak=extend.peak,
        warmup_epochs=extend.warmup_epochs,
    )
    if asked in known:
        return known
    if extend.to_epoch <= end:
        raise ValueError(
            f"extend.to_epoch is {extend.to_epoch}, but {folder.path} goes to epoch {end} already, and not in the way "
            f"asked for\ngive a later epoch, or the same settings as before to go on: {known[-1] if known else 'none'}"
        )
    _check(asked, own_schedule, folder, end * steps_per_epoch)
    return (*known, asked)


def _begin(known: tuple[Segment, ...], to_epoch: int) -> int:
    return next((segment.from_epoch for segment in known if segment.to_epoch == to_epoch), 0)


def _check(asked: Segment, own: Schedule, folder: RunFolder, last_step: int) -> None:
    if asked.schedule == "continue" and not isinstance(own, Constant | Steps):
        raise ValueError(
            f"the schedule {type(own).__name__} has come to its end with the run, so it cannot continue\n"
            "give --extend.schedule restart, or constant with --extend.peak"
        )
    if asked.warmup_epochs >= asked.epochs:
        raise ValueError(
            f"extend.warmup_epochs is {asked.warmup_epochs}, and the extension has {asked.epochs} epochs; "
            "it must be shorter"
        )
    saved = checkpoint.steps(folder.checkpoints)
    if not saved or saved[-1] != last_step:
        at = f"at step {saved[-1]}" if saved else "not begun"
        raise ValueError(
            f"{folder.path} is {at}, and its end is step {last_step}; only a finished run is extended\n"
            "run the same command without --extend first"
        )


def extended(run: Run, history: tuple[Segment, ...]) -> Run:
    """The settings of a run, with `epochs` and `schedule`, as it is carried out with its extensions."""
    if not history:
        return run
    settings: Any = run
    schedule = Extended(own=settings.schedule, own_epochs=settings.epochs, segments=history)
    changed: Run = replace(settings, epochs=history[-1].to_epoch, schedule=schedule)
    return changed
