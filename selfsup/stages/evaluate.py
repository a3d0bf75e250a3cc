"""`selfsup evaluate`: how often a classifier is right on labelled images, class by class."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from selfsup import distributed
from selfsup.config.stored_names import nearest
from selfsup.data.base import NoTestPart
from selfsup.data.identity import identity
from selfsup.data.layout import Split
from selfsup.data.opening import labelled_part, open_part, open_test_part
from selfsup.data.sources import Source
from selfsup.devices.double import to_double
from selfsup.evaluation.accuracy import first_choices, mean_recall, recalls, top_hits
from selfsup.evaluation.confusion import BINS, calibration_error, class_figures, confusion_matrix
from selfsup.evaluation.encoder import Exported
from selfsup.evaluation.features import features_of
from selfsup.evaluation.newest import newest_encoder
from selfsup.output import message
from selfsup.run_folder.folder import RunFolder
from selfsup.run_folder.same_data import trained_on
from selfsup.stages.base import Evaluated, Result, Stage, as_read, data_of, place_of
from selfsup.stages.deciders import class_names, require_classifier
from selfsup.stages.evaluate_files import as_csv, confusion_csv, confusion_png
from selfsup.stages.run_data import require_data_of_run
from selfsup.stages.settings import HELP, Evaluate
from selfsup.storage import checkpoint
from selfsup.storage.untrusted import plain_name, require_own_folder
from selfsup.training.accelerator import stage_device

_SAID = 5  # mistakes, and classes, that are said


class Part(NamedTuple):
    """Images of classes that the classifier knows."""

    source: Source
    classes: Tensor  # of each label of the source the number of the classifier's class; -1 where it has none


class Judged(NamedTuple):
    """What the classifier says of N images, in the order of the data; on the CPU."""

    names: list[str]  # of the images
    logits: Tensor  # (N, C) float32
    labels: Tensor  # (N,) int64, numbers of the classifier's classes
    unreadable: int  # images that are not among these


def run_evaluate(path: Path, settings: Evaluate) -> Evaluated:
    """Judge a classifier on labelled images, whose classes are matched by name.

    In a run folder, also write the confusion matrix and the worst mistakes to results/.

    Args:
        path: a run folder or an encoder.safetensors, with a classifier beside it.
        settings: with `data.root` set.

    Raises:
        ValueError: there is no classifier, there are no labels, or no class is one of the classifier's.
    """
    require_data_of_run(path, settings.data)
    exported = newest_encoder(path, size=settings.size)
    head = require_classifier(exported, path, f"or judge the encoder: selfsup knn {path}, selfsup linear {path}")
    names = class_names(head)
    device = stage_device(settings.device)
    part, sources = _open(settings)
    parts, unknown = matched(sources, names, settings.data.place)
    judged = _judged(exported, parts, settings, device)
    missing = [name for label, name in enumerate(names) if not bool((judged.labels == label).any())]
    _say(names, missing, unknown)
    protocol = {
        **exported.protocol,
        **as_read(settings.data),
        "part": part,
        "data": identity(settings.data.verify, *sources),
        "images": len(judged.labels),
        "unknown_images": sum(unknown.values()),
        "unreadable_images": judged.unreadable,
        "classes": len(names),
        "classes_with_images": len(names) - len(missing),
        "ece_bins": BINS,
    }
    figures, matrix = figures_of(judged, len(names))
    each = {name: found._asdict() for name, found in zip(names, class_figures(matrix), strict=True)}
    about = exported.about | _tell_trained(path, parts, settings)
    about |= {"missing_classes": missing, "unknown_classes": sorted(unknown), "per_class": each}
    if path.is_dir() and distributed.rank() == 0:
        about |= _write(RunFolder(path), names, judged, matrix, protocol, settings)
    root = place_of(settings.data)
    return Evaluated([Result(stage="evaluate", figures=figures, protocol=protocol, about=about, data_root=root)])


def _open(settings: Evaluate) -> tuple[str, list[Source]]:
    """Which part is judged, and its labelled images; of `all`, of both parts."""
    splits: list[Split] = ["train", "test"] if settings.part == "all" else ["train"]
    if settings.part == "test":
        splits = ["test"]
    if settings.part == "auto" and (test := open_test_part(settings.data)) is not None:
        return "test", [_labelled(test, "test")]
    opened = []
    for split in splits:
        try:
            opened.append(_labelled(open_part(settings.data, split), split))
        except NoTestPart:
            if settings.part == "test":
                raise
    return ("all" if settings.part in ("auto", "all") else settings.part), opened


def _labelled(source: Source, split: Split) -> Source:
    if int(source.labels.max()) < 0:
        raise ValueError(f"a classifier is judged by labels, and there are none: {source.found.no_labels}")
    return labelled_part(source, split)


def matched(sources: list[Source], names: tuple[str, ...], root: str) -> tuple[list[Part], dict[str, int]]:
    """The images of classes that the classifier has, by name; and how many there are of each other class.

    Args:
        sources: labelled images.
        names: of the classifier's classes, by their number.
        root: where the images lie, for messages.

    Raises:
        ValueError: two classes have one name, or no image is of any of them.
    """
    numbers = {name: number for number, name in enumerate(names)}
    if len(numbers) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two classes of the classifier are called {plain_name(twice)}; they cannot be told by name")
    parts, unknown = [], dict[str, int]()
    for source in sources:
        found = [source.class_name(label) for label in range(int(source.labels.max()) + 1)]
        classes = torch.tensor([numbers.get(name, -1) for name in found])
        known = classes[source.labels] >= 0
        for label, count in zip(*map(Tensor.tolist, source.labels[~known].unique(return_counts=True)), strict=True):
            unknown[found[label]] = unknown.get(found[label], 0) + count
        if bool(known.any()):
            parts.append(Part(source.select(known.nonzero()[:, 0]), classes))
    if not parts:
        raise ValueError(
            f"none of the classes of {plain_name(root)} ({_listed(sorted(unknown))}) is one of the classifier's "
            f"({_listed(list(names))})\ncall the folders as the classifier calls its classes"
        )
    return parts, unknown


def _listed(names: list[str]) -> str:
    return ", ".join(plain_name(name, 80) for name in names[:_SAID]) + (", ..." if names[_SAID:] else "")


def _say(names: tuple[str, ...], missing: list[str], unknown: dict[str, int]) -> None:
    if distributed.rank() != 0:
        return
    if missing:
        message(f"of {len(missing)} of the classifier's {len(names)} classes there is no image: {_listed(missing)}")
    if unknown:
        told = sorted(unknown)
        hint = nearest(told[0], list(names)) if len(told) == 1 else ""
        message(
            f"{sum(unknown.values()):,} images of {len(told)} classes that the classifier does not know are left out: "
            f"{_listed(told)}{hint}"
        )


def _tell_trained(path: Path, parts: list[Part], settings: Evaluate) -> dict[str, int]:
    """Say how many of the judged images the classifier was trained on, which a result says too."""
    names = trained_on(path, [part.source for part in parts], settings.data.verify) if path.is_dir() else []
    if not names:
        return {}
    if distributed.rank() == 0:
        count = sum(len(part.source) for part in parts)
        message(
            f"{len(names):,} of {count:,} images have the content of one that the run "
            f"was trained on; the first: {plain_name(names[0])}; figures are too good by them"
        )
    return {"images_in_training": len(names)}


def _judged(exported: Exported, parts: list[Part], settings: Evaluate, device: torch.device) -> Judged:
    network, center = exported.classifier.to(device), exported.feed.center()
    names, logits, labels = list[str](), list[Tensor](), list[Tensor]()
    for part in parts:
        read = features_of(settings, network, part.source, center, device)
        read.require_finite()
        names += [part.source.name(index) for index in read.indices.tolist()]
        logits.append(read.features)
        labels.append(part.classes[read.labels])
    unreadable = sum(len(part.source) for part in parts) - len(names)
    return Judged(names, torch.cat(logits), torch.cat(labels), unreadable)


def figures_of(judged: Judged, num_classes: int) -> tuple[dict[str, float], Tensor]:
    """The figures of a classifier of C classes by their names, and its confusion matrix (C, C)."""
    hits = top_hits(judged.logits, judged.labels)
    confidence, predicted = first_choices(judged.logits)
    figures = {
        **hits.figures,
        "balanced_accuracy": mean_recall(recalls(hits.first, judged.labels)),
        "ece": calibration_error(confidence, hits.first),
    }
    matrix = confusion_matrix(judged.labels, predicted, num_classes)
    return {f"evaluate_{name}": value for name, value in figures.items()}, matrix


def mistakes(judged: Judged, names: tuple[str, ...], most: int) -> list[list[Any]]:
    """The most confident mistakes first: image, class, what it was taken for, the probability of that and of its own.

    Of equally confident ones the first in the data comes first.
    """
    confidence, predicted = first_choices(judged.logits)
    wrong = (predicted != judged.labels).nonzero()[:, 0]
    worst = wrong[confidence[wrong].argsort(descending=True, stable=True)][:most]
    own = to_double(judged.logits[worst]).softmax(dim=1).gather(1, judged.labels[worst, None])[:, 0]
    columns = (worst, judged.labels[worst], predicted[worst], confidence[worst], own)
    return [
        [judged.names[row], names[label], names[taken], round(sure, 6), round(true, 6)]
        for row, label, taken, sure, true in zip(*map(Tensor.tolist, columns), strict=True)
    ]


def _write(
    folder: RunFolder,
    names: tuple[str, ...],
    judged: Judged,
    matrix: Tensor,
    protocol: dict[str, Any],
    settings: Evaluate,
) -> dict[str, str]:
    """Write the files of an evaluation; returns where they are.

    There is a set of them for each protocol, as there is one entry in the results.
    """
    said = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:8]
    worst = mistakes(judged, names, settings.worst)
    for name, label, taken, sure, _ in worst[:_SAID]:
        message(f"mistaken: {plain_name(name)} is {plain_name(label)}, taken for {plain_name(taken)} ({sure:.3f})")
    heading = ["path", "class", "taken_for", "probability", "probability_of_class"]
    title = f"{settings.data.place}: {protocol['images']:,} images"
    contents = {
        "confusion": (f"confusion_{said}.csv", confusion_csv(matrix, names)),
        "confusion_picture": (f"confusion_{said}.png", confusion_png(matrix, names, title)),
        "mistakes": (f"mistakes_{said}.csv", as_csv(heading, worst)),
    }
    written = {}
    for what, (name, content) in contents.items():
        place = folder.path / "results" / name
        require_own_folder(place.parent)
        place.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomically(place, content)
        written[what] = str(place)
    return written


STAGE = Stage(run=run_evaluate, defaults=lambda path, protocol: Evaluate(data=data_of(path)), help=HELP["evaluate"])
