"""`selfsup pretrain RECIPE --dry-run`: what a run would take, by two steps of it; nothing is left on the disk."""

import contextlib
import shutil
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from selfsup import distributed
from selfsup.data.datasets import Dataset
from selfsup.data.free_memory import peak_of_process
from selfsup.data.loader import Loader
from selfsup.data.resident import decoded_bytes
from selfsup.data.sources import Source, subset
from selfsup.evaluation.features import extract
from selfsup.evaluation.online import extractor
from selfsup.memory.bank import FeatureBank
from selfsup.memory.hybrid import HybridMemory
from selfsup.memory.queue import FeatureQueue
from selfsup.memory.sharded import ShardedRows, sharded
from selfsup.methods.base import Method
from selfsup.monitor.observer import Observer, Phase
from selfsup.optim.schedules import Horizon
from selfsup.output import message
from selfsup.pretraining import Prepared, Run, prepared
from selfsup.run_folder.environment import device_name
from selfsup.runtime import arithmetic, heap
from selfsup.storage import checkpoint
from selfsup.training.chunk_choice import chosen
from selfsup.training.fitting import to_its_device
from selfsup.training.images import make_loader
from selfsup.training.memory_check import Refused, check_memory
from selfsup.training.step_memory import MARGIN, StepMemory, Uncountable, free_for_steps
from selfsup.training.trainer import Trainer

STEPS = 2
_JUDGED = 64  # images that are encoded to find out how long an evaluation takes
_LINE = 1000  # bytes of a report, in metrics.jsonl and for TensorBoard
_PICTURE = 200_000  # bytes of an epoch's picture of views


def dry_run(run: Run, source: Source | Dataset | None = None, test: Source | Dataset | None = None) -> dict[str, Any]:
    """Begin a run as `pretrain` would, take two steps of it, and tell what all of it would take.

    A run folder is neither made nor touched. Every process of several must call it.

    Args:
        run, source, test: see `pretrain`.

    Returns:
        What the run is: "images", "classes", "steps_per_epoch", "total_steps", "batch_size", "grad_cache_chunk",
        "parameters" that are trained, "device", "precision", "processes", "folder", and the "step" that it goes on
        from. Seconds: "seconds_first_step", "seconds_per_step" (of the second one), "seconds_clustering" (per epoch),
        "seconds_evaluation" (each of the "evaluations", without kNN and probe themselves), "seconds_expected" from the
        first step to the last. Bytes: "peak_host_bytes" of this process since it began, "peak_device_bytes",
        "decoded_bytes" of images, "memory_bytes" of queues and banks, "checkpoint_bytes" of each of the "checkpoints",
        "encoder_bytes", "log_bytes", "disk_bytes" in all, "disk_free_bytes". "largest_batch" is an estimate: memory
        grows with the batch along a line through two counts, and the share "largest_batch_margin" of what is free is
        spared; None where the network cannot be counted. Of several processes the largest figure.

    Raises:
        ValueError: as `pretrain`.
    """
    ready = prepared(run, source, test)
    device, method = ready.accelerator.device, ready.method
    if run.compile and distributed.rank() == 0:
        message("the encoder is compiled in the first step, as in the run; the largest batch is counted without")
    refused: Refused = "above free" if run.check_memory else "never"  # whose two steps would end the program
    check_memory(method, ready.run, ready.source, run.data.canvas, ready.shapes, device, refused)
    loader = make_loader(ready.run, run.data, ready.source, ready.views, ready.accelerator, run.sampling)
    run = chosen(method, ready.run, ready.shapes, device)
    memory = StepMemory(method, run, ready.shapes, device)
    horizon = Horizon(loader.sampler.length, run.batch_size, run.epochs)
    result = {
        "images": len(loader.source),
        "classes": len(loader.source.classes),
        "steps_per_epoch": horizon.steps_per_epoch,
        "total_steps": horizon.total_steps,
        "steps_taken": min(STEPS, horizon.total_steps),
        "batch_size": run.batch_size,
        "grad_cache_chunk": run.grad_cache_chunk,
        "parameters": sum(p.numel() for p in method.parameters() if p.requires_grad),
        "device": device_name(device),
        "precision": run.precision,
        "processes": distributed.world_size(),
        "folder": str(ready.folder.path),
        "step": max(checkpoint.steps(ready.folder.checkpoints), default=0),
        "decoded_bytes": decoded_bytes(ready.source, run.data.canvas),
        "memory_bytes": _remembered(method),
        "largest_batch": _largest_batch(memory, len(loader.source)),
        "largest_batch_margin": MARGIN,
        **_disk(run, method, memory, horizon, ready.folder.path),
    }
    with arithmetic.of_run(run.precision, run.deterministic, device), contextlib.closing(loader):
        figures = two_steps(run, ready, loader) | _evaluations(run, ready, loader)
    parts = distributed.gather_json(figures, device)
    figures = {name: max(part[name] for part in parts) for name in figures}
    expected = figures["seconds_first_step"] + (horizon.total_steps - 1) * figures["seconds_per_step"]
    expected += run.epochs * figures["seconds_clustering"] + figures["evaluations"] * figures["seconds_evaluation"]
    return result | figures | {"seconds_expected": expected}


