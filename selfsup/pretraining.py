"""A pretraining run: its configuration, and the function that carries it out."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from accelerate import Accelerator

from selfsup import distributed
from selfsup.augment.parameters import Interpolation
from selfsup.augment.views import Augment, Views
from selfsup.catalogue import method_of
from selfsup.config.checks import require
from selfsup.config.settings import changed_default, dump, execution, placed
from selfsup.data.datasets import Dataset
from selfsup.data.given import held_out_images, training_images
from selfsup.data.identity import content_of, fingerprint_before
from selfsup.data.loader import Loader
from selfsup.data.opening import labelled_part
from selfsup.data.sampling import SHUFFLED, ClassBalanced, Sampling, TwoDomains
from selfsup.data.settings import Data
from selfsup.data.sources import Source
from selfsup.evaluation.encoder import Exported, export
from selfsup.evaluation.feed import Preprocessing, feed_of
from selfsup.evaluation.foreign import any_encoder
from selfsup.evaluation.online import Online, extractor, online_evaluation
from selfsup.evaluation.readable import require_encoder, require_readable, require_readable_head
from selfsup.evaluation.reading import check_temperature
from selfsup.evaluation.starting import start_encoder, start_head
from selfsup.methods.base import Method, RunContext
from selfsup.models.encoder import Encoder, pretrained_fact
from selfsup.monitor.loggers import require_loggers
from selfsup.output import message
from selfsup.report.at_end import Finished, report_at_end
from selfsup.report.projector import projector_at_end
from selfsup.run_folder.environment import device_name
from selfsup.run_folder.extending import Extend, extended, extended_history
from selfsup.run_folder.folder import EXTENSIONS, RunFolder
from selfsup.runtime import arithmetic
from selfsup.runtime.signals import caught_signals
from selfsup.storage import checkpoint
from selfsup.training.accelerator import make_accelerator
from selfsup.training.channels import fitted
from selfsup.training.chunk_choice import chosen
from selfsup.training.fitting import fit
from selfsup.training.gradient_cache import check_chunks
from selfsup.training.images import make_loader, report_unreadable
from selfsup.training.memory_check import Refused, check_memory
from selfsup.training.precision import chunks_kept, described, settled
from selfsup.training.remarks import remarks
from selfsup.training.settings import Training


@dataclass(frozen=True, kw_only=True)
class Run(Training):
    """One pretraining run. A recipe is a Python file that defines `recipe = Run(...)`."""

    stored_as: ClassVar[str] = "pretrain"
    name: str = execution("run")  # names the run folder
    method: Method.Config
    encoder: Encoder.Config
    # A run folder, an encoder.safetensors or another project's file whose weights training starts from; empty: none.
    start: str = execution("", path=True)
    start_head: bool = execution(False)  # whether the head starts from that of `start`, too
    augment: Augment  # the views
    data: Data = Data()  # the images
    sampling: Sampling = SHUFFLED  # how batches are formed
    test_fraction: float = 1.0  # central part of the short side that the encoder sees at test time
    test_interpolation: Interpolation = "bilinear"  # of the resize at test time, by every stage
    knn_bank: int = execution(10_000)  # training images of the online kNN
    knn_queries: int = execution(2_000)  # test images of the online kNN
    knn_k: int | None = execution(None)  # neighbours of the online kNN; None: 200, or fewer where the data are few
    knn_temperature: float = execution(0.1)
    extend: Extend = execution(Extend())  # more epochs for a finished run
    # Of the encoder in online evaluations; run: as in training. kNN and probe are in full precision either way.
    evaluate_precision: Literal["run", "fp32"] = changed_default("run", before="fp32", in_number=3, relevant=False)
    probe_l2: float | None = execution(0.01)  # of the online linear probe, on the images of the online kNN; None: off
    # At the end, report.html (for 1/20 of the time, 2 minutes at most) and TensorBoard's projector (1/50, 30 seconds).
    report: bool = execution(True)
    check_memory: bool = execution(True)  # refuse a run that takes more memory than there is, before it begins

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.test_fraction <= 1, f"test_fraction is {self.test_fraction}; it must be above 0 and at most 1")
        for name, least in (("knn_k", 1), ("knn_bank", 2), ("knn_queries", 1)):
            require(
                getattr(self, name) is None or getattr(self, name) >= least,
                f"{name} is {getattr(self, name)}; it must be at least {least}",
            )
        check_temperature(self.knn_temperature)
        require(
            bool(self.start) or not self.start_head,
            "start_head is given without start; name the encoder whose head training starts from",
        )
        require(
            self.probe_l2 is None or self.probe_l2 >= 0,
            f"probe_l2 is {self.probe_l2}; it must be at least 0, or None for no online probe",
        )

    @property
    def feed(self) -> Preprocessing:
        return feed_of(self.augment, self.test_fraction, self.test_interpolation, self.data.range)

    @property
    def online(self) -> Online:
        return Online(
            every=self.evaluate_every,
            bank=self.knn_bank,
            queries=self.knn_queries,
            k=self.knn_k,
            temperature=self.knn_temperature,
            probe_l2=self.probe_l2,
            center=self.feed.center(),
            data=self.data,
            workers=self.workers,
            precision=arithmetic.resolve("fp32" if self.evaluate_precision == "fp32" else self.precision, None),
        )


def pretrain(run: Run, source: Source | Dataset | None = None, test: Source | Dataset | None = None) -> dict[str, Any]:
    """Carry out a run in its folder, or go on with it, and export the encoder when it is finished.

    Args:
        run: its settings.
        source: the training images, in place of those of `run.data.root`; of a torch data set see `DatasetSource`.
        test: the images that online evaluations ask about; without them training images are, each left out in turn.

    Returns:
        the figures of the run: steps, last online evaluation, seconds of this launch, how it ended ("reason"), and in
        the main process what the page at its end says ("report").

    Raises:
        ValueError: the configuration, the data or the folder do not fit; the message says how.
    """
    begin = time.monotonic()
    require_loggers(run.log_to)
    ready = prepared(run, source, test)
    asked, run, folder, method, device = run, ready.run, ready.folder, ready.method, ready.accelerator.device
    facts: dict[str, Any] = {"method": method.resolved}
    if ready.start:
        facts |= {"start": ready.start.sha256} | ({"start_head": True} if run.start_head else {})
    if run.encoder.weights:
        facts["pretrained"] = pretrained_fact(run.encoder.weights, folder.facts().get("pretrained"))
    steps = run.sampling.build(ready.source.labels, run.batch_size, run.seed).steps_per_epoch
    history = extended_history(run.extend, run.epochs, run.schedule, folder, steps)
    if history:
        facts[EXTENSIONS] = [dump(segment) for segment in history]
    contents = {"images": content_of(ready.source, run.data.verify, {"images": fingerprint_before(ready.source)})}
    folder.check(run, facts, contents)  # before anything is decoded
    refused: Refused = "above total" if run.check_memory else "never"
    check_memory(method, run, ready.source, run.data.canvas, ready.shapes, device, refused)
    loader = make_loader(run, run.data, ready.source, ready.views, ready.accelerator, run.sampling)
    run = chosen(method, run, ready.shapes, device)
    # None of several processes may end alone: a signal is noted from here on, and all agree before the first step.
    exactness = arithmetic.of_run(run.precision, run.deterministic, device)
    with exactness, folder.claimed(run, facts, device, contents), caught_signals():
        if distributed.rank() == 0:
            message(f"{len(ready.source)} images, {loader.steps_per_epoch} steps per epoch; run folder {folder.path}")
            message(described(asked.precision, run))
            for line in (*chunks_kept(asked, ready.run), *remarks(run.method, run.augment.views[0], method)):
                message(line)
        result = _trained(extended(run, history), ready, loader)
    return result | {"seconds": round(time.monotonic() - begin, 1)}


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What a run begins with, before it has a folder, and before an image is decoded."""

    run: Run  # settled
    folder: RunFolder  # of which nothing is written
    accelerator: Accelerator
    source: Source  # the images it learns from
    tested: Callable[[], Source | None]  # those that online evaluations ask about
    views: Views
    method: Method  # on the CPU
    start: Exported | None

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """(C, H, W) of each view."""
        return [(self.source.channels, *view.shape) for view in self.run.augment.views]


