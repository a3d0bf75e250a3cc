"""`fit`: a method is put on the device, goes on from its newest checkpoint, and is trained under observation."""

import contextlib

import torch
from accelerate import Accelerator

from selfsup import distributed
from selfsup.augment.views import Augment, Views
from selfsup.config.settings import flat, result_relevant
from selfsup.data.loader import Loader
from selfsup.devices.moving import image_format
from selfsup.memory.saved import Limits
from selfsup.methods.base import Extract, Method
from selfsup.monitor.health import Health
from selfsup.monitor.log import Log, last_steps
from selfsup.monitor.logger import Opening
from selfsup.monitor.loggers import Loggers
from selfsup.monitor.observer import Observer, Observers
from selfsup.monitor.reporter import Reporter
from selfsup.optim.schedules import Horizon
from selfsup.output import message
from selfsup.run_folder.folder import RunFolder
from selfsup.runtime import heap
from selfsup.runtime.signals import caught_signals
from selfsup.runtime.watchdog import Watch
from selfsup.training import sharding
from selfsup.training.checkpoints import Checkpoints
from selfsup.training.nonfinite import FiniteRun, Guard
from selfsup.training.settings import Outcome, Training
from selfsup.training.trainer import Evaluate, Trainer


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
    sharded = to_its_device(method, training, accelerator.device)
    optimizer = training.optimizer.build(method.named_parameters(), training.batch_size, method.rates())
    horizon = Horizon(loader.sampler.length, training.batch_size, training.epochs)
    checkpoints = Checkpoints(method, optimizer, accelerator, folder, training, horizon.steps_per_epoch)
    step = checkpoints.load(Limits(horizon.total_steps, len(loader.source), len(loader.source.classes)))
    trainer = Trainer(
        method=method,
        optimizer=optimizer,
        loader=loader,
        views=views,
        training=training,
        accelerator=accelerator,
        sharded=sharded,
        evaluate=evaluate,
        extract=extract,
    )
    # In this order: a line is logged before it ends the run, and what is not finite is not saved. The watch, left
    # first, learns of an error while others still wait for this process.
    observers: list[Observer] = [FiniteRun(method), _health(method, training), checkpoints]
    observers.append(Watch(training.hang_minutes, folder.path))
    if training.max_bad_steps is not None:
        observers.insert(0, Guard(method, training, folder, loader.source, accelerator, step, optimizer))
    if distributed.rank() == 0:
        observers.insert(0, _reporter(method, training, folder, horizon, views.augment, step))
    _announce(step, training, horizon)
    reused = heap.reused(accelerator.device)
    with reused, caught_signals() as caught, contextlib.closing(loader), Observers(observers) as trainer.observer:
        return trainer.run(step, caught)


def to_its_device(method: Method, training: Training, device: torch.device) -> bool:
    """Move the method to the device; returns whether its encoder is divided among the processes."""
    if sharding.sharding_requested(training) and sharding.shard(method, device):
        if distributed.rank() == 0:
            message(f"the encoder's weights are divided among {distributed.world_size()} processes")
        return True
    method.to(device).to(memory_format=image_format(device))
    return False


def _reporter(
    method: Method, training: Training, folder: RunFolder, horizon: Horizon, augment: Augment, step: int
) -> Reporter:
    """With all that the run is logged to, which is told its settings."""
    loggers = Loggers(training.log_to, Opening(folder.path, step, last_steps(folder.metrics)))
    loggers.settings(flat(result_relevant(training)))
    log = Log(folder.metrics, loggers, step, horizon.total_steps, method.accuracy_is)
    return Reporter(log, horizon, augment, step, training.evaluation_interval, _by_labels(method))


def _by_labels(method: Method) -> bool:
    return method.about.labels == "needed"


def _health(method: Method, training: Training) -> Health:
    return Health(_by_labels(method), stops=training.stop_on_collapse)


def _announce(step: int, training: Training, horizon: Horizon) -> None:
    """Say what a person should know before the first step."""
    if distributed.rank() > 0:
        return
    if training.schedule.warmup(horizon) >= horizon.total_steps:
        message(
            f"the warm-up of {training.schedule.warmup(horizon)} steps is not shorter than the run of "
            f"{horizon.total_steps}: the rate never falls, or never reaches its peak; give fewer "
            "--schedule.warmup-epochs or more --epochs"
        )
    if step:
        message(f"going on from step {step} of {horizon.total_steps}")
