"""Fine-tuning on few labels or many: an encoder becomes a classifier; and the baseline that starts from nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from selfsup import distributed
from selfsup.config.settings import dump
from selfsup.data.identity import identity
from selfsup.data.labelled import choice_digest, image_names
from selfsup.data.opening import labelled_part, open_part
from selfsup.data.overlap import about_shared
from selfsup.data.settings import Data
from selfsup.data.sources import Source
from selfsup.evaluation.encoder import Exported, export
from selfsup.evaluation.newest import newest_encoder
from selfsup.evaluation.unfinished import Described
from selfsup.methods.base import Method
from selfsup.models.heads import Classifier, Head
from selfsup.output import message
from selfsup.run_folder.folder import RunFolder
from selfsup.stages import supervised
from selfsup.stages.base import Evaluated, Result, Stage, as_read, data_of, place_of
from selfsup.stages.finetune_settings import PROTOCOLS, Finetune, finetune_settings
from selfsup.stages.finetuned import FineTuned
from selfsup.stages.run_data import require_data_of_run
from selfsup.stages.settings import Help
from selfsup.stages.supervised import Trained, require_labels
from selfsup.storage import checkpoint
from selfsup.training.precision import settled


class _Chosen(NamedTuple):
    """The labelled images of a stage, and all that is said of them."""

    images: Source
    whole: Source  # all training images
    names: list[str]  # as a list names them
    digest: str


def run_finetune(path: Path, settings: Finetune) -> Evaluated:
    """Fine-tune an exported encoder on labelled images of the training part, and judge it on the test part.

    The stage's folder, inside the run unless `settings.folder` names another, is a run folder itself: it holds the new
    encoder with the classifier beside it, and the names of the labelled images in labelled.txt, a list for
    `Labelled.file`.

    Args:
        path: a run folder or an encoder.safetensors.
        settings: from `finetune_settings`, with `data.root` set.

    Raises:
        ValueError: labels, a layer or a stage are missing, or the data or the folder do not fit the settings.
    """
    require_data_of_run(path, settings.data)
    exported = newest_encoder(path)
    data = settings.data
    train = labelled_part(open_part(data, "train"), "train")
    test = labelled_part(open_part(data, "test"), "test")
    images = train.select(settings.labelled.choose(train))
    require_labels(images, test)
    chosen = _Chosen(images, train, image_names(images), choice_digest(images))
    settings, remarks = _resolved(settings, exported, len(images))
    kind = "finetune" if settings.start == "pretrained" else "supervised"
    parent = path if path.is_dir() else path.parent
    name = f"{kind}_{settings.labelled.name}{exported.suffix if kind == 'finetune' else ''}"
    folder = RunFolder(Path(settings.folder) if settings.folder else parent / name)
    settings = settled(settings, folder)
    trained = _train(settings, exported, chosen, test, folder, remarks)
    outcome = trained.outcome
    if not outcome.finished:
        return Evaluated([], outcome.reason, outcome.signal, folder.path)
    method = cast(FineTuned, trained.method)
    network = nn.Sequential(method.encoder, method.head)
    figures = settings.judge(network, test, exported.feed.center(), trained.device)
    about = {
        "encoder_sha256": _export(method, exported, folder, outcome.step),
        "pretrained_sha256": exported.sha256 if kind == "finetune" else None,
        "seed": settings.seed,
        "labelled_seed": settings.labelled.seed,
        "labelled_sha256": chosen.digest,
        **about_shared(images, test, data.verify),
    }
    protocol = _protocol(settings, exported, chosen, test)
    found = {f"finetune_{name}": value for name, value in figures.items()}
    result = Result(stage=kind, figures=found, protocol=protocol, about=about, data_root=place_of(data))
    return Evaluated([result], folder=folder.path)


def _hidden_layers(head: nn.Module | None) -> tuple[Head.Config | None, int]:
    """Of an exported head: the settings of its hidden layers, and how many there are."""
    if isinstance(head, Head):
        return head.config, head.config.hidden_layers
    return (head.config.hidden, head.config.layer) if isinstance(head, Classifier) else (None, 0)


def _resolved(settings: Finetune, exported: Exported, count: int) -> tuple[Finetune, list[str]]:
    """The settings with what the encoder and the number of images decide, and what is to be said of that."""
    remarks = []
    _, available = _hidden_layers(exported.head)
    layer = min(1, available) if settings.layer is None else settings.layer
    if settings.layer is None and not layer:
        remarks.append("no hidden layer of a head was exported; the classifier stands on the features")
    if layer > available:
        raise ValueError(
            f"layer is {layer}, but of hidden layers beside the encoder there are {available}; "
            f"give {'0' if not available else f'0 to {available}'}"
        )
    stages = len(exported.encoder.stages)
    if settings.train_after > stages:
        raise ValueError(
            f"train_after is {settings.train_after}, but the encoder has {stages} stages; give -1 to {stages}"
        )
    batch_size = min(settings.batch_size, count)
    if batch_size < settings.batch_size:
        rates = "" if settings.optimizer.scaling == "none" else "; the rates are those of that batch"
        remarks.append(f"the {count} labelled images are one batch, instead of {settings.batch_size}{rates}")
    if batch_size % (processes := distributed.launched()):
        raise ValueError(
            f"{count} labelled images cannot be one batch of {processes} processes; "
            f"give --batch-size {batch_size // processes * processes}"
        )
    return replace(settings, layer=layer, batch_size=batch_size), remarks


def _build(settings: Finetune, exported: Exported, classes: tuple[str, ...]) -> FineTuned:
    assert settings.layer is not None
    hidden, _ = _hidden_layers(exported.head)
    encoder = exported.encoder if settings.start == "pretrained" else exported.config.build()
    head = Classifier.Config(
        num_classes=len(classes), class_names=classes, hidden=hidden if settings.layer else None, layer=settings.layer
    ).build(encoder.feature_dim)
    if settings.layer and settings.start == "pretrained":
        head.take(cast(Head | Classifier, exported.head))
    return FineTuned(encoder, head, settings)


def _train(
    settings: Finetune, exported: Exported, chosen: _Chosen, test: Source, folder: RunFolder, remarks: list[str]
) -> Trained:
    def build() -> FineTuned:
        if distributed.rank() == 0:
            for remark in [*remarks, f"{len(chosen.images)} labelled images; run folder {folder.path}"]:
                message(remark)
        return _build(settings, exported, chosen.images.classes)

    def judge(method: Method, device: torch.device) -> dict[str, float]:
        network = nn.Sequential(method.encoder, cast(FineTuned, method).head)
        return settings.judge(network, test, exported.feed.center(), device)

    # From scratch only the architecture counts, so that runs of one share their baseline.
    start = exported.sha256 if settings.start == "pretrained" else dump(exported.config)
    hidden, _ = _hidden_layers(exported.head)
    facts = {
        "encoder": start,
        "feed": exported.feed.record,
        "hidden": dump(hidden) if settings.layer else None,
    }
    trained = supervised.train(
        settings,
        build,
        chosen.images,
        settings.augment(exported.feed),
        folder,
        facts,
        judge if settings.evaluate_every else None,
        whole=chosen.whole,
        labelled=chosen.images,
        described=_described(settings, exported),
    )
    if distributed.rank() == 0:
        listed = "".join(f"{name}\n" for name in chosen.names)
        checkpoint.write_atomically(folder.path / "labelled.txt", listed.encode("utf-8", "surrogateescape"))
    return trained


def _described(settings: Finetune, exported: Exported) -> Described:
    made_by = {
        "method": "finetune" if settings.start == "pretrained" else "supervised",
        "epochs": settings.epochs,
        "seed": settings.seed,
        "labelled": settings.labelled.name,
    }
    if settings.start == "pretrained":
        made_by["from"] = exported.sha256
    return Described(exported.config, replace(exported.feed, range=settings.data.range), made_by)


def _export(method: FineTuned, exported: Exported, folder: RunFolder, steps: int) -> str:
    """Write the encoder and its classifier; returns the encoder's SHA-256, in the main process."""
    config, feed, made_by = _described(method.settings, exported)
    return export(method, folder.encoder, config, feed, made_by | {"steps": steps})


def _protocol(settings: Finetune, exported: Exported, chosen: _Chosen, test: Source) -> dict[str, Any]:
    shared = (
        "protocol start layer train_after epochs batch_size optimizer schedule layer_decay classifier_rate initial_std "
        "label_smoothing precision clip_norm"
    )
    return {
        "labels": settings.labelled.described(chosen.images),
        "labelled_images": len(chosen.images),
        "data": identity(settings.data.verify, chosen.whole, test),
        "test_images": len(test),
        **exported.protocol,
        **as_read(settings.data),
        "peak_learning_rate": settings.optimizer.peak(settings.batch_size),
        **{name: dump(getattr(settings, name)) for name in shared.split()},
        **settings.crops,
    }


STAGE = Stage(
    run=run_finetune,
    defaults=lambda path, protocol: finetune_settings(protocol, data_of(path)),
    help=Help(lambda protocol: finetune_settings(protocol, Data()), PROTOCOLS),
)