class _Timer(Observer):
    """How long steps take, with what they wait for, and apart from that clusters."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.steps: list[float] = []
        self.clustering = 0.0
        self._phase, self._since = "starting", time.monotonic()
        self._number = 0
        # Seconds of steps so far: a batch may be brought during the step before.
        self._open: defaultdict[int, float] = defaultdict(float)

    def at(self, phase: Phase, step: int) -> None:
        self._passed(phase, step)

    def after_step(self, step: int, figures: dict[str, float] | None) -> None:
        self._passed("deciding", step)
        self.steps.append(self._open.pop(step - 1))

    def _passed(self, phase: str, step: int) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.monotonic()
        if self._phase == "clustering":
            self.clustering += now - self._since
        elif self._phase in ("loading", "compiling", "step"):
            self._open[self._number] += now - self._since
        self._phase, self._number, self._since = phase, step, now


def two_steps(run: Run, ready: Prepared, loader: Loader) -> dict[str, float]:
    """Take them, without a run folder and without evaluations; the first batches of the run, from where it begins."""
    device, method = ready.accelerator.device, ready.method
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    shard = to_its_device(method, run, device)
    trainer = Trainer(
        method=method,
        optimizer=run.optimizer.build(method.named_parameters(), run.batch_size, method.rates()),
        loader=loader,
        views=ready.views,
        training=replace(run, max_steps=STEPS, max_minutes=None),
        accelerator=ready.accelerator,
        sharded=shard,
        extract=extractor(run.online, loader.source, device),
    )
    trainer.observer = timer = _Timer(device)
    with heap.reused(device):
        trainer.run(0)
    return {
        "seconds_first_step": timer.steps[0],
        "seconds_per_step": timer.steps[-1],
        "seconds_clustering": timer.clustering / -(-len(timer.steps) // trainer.horizon.steps_per_epoch),
        "peak_device_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
        "peak_host_bytes": peak_of_process(),
    }


def _evaluations(run: Run, ready: Prepared, loader: Loader) -> dict[str, float]:
    """How many there are, and how long it takes to encode the images of one."""
    source = loader.source
    if not run.online.judges(source):
        return {"evaluations": 0, "seconds_evaluation": 0.0}
    test = ready.tested()
    images = min(run.knn_bank, int((source.labels >= 0).sum()))
    if test is not None:
        images += min(run.knn_queries, int((test.labels >= 0).sum()))
    part = subset(source, max(_JUDGED, distributed.world_size()))
    begin = time.monotonic()
    read = run.online
    device = ready.accelerator.device
    canvas, workers, exact = read.data.canvas, read.workers, read.precision
    extract(ready.method.encoder, part, read.center, device, canvas=canvas, workers=workers, precision=exact)
    seconds = (time.monotonic() - begin) / len(part) * images
    trained = loader.steps_per_epoch * run.batch_size
    every = read.interval(source, images, trained, ready.method.passes(len(run.augment.views)))
    return {"evaluations": run.epochs // every + (run.epochs % every > 0), "seconds_evaluation": seconds}


def _largest_batch(memory: StepMemory, images: int) -> int | None:
    """The global batch that fills what is free but for the margin, at most all images; None where nothing is known."""
    try:
        rows = memory.largest_batch(free_for_steps(memory.device))
    except Uncountable as error:
        if distributed.rank() == 0:
            message(f"the largest batch that fits cannot be estimated: {error}")
        return None
    fitting: int = min(distributed.gather_json(rows, memory.device))
    world = distributed.world_size()
    return min(fitting * world, images // world * world)


def _remembered(method: Method) -> int:
    """Bytes of queues, banks and the like, in this process."""
    kinds = (FeatureBank, FeatureQueue, HybridMemory, ShardedRows)
    memories = {module for module in method.modules() if isinstance(module, kinds)}
    buffers = {id(buffer): buffer for module in memories for buffer in module.buffers()}
    return sum(buffer.nbytes for buffer in buffers.values())


def _disk(run: Run, method: Method, memory: StepMemory, horizon: Horizon, folder: Path) -> dict[str, int]:
    """What the run folder will hold, in bytes, with what is there only while a checkpoint is written."""
    shards = sharded(method).values()
    apart = sum((rows.size - len(rows.features)) * rows.dim * rows.features.element_size() for rows in shards)
    weights = sum(tensor.nbytes for tensor in method.state_dict().values())
    trained = sum(p.nbytes for p in method.parameters() if p.requires_grad)
    one = weights + apart + round(memory.optimizer / max(1, memory.trained) * trained)
    kept = run.keep_last + 1 + (run.epochs // run.keep_every if run.keep_every else 0)
    head = method.head_state()
    exported = [*method.encoder_state().values(), *(head[1].values() if head else ())]
    encoder = sum(tensor.nbytes for tensor in exported)
    reports = horizon.total_steps // run.log_every + run.epochs
    log = reports * _LINE + run.epochs * _PICTURE
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
    return {
        "checkpoints": kept,
        "checkpoint_bytes": one,
        "encoder_bytes": encoder,
        "log_bytes": log,
        "disk_bytes": kept * one + encoder + log,
        "disk_free_bytes": shutil.disk_usage(there).free,
    }
