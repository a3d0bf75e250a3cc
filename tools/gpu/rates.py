"""Parts of `tools.gpu_check`: views a second, and the whole training step against the bare one."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from selfsup.augment import presets
from selfsup.augment.views import Augment, Views
from selfsup.batch import Batch
from selfsup.config.recipe_files import load_recipe
from selfsup.data.base import ArraySource
from selfsup.data.loader import Loader
from selfsup.devices.moving import send, to_device
from selfsup.methods.base import RunContext, Step
from selfsup.models.resnet import ResNet
from selfsup.monitor.observer import Taken
from selfsup.pretraining import Run
from selfsup.run_folder.folder import RunFolder
from selfsup.runtime.device import device_for
from selfsup.training.accelerator import make_accelerator
from selfsup.training.ahead import Ahead, side_stream
from selfsup.training.nonfinite import Guard
from tools.gpu.asked import Asked

_NOT_FINITE = "the loss or the gradient of a measured step is not finite"


def median_seconds(work: Callable[[], object], device: torch.device, runs: int) -> dict[str, float]:
    """Median, minimum and maximum of the seconds that `work` takes, after three runs that do not count."""
    seconds = []
    for run in range(runs + 3):
        begin = _now(device)
        work()
        if run >= 3:
            seconds.append(_now(device) - begin)
    return {"median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds), "runs": runs}


def _now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def check_augmentation(asked: Asked, runs: int = 20) -> bool:
    """Views per second of two views of each image, images on the device already."""
    device, runs = device_for("auto"), 2 if asked.small else runs
    settings = ((32, 32, 512, presets.simclr_cifar()), (224, 256, 256, presets.simclr()))

    def measured(size: int, source: int, batch: int, augment: Augment) -> bool:
        batch = batch // 64 if asked.small else batch
        images = torch.randint(0, 256, (batch, 3, source, source), dtype=torch.uint8, device=device)
        given, views = Batch(images, torch.zeros(batch, dtype=torch.int64), torch.arange(batch)), Views(augment, seed=0)
        seconds = median_seconds(lambda: views(given, 0, device), device, runs)
        asked.tell(size=size, batch=batch, views_per_second=round(2 * batch / seconds["median_s"]), **seconds)
        return True

    return all([asked.attempt({"size": setting[0]}, partial(measured, *setting)) for setting in settings])


class Setting(NamedTuple):
    """A training step: its name, encoder, augmentation, batch and size of the images; the rest is a recipe's."""

    name: str
    encoder: ResNet.Config
    augment: Augment
    batch_size: int
    size: int
    recipe: str = "simclr_cifar10"


SETTINGS = (
    Setting("resnet18_cifar", ResNet.Config(depth=18, stem="cifar"), presets.simclr_cifar(), 512, 32),
    Setting("resnet50_224", ResNet.Config(depth=50), presets.simclr(), 256, 224),
)
SMALL = (Setting("small", ResNet.Config(depth="small", stem="small", width=0.5), presets.simclr_cifar(), 32, 32),)


def check_step(asked: Asked, runs: int = 20) -> bool:
    """Seconds of a whole step of SimCLR in bf16, as the trainer takes it, and its ratio to the bare step."""
    runs = 3 if asked.small else runs

    def measured(setting: Setting) -> bool:
        with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
            steps = Steps(setting, Path(folder))
            whole, bare = (median_seconds(work, steps.device, runs) for work in (steps.whole, steps.bare))
            overlap = _overlap(steps, whole["median_s"], runs)
        asked.tell(
            setting=setting.name,
            batch=setting.batch_size,
            images_per_second=round(setting.batch_size / whole["median_s"]),
            ratio=whole["median_s"] / bare["median_s"],
            precision=steps.accelerator.mixed_precision,
            deterministic=torch.backends.cudnn.deterministic,
            memory_gb=round(torch.cuda.max_memory_allocated() / 1e9, 2) if steps.device.type == "cuda" else None,
            whole=whole,
            bare=bare,
            **overlap,
        )
        return True

    settings = SMALL if asked.small else SETTINGS
    return all([asked.attempt({"setting": s.name}, partial(measured, s)) for s in settings])


