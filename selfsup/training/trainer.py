"""The one loop: pretraining, probes, fine-tuning and distillation all run through it."""

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from selfsup import distributed
from selfsup.augment.views import Views
from selfsup.batch import Batch
from selfsup.data.loader import Loader
from selfsup.devices.moving import send, to_device
from selfsup.dtensor import clip_grad_norm_
from selfsup.methods.base import Extract, Method, Step
from selfsup.models.encoder import Encoder
from selfsup.models.norm import average_running_statistics
from selfsup.monitor.observer import Observer, Report, Taken
from selfsup.optim.schedules import Horizon
from selfsup.runtime import arithmetic
from selfsup.runtime.signals import Consensus
from selfsup.runtime.watchdog import collective_timeout
from selfsup.training.ahead import Ahead, side_stream
from selfsup.training.gradient_cache import average_gradients, gradient_cache
from selfsup.training.settings import Outcome, Training
from selfsup.training.sharding import forget_forward_passes

Evaluate = Callable[[], dict[str, float]]
_NOTHING = Observer()


@dataclass(eq=False)
class _Recent:
    """What a step is taken of, and taken again."""

    step: int  # the first one is 0
    views: list[Tensor]
    batch: Batch
    before: Step | None = None  # the last step before it that was not left out


@dataclass(kw_only=True, eq=False)
class Trainer:
    """Trains a method step by step, and tells an observer of every moment.

    Made in every process, after what a run goes on from was loaded.
    """

    method: Method  # on the accelerator's device
    optimizer: torch.optim.Optimizer  # of its parameters
    loader: Loader
    views: Views
    training: Training
    accelerator: Accelerator
    sharded: bool = False  # the encoder is divided among processes already
    evaluate: Evaluate | None = None
    extract: Extract | None = None
    observer: Observer = _NOTHING

    def __post_init__(self) -> None:
        training, method, accelerator = self.training, self.method, self.accelerator
        self.device = accelerator.device
        self.horizon = Horizon(self.loader.sampler.length, training.batch_size, training.epochs)
        self.limit = min(self.horizon.total_steps, training.max_steps or self.horizon.total_steps)
        self.agree = Consensus(collective_timeout(training.hang_minutes))
        if training.compile:
            for module in method.modules():
                if isinstance(module, Encoder):
                    module.compile()
        with warnings.catch_warnings():
            # torch 2.15 renames the option that `make_accelerator` sets; accelerate does not know the new name yet.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
            # A sharded encoder brings its own gradients together; those of the rest are averaged in the step.
            self.model: nn.Module = accelerator.prepare_model(method, evaluation_mode=self.sharded)
        # For mixed precision. Its state is placed already.
        self.stepper: Any = accelerator.prepare_optimizer(self.optimizer, device_placement=False)
        self.cache = gradient_cache(method, training, accelerator)
        self.side = side_stream(self.device)

    def run(self, step: int, caught: Sequence[int] = ()) -> Outcome:
        """Train from this step on, until epochs, steps or time are up, or a signal is there in any process.

        Args:
            step: as many were taken before.
            caught: signals, as they come in.
        """
        begin, first = time.monotonic(), step
        self.counted: Step | None = None  # the last step that was not left out
        self.recent: deque[_Recent] = deque(maxlen=self.observer.behind + 1)
        self.method.train()
        (signal,) = self.agree(max(caught, default=0))  # to a process that was still starting
        if signal and step < self.limit:
            return self._outcome(step, "signal", signal)
        for coming, batch in self.batches(step):
            self.observer.at("compiling" if self.training.compile and step == first else "step", step)
            self.advance(_Recent(step, coming.views(), batch))
            step += 1
            self.prepare(coming, step)
            self.observer.after_step(step, self.report(step, batch))
            self.observer.at("deciding", step)
            signal, overtime, due = self.agree(max(caught, default=0), self._overtime(begin), self.observer.due(step))
            if step % self.horizon.steps_per_epoch == 0:
                if signal and step < self.limit:  # the evaluation may take longer than is granted
                    self.save(step)
                self.end_epoch(step)
                (signal,) = self.agree(max(caught, default=0))
            if step < self.limit and (signal or overtime):
                self.save(step, last=True)
                return self._outcome(step, "signal" if signal else "max-minutes", signal)
            if step < self.limit and due:
                self.save(step)
        if step > first:
            self.save(step, last=True)
        return self._outcome(step, "finished" if step >= self.horizon.total_steps else "max-steps")

    def batches(self, step: int) -> Iterator[tuple[Ahead, Batch]]:
        """This process's part of every batch from this step to the last one, with its epoch, which is begun here."""
        while step < self.limit:
            epoch, position = divmod(step, self.horizon.steps_per_epoch)
            self.begin_epoch(step, epoch, position)
            self.observer.at("loading", step)
            make = partial(self.views, epoch=epoch, device=self.device)
            coming = Ahead(self.loader.epoch(epoch, position), make, self.side)
            for batch in coming:
                yield coming, batch
                step += 1
                if step == self.limit:
                    coming.close()
                    return
                self.observer.at("loading", step)

    def prepare(self, coming: Ahead, step: int) -> None:
        """Begin with the views after so many steps, while the device takes the last of them, before it is waited for.

        Those of the next epoch are not begun: what begins an epoch may change its batches.
        """
        if self.side and step < self.limit and step % self.horizon.steps_per_epoch:
            self.observer.at("loading", step)
            coming.prepare()
            self.observer.at("step", step - 1)

    def advance(self, recent: "_Recent") -> None:
        """Take a step; and again those after one that turns out to be left out."""
        self.recent.append(recent)
        self._take(recent)
        self.settle(everything=False)

    def settle(self, everything: bool = True) -> None:
        """Have what was left out made good; afterwards all steps are known, or all but the last few."""
        while (bad := self.observer.left_out(everything)) is not None:
            wrong, *after = [recent for recent in self.recent if recent.step >= bad]
            self.counted = wrong.before
            for recent in after:
                self._take(recent)

    def _take(self, recent: "_Recent") -> None:
        recent.before = self.counted
        self.counted = self.step(recent.step, recent.views, recent.batch) or self.counted

    def step(self, step: int, views: list[Tensor], batch: Batch) -> Step | None:
        """One optimizer step; None where an observer has it left out at once.

        Args:
            step: the first one is 0.
            views: (B, C, S, S) each, of this process, on the device.
            batch: they were made of.
        """
        method, schedule = self.method, self.training.schedule
        if type(method).foresee is not Method.foresee:
            method.foresee(self.agree.everyone(batch.indices))
        seed = self._seed(step)
        for group in self.optimizer.param_groups:
            group["lr"] = schedule(step, self.horizon) * group["peak_lr"]
        # Methods see views, labels and indices; what stays on the CPU would be copied by DDP, which waits for it.
        handed = Batch((), to_device(batch.labels, self.device), send(batch.indices, self.device))
        self.observer.before_step(step, views)
        out = self.cache.step(views, handed, seed) if self.cache else self._forward_and_backward(views, handed)
        norm = self._clip()
        taken = Taken(step=step, views=views, batch=handed, loss=out.loss, update=out.update, norm=norm)
        if not self.observer.allows(taken):
            self.stepper.zero_grad()
            return None
        self.stepper.step()
        self.stepper.zero_grad()
        average_running_statistics(method)
        if not self.accelerator.optimizer_step_was_skipped:
            method.after_step(out.update, schedule.progress(step, self.horizon))
        self.observer.written(taken)
        if self.sharded:
            forget_forward_passes(method)
        return out

    def _forward_and_backward(self, views: list[Tensor], batch: Batch) -> Step:
        out: Step = self.model(views, batch)
        self.accelerator.backward(out.loss)
        if self.sharded:
            average_gradients(self.method)
        return out

    def _seed(self, step: int) -> int:
        """Anything random inside an encoder (dropout) is a function of the step too, so that resume is exact."""
        number = (self.training.seed << 40) + step * distributed.world_size() + distributed.rank()
        torch.manual_seed(number & (2**63 - 1))
        return number & (2**63 - 1)

    def _clip(self) -> Tensor | None:
        """The norm of the whole gradient, which is then at most `clip_norm`; None where it is not asked for."""
        if self.training.clip_norm is None:
            return None
        clip = clip_grad_norm_ if self.sharded else self.accelerator.clip_grad_norm_
        norm: Tensor = clip(self.method.parameters(), self.training.clip_norm)
        return norm

    def report(self, step: int, batch: Batch) -> dict[str, float] | None:
        """Figures of the last step that counted, as means over processes; None where this step is not reported."""
        if step % self.training.log_every and step % self.horizon.steps_per_epoch and step != self.limit:
            return None
        self.settle()
        figures: dict[str, float] = {}
        shown = None
        if (counted := self.counted) is not None:
            shown = counted.shown
            values = [counted.loss.detach().float(), *(value.float() for value in counted.metrics.values())]
            means = distributed.mean_over_processes(torch.stack(values)).tolist()
            figures = dict(zip(["loss", *counted.metrics], means, strict=True))
        figures["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        figures["epoch"] = step / self.horizon.steps_per_epoch
        labels = batch.labels.to(self.device)
        self.observer.report(Report(step=step, labels=labels, figures=figures, shown=shown))
        return figures

    def save(self, step: int, last: bool = False) -> None:
        self.observer.at("saving", step)
        self.settle()
        self.observer.at_checkpoint(step, None if self.counted is None else self.counted.loss, last)

    def begin_epoch(self, step: int, epoch: int, position: int) -> None:
        """What a method does once per epoch, at its beginning; a run that goes on later has that in its buffers."""
        self.observer.at("clustering", step)
        if position == 0 and self.extract is not None:
            with arithmetic.full_precision():
                figures = self.method.before_epoch(epoch, self.extract)
            self.method.train()
            self.observer.before_epoch(step, figures)
        self.loader.sampler.use(self.method.pseudo_labels)

    def end_epoch(self, step: int) -> None:
        self.observer.at("evaluating", step)
        epoch, every = step // self.horizon.steps_per_epoch, self.training.evaluation_interval
        figures: dict[str, float] = {}
        if self.evaluate and every and (epoch % every == 0 or epoch == self.training.epochs):
            with arithmetic.full_precision():
                figures = self.evaluate()
            self.method.train()
        self.observer.after_epoch(step, figures)

    def _overtime(self, begin: float) -> bool:
        minutes = self.training.max_minutes
        return minutes is not None and time.monotonic() - begin > 60 * minutes

    def _outcome(
        self, step: int, reason: Literal["finished", "max-minutes", "max-steps", "signal"], signal: int = 0
    ) -> Outcome:
        return Outcome(step, self.horizon.total_steps, reason, signal)