def prepared(run: Run, source: Source | Dataset | None = None, test: Source | Dataset | None = None) -> Prepared:
    """Find the images, and build what learns from them; of the arguments see `pretrain`."""
    folder = RunFolder(Path(run.folder or f"runs/{run.name}"))
    run = settled(folder.as_begun(run), folder)
    accelerator = make_accelerator(run)
    images = learnt_from(run, training_images(run.data, source))
    run = fitted(run, images)
    start = any_encoder(Path(run.start)) if run.start else None
    method = build_method(run, images, pretrained=not checkpoint.steps(folder.checkpoints), start=start)
    check_chunks(method, run)
    return Prepared(
        run=run,
        folder=folder,
        accelerator=accelerator,
        source=images,
        tested=cache(partial(held_out_images, run.data, alone=source is not None, test=test)),
        views=Views(run.augment, run.seed),
        method=method,
        start=start,
    )


def learnt_from(run: Run, source: Source) -> Source:
    """The images that a method learns from: those with a label, where it needs labels and some images have none."""
    method = method_of(run.method)
    needed = method is not None and method.about.labels == "needed"
    by_class = isinstance(run.sampling, ClassBalanced) and run.sampling.singletons == "skip"
    return labelled_part(source, "train") if needed or by_class else source


def _trained(run: Run, ready: Prepared, loader: Loader) -> dict[str, Any]:
    begin = time.monotonic()
    method, folder, device = ready.method, ready.folder, ready.accelerator.device
    evaluate = online_evaluation(run.online, loader.source, ready.tested, method.encoder, device, loader.pool)
    if evaluate:
        trained, passes = loader.steps_per_epoch * run.batch_size, method.passes(len(run.augment.views))
        run = replace(run, evaluate_every=run.online.interval(loader.source, evaluate.images, trained, passes))
    extract_all = extractor(run.online, loader.source, device, loader.pool)
    outcome = fit(method, loader, ready.views, run, folder, ready.accelerator, evaluate, extract_all)
    result = {
        "run": str(folder.path),
        "step": outcome.step,
        "total_steps": outcome.total_steps,
        "reason": outcome.reason,
        "signal": outcome.signal,
        "device": device_name(device),
        **(evaluate.figures if evaluate else {}),
    }
    report_unreadable(loader, folder, device)
    if outcome.finished:
        made_by = {"method": type(method).__name__, "steps": outcome.step, "epochs": run.epochs, "seed": run.seed}
        result["encoder_sha256"] = export(method, folder.encoder, placed(run.encoder), run.feed, made_by)
        if run.report and distributed.rank() == 0:
            finished = Finished(
                folder=folder.path,
                source=loader.source,
                tested=ready.tested,
                device=device,
                canvas=run.data.canvas,
                trained=time.monotonic() - begin,
            )
            found = report_at_end(finished)
            result |= {"report": found} if found else {}
            if "tensorboard" in run.log_to:
                projector_at_end(folder.tensorboard, finished)
    return result


