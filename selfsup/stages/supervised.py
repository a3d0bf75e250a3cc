"""Training on labels with the one loop: what probes, fine-tuning and distillation share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from selfsup import distributed
from selfsup.augment.crops import Sampler
from selfsup.augment.parameters import View
from selfsup.augment.size import height_and_width
from selfsup.augment.views import Augment, Center, Views
from selfsup.data.identity import content_of, fingerprint_before
from selfsup.data.labelled import choice_digest, image_names, names_digest
from selfsup.data.settings import Data
from selfsup.data.sources import Source
from selfsup.evaluation.accuracy import top_figures
from selfsup.evaluation.features import Features, extract
from selfsup.evaluation.feed import Preprocessing
from selfsup.evaluation.unfinished import Described, describe
from selfsup.methods.base import Method
from selfsup.monitor.loggers import require_loggers
from selfsup.run_folder.folder import RunFolder
from selfsup.runtime import arithmetic
from selfsup.training.accelerator import make_accelerator
from selfsup.training.channels import require_fed
from selfsup.training.chunk_choice import chosen
from selfsup.training.fitting import fit
from selfsup.training.gradient_cache import check_chunks
from selfsup.training.images import make_loader, report_unreadable
from selfsup.training.settings import Outcome, Training
from selfsup.training.trainer import Evaluate


@dataclass(frozen=True, kw_only=True)
class Supervised(Training):
    """Settings of a stage that trains on one augmented view of each image."""

    data: Data = Data()
    crop_scale: tuple[float, float] = (0.08, 1.0)  # share of the image's area that a training crop covers
    crop_sampler: Sampler = "torchvision"  # of the training crops: see View.crop_sampler

    def augment(self, feed: Preprocessing) -> Augment:
        """The view that is trained on, of an encoder that is fed with `feed`."""
        return Augment(views=(plain_view(feed, self.crop_scale, self.crop_sampler),))

    @property
    def crops(self) -> dict[str, Any]:
        """What a result says of the training crops; torchvision's sampler goes without saying, as it always did."""
        named = {} if self.crop_sampler == "torchvision" else {"crop_sampler": self.crop_sampler}
        return {"crop_scale": list(self.crop_scale), **named}

    def judge(self, network: nn.Module, test: Source, center: Center, device: torch.device) -> dict[str, float]:
        """`top_figures` of `network`, images to logits, on the central crops of the test images."""
        judged = self.logits(network, test, center, device)
        return top_figures(judged.features, judged.labels)

    def logits(self, network: nn.Module, test: Source, center: Center, device: torch.device) -> Features:
        """What `network`, images to logits, says of the central crops of the test images."""
        return extract(network, test, center, device, canvas=self.data.canvas, workers=self.workers)


class Trained(NamedTuple):
    """What came of a training stage."""

    method: Method
    outcome: Outcome
    device: torch.device


def train(
    settings: Supervised,
    build: Callable[[], Method],
    source: Source,
    augment: Augment,
    folder: RunFolder,
    facts: dict[str, Any],
    judge: Callable[[Method, torch.device], dict[str, float]] | None = None,
    whole: Source | None = None,
    labelled: Source | None = None,
    described: Described | None = None,
) -> Trained:
    """Train in `folder`, or go on there.

    Args:
        settings: how, and whatever else must be the same when the stage goes on; its precision is settled.
        build: makes the method, on the CPU; torch's generator is seeded before.
        source: the images that are trained on.
        augment: their views.
        folder: of this stage.
        facts: what else must be the same, such as the encoder's hash.
        judge: called between epochs; its figures are logged.
        whole: the images that `source` was chosen from, whose content must be the same; None: `source` itself.
        labelled: the images whose labels are used, which must be the same; None where nothing was chosen.
        described: what is said of the encoder that is trained; None where none is.

    Raises:
        ValueError: the folder belongs to another configuration, or the data do not fit.
    """
    require_fed(source, augment.views[0].mean)
    require_loggers(settings.log_to)
    accelerator = make_accelerator(settings)
    views = Views(augment, settings.seed)
    before: dict[str, Any] = {"images": fingerprint_before(source)}
    if labelled is not None:
        facts = {**facts, "labelled": choice_digest(labelled)}
        before["labelled"] = names_digest(image_names(labelled))
    contents = {"images": content_of(whole or source, settings.data.verify, before)}
    folder.check(settings, facts, contents)  # before anything is decoded
    loader = make_loader(settings, settings.data, source, views, accelerator)
    torch.manual_seed(settings.seed)
    method = build()
    check_chunks(method, settings)
    device = accelerator.device
    settings = chosen(method, settings, [(source.channels, *view.shape) for view in augment.views], device)
    evaluate: Evaluate | None = None if judge is None else lambda: judge(method, device)
    with (
        arithmetic.of_run(settings.precision, settings.deterministic, device),
        folder.claimed(settings, facts, device, contents),
    ):
        if described is not None and distributed.rank() == 0:
            describe(folder, method, described)
        outcome = fit(method, loader, views, settings, folder, accelerator, evaluate)
        report_unreadable(loader, folder, device)
    return Trained(method, outcome, device)


def plain_view(
    feed: Preprocessing, crop_scale: tuple[float, float] = (0.08, 1.0), crop_sampler: Sampler = "torchvision"
) -> View:
    """Random resized crop and flip, nothing else, as the papers train their probes and classifiers.

    Resized as at test time. SimCLR's ("tensorflow") has 100 attempts, and ratios relative to the view's own.
    """
    height, width = height_and_width(feed.size)
    ratio = width / height if crop_sampler == "tensorflow" else 1.0
    return View(
        size=feed.size,
        crop_scale=crop_scale,
        crop_ratio=(3 / 4 * ratio, 4 / 3 * ratio),
        crop_attempts=100 if crop_sampler == "tensorflow" else 10,
        crop_sampler=crop_sampler,
        interpolation=feed.interpolation,
        flip=0.5,
        mean=feed.mean,
        std=feed.std,
    )


def require_labels(train: Source, test: Source) -> None:
    """Raise ValueError where a classifier cannot be trained and judged."""
    for name, source in (("training", train), ("test", test)):
        if int(source.labels.min()) < 0:
            raise ValueError(f"the {name} images have no labels: {source.found.no_labels}")
    missing = sorted(set(test.labels.tolist()) - set(train.labels.tolist()))
    if missing:
        names = ", ".join(test.class_name(label) for label in missing[:5]) + (", ..." if missing[5:] else "")
        raise ValueError(
            f"{len(missing)} of the test classes have no training image: {names}\n"
            "a classifier cannot learn them; add images of theirs, or raise --data.limit"
        )
    if len(train.labels.unique()) < 2:
        raise ValueError("there is only one class; a classifier needs at least two")