def _overlap(steps: "Steps", whole: float, runs: int) -> dict[str, float]:
    """Share of the views in a step where they are made during the one before, and where they are made in line."""
    if steps.coming.side is None:
        return {}
    given, inline = (median_seconds(work, steps.device, runs)["median_s"] for work in (steps.guarded, steps.inline))
    return {"views_share": 1 - given / whole, "views_share_inline": 1 - given / inline, "inline_s": inline}


class Steps:
    """The step of a training run, whole and bare.

    Whole: batch, views (those of the next batch, where the trainer makes them ahead), guard, forward and backward by
    the engine of real runs, optimizer, `after_step`. Inline: the same, with the views of this batch.
    Bare: forward, backward and optimizer on views made once.
    """

    def __init__(self, setting: Setting, folder: Path) -> None:
        recipe: Run = load_recipe(setting.recipe)
        run = replace(
            recipe,
            encoder=setting.encoder,
            augment=setting.augment,
            batch_size=setting.batch_size,
            precision="bf16" if device_for("auto").type == "cuda" else "fp32",  # bf16 is slow on most CPUs
            folder=str(folder),
        )
        self.accelerator = make_accelerator(run)
        self.device = self.accelerator.device
        torch.backends.cudnn.deterministic = run.deterministic
        torch.backends.cudnn.benchmark = not run.deterministic
        source = ArraySource(
            torch.randint(0, 256, (4 * run.batch_size, 3, setting.size, setting.size), dtype=torch.uint8)
        )
        self.loader = Loader(source, batch_size=run.batch_size, seed=0, device=self.device)
        self.views = Views(run.augment, seed=0)
        self.method = run.method.build(run.encoder.build(), RunContext(len(source), run.batch_size, 0))
        self.method.to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = run.optimizer.build(self.method.named_parameters(), run.batch_size)
        self.model = self.accelerator.prepare_model(self.method)
        self.guard = Guard(self.method, run, RunFolder(folder), source, self.accelerator, 0, self.optimizer)
        self.stream = self._batches()
        self.coming = Ahead(self.stream, partial(self.views, epoch=0, device=self.device), side_stream(self.device))
        self.cached = next(self.coming)
        self.made = self.coming.views()

    def _batches(self) -> Iterator[Batch]:
        epoch = 0
        while True:
            yield from self.loader.epoch(epoch)
            epoch += 1

    def _forward_and_backward(self, views: list[Tensor], batch: Batch) -> tuple[Step, Batch]:
        handed = Batch((), to_device(batch.labels, self.device), send(batch.indices, self.device))
        out: Step = self.model(views, handed)
        self.accelerator.backward(out.loss)
        return out, handed

    def whole(self) -> None:
        batch = next(self.coming)
        self._guarded(batch, self.coming.views())
        self.coming.prepare()

    def inline(self) -> None:
        batch = next(self.stream)
        self._guarded(batch, self.views(batch, 0, self.device))

    def guarded(self) -> None:
        """The whole step on views that are there."""
        self._guarded(self.cached, self.made)

    def make_views(self) -> None:
        """The batch and its views alone."""
        self.views(next(self.stream), 0, self.device)

    def _guarded(self, batch: Batch, views: list[Tensor]) -> None:
        self.guard.before_step(0, views)
        out, handed = self._forward_and_backward(views, batch)
        taken = Taken(step=0, views=views, batch=handed, loss=out.loss, update=out.update, norm=None)
        if not self.guard.allows(taken):
            raise ArithmeticError(_NOT_FINITE)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.method.after_step(out.update, 0.0)
        self.guard.written(taken)
        if self.guard.left_out(everything=False) is not None:
            raise ArithmeticError(_NOT_FINITE)

    def bare(self) -> None:
        self._forward_and_backward(self.made, self.cached)
        self.optimizer.step()
        self.optimizer.zero_grad()
