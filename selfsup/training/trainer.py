"""The one loop: pretraining and the linear probe, and all that will be trained later, run through `fit`."""

import math
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from selfsup import distributed
from selfsup.augment.geometry import send
from selfsup.augment.views import Views
from selfsup.batch import Batch
from selfsup.data.loader import Loader
from selfsup.dtensor import clip_grad_norm_, own
from selfsup.memory.saved import Limits
from selfsup.methods.base import Extract, Method, Step
from selfsup.models.encoder import Encoder
from selfsup.models.norm import average_running_statistics
from selfsup.monitor.grid import view_grid
from selfsup.monitor.health import Health
from selfsup.monitor.log import Log
from selfsup.optim.schedules import Horizon
from selfsup.output import message
from selfsup.run_folder.folder import RunFolder
from selfsup.runtime import arithmetic
from selfsup.runtime.signals import Consensus, caught_signals
from selfsup.runtime.watchdog import Watch, collective_timeout
from selfsup.training import sharding
from selfsup.training.gradient_cache import GradientCache, average_gradients, gradient_cache
from selfsup.training.nonfinite import Guard
from selfsup.training.settings import Diverged, Outcome, Training
from selfsup.training.state import TrainingState

Evaluate = Callable[[], dict[str, float]]


def fit(
    method: Method,
    loader: Loader,
    views: Views,
    training: Training,
    folder: RunFolder,
    accelerator: Accelerator,
    evaluate: Evaluate | None = None,
    extract: Extract | None = None,
) -> Outcome:
    """Train `method` until its epochs, its time or its signal is up; resumes from the folder's newest checkpoint.

    Args:
        method: on the CPU; it is moved to the accelerator's device.
        loader: gives each process its part of every global batch.
        views: the augmentation.
        training: how long, how fast, how precisely.
        folder: claimed for this run.
        accelerator: from `make_accelerator`.
        evaluate: called between epochs in every process; its figures are logged.
        extract: reads out the features of the training images, for methods that ask for them before an epoch.

    Raises:
        Diverged: the loss or the weights are not finite, at more steps in a row than `max_bad_steps`; or with
            `stop_on_collapse` the features have collapsed. The last checkpoint is from before.
        StorageError: a checkpoint could not be written; the one before is untouched.
        LostRank: another process is gone, or nothing moves any more because of it.
    """
    device = accelerator.device
    sharded = sharding.wanted(training) and sharding.shard(method, device)
    if not sharded:
        method.to(device).to(memory_format=torch.channels_last)
    elif distributed.rank() == 0:
        message(f"the encoder's weights are divided among {distributed.world_size()} processes")
    optimizer = training.optimizer.build(method.named_parameters(), training.batch_size, method.rates())
    horizon = Horizon(loader.sampler.length, training.batch_size, training.epochs)
    state = TrainingState(method, optimizer, accelerator, folder, training, horizon.steps_per_epoch)
    step = state.load(Limits(horizon.total_steps, len(loader.source), len(loader.source.classes)))
    if training.compile:
        for module in method.modules():
            if isinstance(module, Encoder):
                module.compile()
    with warnings.catch_warnings():
        # torch 2.15 renames the option that `make_accelerator` sets; accelerate does not know the new name yet.
        warnings.filterwarnings("ignore", message=".*broadcast_buffers.*", category=FutureWarning)
        # A sharded encoder brings its own gradients together; those of the rest are averaged in the step.
        model = accelerator.prepare_model(method, evaluation_mode=sharded)
    stepper = accelerator.prepare_optimizer(optimizer, device_placement=False)  # its state is placed already
    cache = gradient_cache(method, training, accelerator)
    watch = Watch(training.hang_minutes, folder.path)
    guard = None
    if training.max_bad_steps is not None:
        guard = Guard(method, training, folder, loader.source, accelerator, step)
    health = Health(by_labels=hasattr(method, "about") and method.about.labels == "needed")
    run = _Run(
        method=method,
        model=model,
        stepper=stepper,
        optimizer=optimizer,
        loader=loader,
        views=views,
        training=training,
        horizon=horizon,
        accelerator=accelerator,
        watch=watch,
        extract=extract,
        cache=cache,
        guard=guard,
        health=health,
        sharded=sharded,
    )
    log = Log(folder.metrics, folder.tensorboard, step, horizon.total_steps) if distributed.rank() == 0 else None
    if log:
        _announce(step, training, horizon)
    try:
        with caught_signals() as caught, watch, health:
            outcome = run.loop(step, state, log, caught, evaluate)
            state.settle()
            return outcome
    finally:
        state.close()
        if log:
            log.close()