def build_method(run: Run, source: Source, pretrained: bool = True, start: Exported | None = None) -> Method:
    """The method with its encoder, initialised from the run's seed.

    Args:
        run: its settings.
        source: the training images.
        pretrained: whether to load the weights that the encoder's settings name; a run that goes on has its own.
        start: what `run.start` names, where it has been read already.
    """
    context = RunContext(
        num_images=len(source),
        batch_size=run.batch_size,
        seed=run.seed,
        num_classes=len(source.classes),
        num_views=len(run.augment.views),
        view_size=run.augment.views[0].shape,
        steps_per_epoch=run.sampling.build(source.labels, run.batch_size, run.seed).steps_per_epoch,
        two_domains=isinstance(run.sampling, TwoDomains),
        channels=run.encoder.channels,
        per_class=run.sampling.images_per_class,
        labels=source.labels,
    )
    torch.manual_seed(run.seed)
    encoder = require_encoder(run.encoder.build(), run.encoder)
    for view in run.augment.views:
        encoder.require_size(view.shape)
    if pretrained:
        run.encoder.load_pretrained(encoder)
    start = start or (any_encoder(Path(run.start)) if run.start else None)
    if start:
        start_encoder(encoder, run.encoder, start, run.start)
    run.encoder.freeze(encoder)
    require_readable(encoder, run.encoder, run.augment.views[0].shape)
    method = run.method.build(encoder, context)
    require_readable_head(method.head_state(), encoder.feature_dim)
    if start and run.start_head:
        start_head(method, start, run.start)
    clusters = isinstance(run.sampling, ClassBalanced) and run.sampling.singletons == "once"
    if clusters and int(source.labels.min()) < 0 and not method.forms_labels:
        raise ValueError(
            f"{type(run.sampling).__name__} forms batches from clusters where images have no labels, and "
            f"{type(method).__name__} finds none; use SpCL, or sampling=Shuffled()"
        )
    return method
