"""Linear classification on frozen features: probes that are trained on augmented images, and a fast one."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from selfsup import distributed
from selfsup.augment.size import height_and_width
from selfsup.augment.views import Center
from selfsup.config.settings import dump
from selfsup.data.identity import identity
from selfsup.data.labelled import choice_digest
from selfsup.data.opening import labelled_part, open_part
from selfsup.data.overlap import about_shared
from selfsup.data.settings import Data
from selfsup.data.sources import Source
from selfsup.evaluation.accuracy import by_name, mean_recall, recalls, top_figures, top_hits
from selfsup.evaluation.encoder import Exported
from selfsup.evaluation.features import Features, extract, features_of
from selfsup.evaluation.logistic import FeatureProbe, probe_features, warn
from selfsup.evaluation.newest import newest_encoder
from selfsup.output import message
from selfsup.randomness import Stream, permutation
from selfsup.run_folder.folder import RunFolder
from selfsup.stages import supervised
from selfsup.stages.base import Evaluated, Result, Stage, as_read, data_of, place_of
from selfsup.stages.probes import PROTOCOLS, LinearProbe, Probe, Sweep, probe_settings
from selfsup.stages.run_data import require_data_of_run
from selfsup.stages.settings import Help
from selfsup.stages.supervised import require_labels
from selfsup.storage import checkpoint
from selfsup.training.accelerator import stage_device
from selfsup.training.precision import settled


def run_linear(path: Path, settings: Probe | FeatureProbe) -> Evaluated:
    """Probe an exported encoder; trained on the training part, judged on the test part, at the last epoch.

    Args:
        path: a run folder or an encoder.safetensors.
        settings: from `probe_settings`, with `data.root` set.

    Raises:
        ValueError: no labels, no test part, or the data do not fit the settings.
    """
    require_data_of_run(path, settings.data)
    exported = newest_encoder(path, size=settings.size)
    data, labelled = settings.data, settings.labelled
    whole = labelled_part(open_part(data, "train"), "train")
    test = labelled_part(open_part(data, "test"), "test")
    train = whole if labelled.name == "all" else whole.select(labelled.choose(whole))
    require_labels(train, test)
    parts = _Parts(whole, train, test)
    subset = "" if labelled.name == "all" else f"_{labelled.name}"
    if isinstance(settings, FeatureProbe):
        return _on_features(f"linear_features{subset}", exported, parts, settings)
    return _with_augmentation(path, f"linear_{settings.protocol}{subset}", exported, parts, settings)


class _Parts(NamedTuple):
    """The images of a probe."""

    whole: Source  # all training images
    train: Source  # those of them whose labels are used
    test: Source


def _common(settings: Probe | FeatureProbe, exported: Exported, parts: _Parts) -> dict[str, Any]:
    return {
        "labels": settings.labelled.described(parts.train),
        "data": identity(settings.data.verify, parts.whole, parts.test),
        "train_images": len(parts.train),
        "test_images": len(parts.test),
        **exported.protocol,
        **as_read(settings.data),
    }


def _about(settings: Probe | FeatureProbe, exported: Exported, parts: _Parts) -> dict[str, Any]:
    about = exported.about | about_shared(parts.train, parts.test, settings.data.verify)
    if settings.labelled.name == "all":
        return about
    return about | {"labels_seed": settings.labelled.seed, "labels_sha256": choice_digest(parts.train)}


def _found(
    figures: dict[str, float], right: Tensor, labels: Tensor, test: Source
) -> tuple[dict[str, float], dict[str, Any]]:
    """The figures by their full names, with balanced accuracy; and each class's recall, for `about`."""
    each = recalls(right, labels)
    named = {f"linear_{name}": value for name, value in figures.items()}
    return named | {"linear_balanced_accuracy": mean_recall(each)}, {"per_class_recall": by_name(each, test.class_name)}


# On features


def _on_features(stage: str, exported: Exported, parts: _Parts, settings: FeatureProbe) -> Evaluated:
    device = stage_device(settings.device)
    network, center = exported.network(settings.layer).to(device), exported.feed.center()
    known, asked = (features_of(settings, network, part, center, device) for part in (parts.train, parts.test))
    probed = probe_features(known, asked, settings.l2, settings.iterations, device)
    warn(probed, settings.l2, settings.iterations)
    several = len(settings.l2) > 1
    protocol = {
        "protocol": "features",
        "classifier": "logistic regression by L-BFGS on standardised features, without augmentation",
        "l2_tried": settings.l2,
        "iterations": settings.iterations,
        "chosen_on": "tenths of the training images" if several else "nothing",
        "layer": settings.layer,
        **_common(settings, exported, parts),
    }
    about = _about(settings, exported, parts) | {"l2": probed.l2, "converged": probed.converged}
    if several:
        about["l2_at_edge"] = probed.at_edge
    figures, classes = _found(probed.figures, probed.right, asked.labels, parts.test)
    root = place_of(settings.data)
    return Evaluated([Result(stage=stage, figures=figures, protocol=protocol, about=about | classes, data_root=root)])