def _announce(step: int, training: Training, horizon: Horizon) -> None:
    """Say what a person should know before the first step."""
    if training.schedule.warmup(horizon) >= horizon.total_steps:
        message(
            f"the warm-up of {training.schedule.warmup(horizon)} steps is not shorter than the run of "
            f"{horizon.total_steps}: the rate never falls, or never reaches its peak; give fewer "
            "--schedule.warmup-epochs or more --epochs"
        )
    if step:
        message(f"going on from step {step} of {horizon.total_steps}")


class _Run(NamedTuple):
    """The parts of one run of the loop."""

    method: Method
    model: nn.Module  # the method, wrapped for several processes
    stepper: Any  # the optimiser, wrapped for mixed precision
    optimizer: torch.optim.Optimizer
    loader: Loader
    views: Views
    training: Training
    horizon: Horizon
    accelerator: Accelerator
    watch: Watch
    extract: Extract | None = None
    cache: GradientCache | None = None
    guard: Guard | None = None
    health: Health | None = None
    sharded: bool = False

    def loop(
        self, step: int, state: TrainingState, log: Log | None, caught: list[int], evaluate: Evaluate | None
    ) -> Outcome:
        training, horizon, watch = self.training, self.horizon, self.watch
        agree = Consensus(collective_timeout(training.hang_minutes))
        begin = saved = marked = time.monotonic()
        first = marked_step = step
        limit = min(horizon.total_steps, training.max_steps or horizon.total_steps)
        out: Step | None = None  # of the last step that was not left out
        self.method.train()
        (number,) = agree(max(caught, default=0))  # a signal to a process that was still starting
        if number and step < limit:
            return Outcome(step, horizon.total_steps, "signal", number)
        while step < limit:
            epoch, position = divmod(step, horizon.steps_per_epoch)
            watch.at("clustering", step)
            self.epoch_begin(epoch, position, log)
            watch.at("loading", step)
            for batch in self.loader.epoch(epoch, position):
                watch.at("compiling" if training.compile and step == first else "step", step)
                views = self.views(batch, epoch, self.accelerator.device)
                if type(self.method).foresee is not Method.foresee:
                    self.method.foresee(agree.everyone(batch.indices))
                out = self.step(step, views, batch) or out
                if log and (step == first or step % horizon.steps_per_epoch == 0):
                    log.images("views", step, view_grid(views, self.views.augment))
                step += 1
                now = time.monotonic()
                if step % training.log_every == 0 or step % horizon.steps_per_epoch == 0 or step == limit:
                    self.report(step, out, batch, (step - marked_step) * training.batch_size / (now - marked), log)
                    marked, marked_step = now, step
                if log:
                    log.advance(step)
                watch.at("deciding", step)
                overtime = training.max_minutes is not None and now - begin > 60 * training.max_minutes
                number, stop, due, failed = agree(
                    max(caught, default=0), overtime, state.due(step, now - saved), state.failed
                )
                if failed:
                    state.settle()
                if step % horizon.steps_per_epoch == 0:
                    if number and step < limit:  # the evaluation may take longer than is granted
                        self.save(step, state, out)
                    watch.at("evaluating", step)
                    left = (horizon.total_steps - step) * (time.monotonic() - begin) / (step - first)
                    self.epoch_end(step // horizon.steps_per_epoch, evaluate, log, left)
                    marked = time.monotonic()
                    (number,) = agree(max(caught, default=0))
                if step == limit:
                    break
                if number or stop:
                    self.save(step, state, out)
                    return Outcome(step, horizon.total_steps, "signal" if number else "max-minutes", number)
                if due:
                    saved = time.monotonic()
                    self.save(step, state, out)
                watch.at("loading", step)
        if step > first:
            self.save(step, state, out)
        return Outcome(step, horizon.total_steps, "finished" if step >= horizon.total_steps else "max-steps", 0)

    def step(self, step: int, views: list[Tensor], batch: Batch) -> Step | None:
        """One optimiser step, from the views of one batch; None where the guard leaves it out."""
        device, training = self.accelerator.device, self.training
        # Anything random inside an encoder (dropout) is a function of the step too, so that resume is exact.
        number = ((training.seed << 40) + step * distributed.world_size() + distributed.rank()) & (2**63 - 1)
        torch.manual_seed(number)
        factor = training.schedule(step, self.horizon)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["peak_lr"]
        # Methods see views, labels and indices; what stays on the CPU would be copied by DDP, which waits for it.
        handed = Batch((), batch.labels.to(device, non_blocking=True), send(batch.indices, device))
        if self.guard:
            self.guard.remember()
        out: Step
        if self.cache:
            out = self.cache.step(views, handed, number)
        else:
            out = self.model(views, handed)
            self.accelerator.backward(out.loss)
            if self.sharded:
                average_gradients(self.method)
        norm = None
        if training.clip_norm is not None:
            clip = clip_grad_norm_ if self.sharded else self.accelerator.clip_grad_norm_
            norm = clip(self.method.parameters(), training.clip_norm)
        if self.guard and self.guard.leaves_out(step, views, handed, out, norm):
            self.stepper.zero_grad()
            return None
        self.stepper.step()
        self.stepper.zero_grad()
        average_running_statistics(self.method)
        if not self.accelerator.optimizer_step_was_skipped:
            self.method.after_step(out.update, training.schedule.progress(step, self.horizon))
        if self.sharded:
            sharding.forget_forward_passes(self.method)
        return out

    def report(self, step: int, out: Step | None, batch: Batch, rate: float, log: Log | None) -> None:
        """Log the figures of the last step that counted, as means over processes; raise what they give reason for."""
        figures: dict[str, float] = {}
        if out is not None:
            names = ["loss", *out.metrics]
            values = torch.stack([out.loss.detach().float(), *(value.float() for value in out.metrics.values())])
            figures = dict(zip(names, distributed.mean_over_processes(values).tolist(), strict=True))
        alarm = ""
        if self.health:
            figures |= self.health.figures(batch.labels.to(self.accelerator.device))
            alarm = self.health.judge(step, figures)
        if log:
            rates = {"learning_rate": self.optimizer.param_groups[0]["lr"], "images_per_second": rate}
            counts = {"skipped_steps": self.guard.skipped} if self.guard else {}
            counts |= {"collapse_alarm": 1} if alarm else {}
            log.scalars(step, figures | rates | counts | {"epoch": step / self.horizon.steps_per_epoch})
        self.require_finite(step, figures.get("loss", 0.0))
        if alarm and self.training.stop_on_collapse:
            raise Diverged(alarm)

    def require_finite(self, step: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise Diverged(
                f"the loss or the weights at step {step} are not finite ({loss}); the last checkpoint is from before\n"
                "try a lower --optimizer.learning-rate, a longer warm-up, or --clip-norm 1, with a new --folder"
            )

    def save(self, step: int, state: TrainingState, out: Step | None) -> None:
        """Save, unless the loss of this step or the weights after it are not finite."""
        self.watch.at("saving", step)
        held = [p.detach() for p in own(self.method.parameters()) if p.numel()]
        largest = torch.stack(torch._foreach_norm(held, torch.inf)).max().float()
        last = out.loss.detach().float() if out else torch.zeros_like(largest)
        loss, weight = distributed.mean_over_processes(torch.stack([last, largest])).tolist()
        self.require_finite(step, loss if math.isfinite(weight) else weight)
        state.save(step)

    def epoch_begin(self, epoch: int, position: int, log: Log | None) -> None:
        """What a method does once per epoch, at its beginning; a run that goes on later has that in its buffers."""
        if position == 0 and self.extract is not None:
            with arithmetic.full_precision():
                figures = self.method.before_epoch(epoch, self.extract)
            self.method.train()
            if log and figures:
                log.scalars(epoch * self.horizon.steps_per_epoch + 1, figures)  # of the epoch's first step
        self.loader.sampler.use(self.method.pseudo_labels)

    def epoch_end(self, epoch: int, evaluate: Evaluate | None, log: Log | None, left: float) -> None:
        every = self.training.evaluate_every
        last = epoch == self.training.epochs
        if evaluate and every and (epoch % every == 0 or last):
            with arithmetic.full_precision():
                figures = evaluate()
            if log:
                log.scalars(epoch * self.horizon.steps_per_epoch, figures)
            self.method.train()
        if log:
            log.epoch(epoch, self.training.epochs, left)
