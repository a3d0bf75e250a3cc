"""Learning-rate schedules: pure functions of the step, returning the factor on the peak rate."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from selfsup.config.checks import require


class Horizon(NamedTuple):
    """How long a run is; all that a schedule has to know of it."""

    num_examples: int
    batch_size: int  # global
    epochs: int

    @property
    def steps_per_epoch(self) -> int:
        return self.num_examples // self.batch_size  # the last incomplete batch is dropped

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.epochs


def scaled_rate(base: float, batch_size: int, scaling: Literal["none", "linear", "sqrt"]) -> float:
    """Peak learning rate: `base`, `base B / 256` (Goyal et al. 2017), or `base sqrt(B)` (Chen et al. 2020)."""
    return base * {"none": 1.0, "linear": batch_size / 256, "sqrt": math.sqrt(batch_size)}[scaling]


def half_cosine(position: float) -> float:
    """1 at position 0, 0 at position 1."""
    return 0.5 * (1 + math.cos(math.pi * position))


def momentum_at(momentum: float, final: float | None, progress: float) -> float:
    """The momentum when a share of training is done: from `momentum` at 0 to `final` at 1 along half a cosine.

    Grill et al. 2020, section 3.2, where `final` is 1. None: it is constant.
    """
    return momentum if final is None else final - (final - momentum) * half_cosine(progress)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What the trainer asks at every step."""

    def __call__(self, step: int, horizon: Horizon) -> float:
        """The factor on the peak rate at `step`, counted from 0."""
        raise NotImplementedError(f"{type(self).__qualname__} gives no rate")

    def warmup(self, horizon: Horizon) -> int:
        """Steps before the rate is at its peak."""
        return 0

    def progress(self, step: int, horizon: Horizon) -> float:
        """How far the run is, from 0 to 1: what a method's own schedules, such as of a momentum, go by."""
        return step / horizon.total_steps


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """The peak rate throughout."""

    stored_as: ClassVar[str] = "constant"

    def __call__(self, step: int, horizon: Horizon) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Steps(Schedule):
    """The rate falls by `gamma` at the start of each milestone (InstDisc, MoCo v1, linear probes)."""

    stored_as: ClassVar[str] = "steps"
    milestones: tuple[int, ...] = (120, 160)  # epochs, counted from 0
    gamma: float = 0.1

    def __call__(self, step: int, horizon: Horizon) -> float:
        epoch = step // horizon.steps_per_epoch
        return self.gamma ** sum(epoch >= milestone for milestone in self.milestones)


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """Linear warm-up from 0 at every step, then half a cosine from 1 to `final` (Loshchilov and Hutter 2017).

    `per="epoch"` keeps the rate within an epoch, as MoCo does with epochs counted from 0. Its CIFAR demo counts from 1,
    so that the last epoch has the final rate, 0; `first_epoch=1` reproduces that.
    """

    stored_as: ClassVar[str] = "cosine"
    warmup_epochs: float = 0.0
    final: float = 0.0
    per: Literal["step", "epoch"] = "step"
    first_epoch: Literal[0, 1] = 0  # only where per="epoch"

    def __post_init__(self) -> None:
        require(self.warmup_epochs >= 0, f"warmup_epochs is {self.warmup_epochs}; give 0 or more")

    def warmup(self, horizon: Horizon) -> int:
        return round(self.warmup_epochs * horizon.steps_per_epoch)

    def __call__(self, step: int, horizon: Horizon) -> float:
        warmup = self.warmup(horizon)
        if step < warmup:
            return step / warmup
        if self.per == "epoch":
            step = (step // horizon.steps_per_epoch + self.first_epoch) * horizon.steps_per_epoch
        # Warm-up may end inside an epoch, whose first step then lies before it.
        position = max(0, step - warmup) / (horizon.total_steps - warmup)
        return self.final + (1 - self.final) * half_cosine(position)


@dataclass(frozen=True, kw_only=True)
class SimCLRCosine(Schedule):
    """SimCLR's schedule with its own rounding: W = round(w n // B), T = n E // B + 1 (google-research/simclr).

    T exceeds the number of whole batches, because the published pipeline counts examples, not batches per epoch.
    """

    stored_as: ClassVar[str] = "simclr_cosine"
    warmup_epochs: float = 10.0

    def __post_init__(self) -> None:
        require(self.warmup_epochs >= 0, f"warmup_epochs is {self.warmup_epochs}; give 0 or more")

    def warmup(self, horizon: Horizon) -> int:
        return round(self.warmup_epochs * horizon.num_examples // horizon.batch_size)

    def __call__(self, step: int, horizon: Horizon) -> float:
        warmup = self.warmup(horizon)
        total = horizon.num_examples * horizon.epochs // horizon.batch_size + 1
        return step / warmup if step < warmup else half_cosine((step - warmup) / (total - warmup))


@dataclass(frozen=True, kw_only=True)
class SupConCosine(Schedule):
    """SupContrast's schedule: a cosine over all epochs, counted from 1, that the warm-up joins where it has fallen to.

    Khosla et al. 2020, published code: the final factor is the decay rate cubed; for batches above 256 the rate rises
    linearly with every step from a rate of 0.01, whatever the peak, to the cosine's value at the end of warm-up.
    """

    stored_as: ClassVar[str] = "supcon_cosine"
    warmup_epochs: int = 0  # 10 in SupContrast, 5 in PyContrast, where the batch is above 256
    warmup_from: float = 0.01  # a share of the peak rate, so for the published start give 0.01 / the peak rate
    final: float = 0.001

    def warmup(self, horizon: Horizon) -> int:
        return self.warmup_epochs * horizon.steps_per_epoch

    def __call__(self, step: int, horizon: Horizon) -> float:
        warmup = self.warmup(horizon)
        if step < warmup:
            return self.warmup_from + (self._at(self.warmup_epochs, horizon) - self.warmup_from) * step / warmup
        return self._at(step // horizon.steps_per_epoch + 1, horizon)

    def _at(self, epoch: int, horizon: Horizon) -> float:
        return self.final + (1 - self.final) * half_cosine(epoch / horizon.epochs)