# With augmentation


def _with_augmentation(path: Path, stage: str, exported: Exported, parts: _Parts, settings: Probe) -> Evaluated:
    train = parts.train
    parent = path if path.is_dir() else path.parent
    folder = RunFolder(
        Path(settings.folder) if settings.folder else parent / f"{stage}{_sized(settings)}{exported.suffix}"
    )
    settings = settled(settings, folder)
    num_classes = int(train.labels.max()) + 1
    learnt, held = split(settings, train)
    rates = settings.learning_rates if isinstance(settings, Sweep) else ()
    before = _digest(exported.encoder)
    trained = supervised.train(
        settings,
        lambda: LinearProbe(exported.encoder, num_classes, settings.initialisation, rates),
        learnt,
        settings.augment(exported.feed),
        folder,
        {"encoder": exported.sha256},
        whole=parts.whole,
        labelled=train,
    )
    outcome, method = trained.outcome, cast(LinearProbe, trained.method)
    if _digest(method.encoder) != before:
        raise RuntimeError("the frozen backbone was changed by the probe")
    if not outcome.finished:
        return Evaluated([], outcome.reason, outcome.signal)
    center = exported.feed.center()
    number, choice = _chosen(settings, method, held, center, trained.device)
    network = nn.Sequential(method.encoder, method.heads[number])
    judged = settings.logits(network, parts.test, center, trained.device)
    hits = top_hits(judged.features, judged.labels)
    figures, classes = _found(hits.figures, hits.first, judged.labels, parts.test)
    protocol = {
        "protocol": settings.protocol,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "peak_learning_rate": settings.optimizer.peak(settings.batch_size),
        "optimizer": dump(settings.optimizer),
        "schedule": dump(settings.schedule),
        "precision": settings.precision,
        "clip_norm": settings.clip_norm,
        "initialisation": settings.initialisation,
        **settings.crops,
        "layer": "backbone",
        **_common(settings, exported, parts),
    }
    about = _about(settings, exported, parts) | {"seed": settings.seed, "probe_folder": str(folder.path)}
    if isinstance(settings, Sweep):
        protocol |= {"learning_rates": rates, "chosen_on": f"{len(held)} of the training images, held out"}
        about |= choice
    root = place_of(settings.data)
    return Evaluated([Result(stage=stage, figures=figures, protocol=protocol, about=about | classes, data_root=root)])


def _sized(settings: Probe) -> str:
    """Ends the name of the folder of a probe at another size."""
    return "" if settings.size is None else "_size" + "x".join(map(str, dict.fromkeys(height_and_width(settings.size))))


# The choice among rates


def split(settings: Probe, train: Source) -> tuple[Source, Source]:
    """The images that are trained on, and those that a sweep chooses by: a tenth, drawn by the seed."""
    if not isinstance(settings, Sweep):
        return train, train.select(torch.arange(0))
    order = permutation(settings.seed, Stream.SUBSET, len(train))
    held, *rest = order.tensor_split(10)
    return train.select(torch.cat(rest).sort().values), train.select(held.sort().values)


def _chosen(
    settings: Probe, method: LinearProbe, held: Source, center: Center, device: torch.device
) -> tuple[int, dict[str, Any]]:
    """The number of the classifier that held-out images speak for, and what is told of the choice."""
    if not isinstance(settings, Sweep):
        return 0, {}
    read = extract(method.encoder, held, center, device, canvas=settings.data.canvas, workers=settings.workers)
    accuracies = validation(method, read, device)
    best = max(accuracies, key=lambda rate: (accuracies[rate], -rate))  # of equals the slowest
    at_edge = best in (min(accuracies), max(accuracies)) and len(accuracies) > 1
    if at_edge and distributed.rank() == 0:
        message(f"the best learning rate, {best:g}, is the last one at its end; try --learning-rates beyond")
    told = {f"{rate:g}": accuracy for rate, accuracy in accuracies.items()}
    about = {"learning_rate": best, "learning_rate_at_edge": at_edge, "validation_top1": told}
    return settings.learning_rates.index(best), about


@torch.no_grad()
def validation(method: LinearProbe, held: Features, device: torch.device) -> dict[float, float]:
    """Top-1 accuracy on held-out features (N, D) of the classifier of each rate."""
    features, labels = held.features.to(device), held.labels.to(device)
    return {
        rate: top_figures(head(features), labels)["top1"]
        for rate, head in zip(method.learning_rates, method.heads, strict=True)
    }


def _digest(module: nn.Module) -> str:
    return hashlib.sha256(checkpoint.serialize(module.state_dict())).hexdigest()


STAGE = Stage(
    run=run_linear,
    defaults=lambda path, protocol: probe_settings(protocol, data_of(path)),
    help=Help(lambda protocol: probe_settings(protocol, Data()), PROTOCOLS),
)
