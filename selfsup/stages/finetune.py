"""Fine-tuning on few labels or many: an encoder becomes a classifier; and the baseline that starts from nothing."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsup import distributed
from selfsup.batch import Batch
from selfsup.config.settings import dump, execution
from selfsup.data.identity import identity
from selfsup.data.labelled import Labelled, choice_digest, image_names
from selfsup.data.opening import labelled_part, open_part
from selfsup.data.settings import Data
from selfsup.data.sources import Source
from selfsup.evaluation.encoder import Exported, export
from selfsup.evaluation.newest import newest_encoder
from selfsup.evaluation.unfinished import Described
from selfsup.losses.contrastive import full
from selfsup.methods.base import Method, Step
from selfsup.models.encoder import Encoder
from selfsup.models.heads import Classifier, Head, HeadConfig
from selfsup.models.norm import convert
from selfsup.optim.optimizers import LARS, SGD
from selfsup.optim.schedules import Cosine
from selfsup.output import message
from selfsup.run_folder.folder import RunFolder
from selfsup.stages import supervised
from selfsup.stages.base import Evaluated, Result, Stage, as_read, data_of, place_of
from selfsup.stages.run_data import require_data_of_run
from selfsup.stages.supervised import Supervised, Trained, require_labels
from selfsup.storage import checkpoint
from selfsup.training.precision import settled

PROTOCOLS = ("simclr_v2", "simclr_v1", "sgd")


@dataclass(frozen=True, kw_only=True)
class Finetune(Supervised):
    """A classifier trained on labelled images together with the backbone."""

    stored_as: ClassVar[str] = "finetune"
    protocol: Literal["simclr_v2", "simclr_v1", "sgd"]
    labelled: Labelled = Labelled()
    start: Literal["pretrained", "random"] = "pretrained"  # random: the same network drawn anew, the baseline
    # The classifier stands on the features (0) or on the output of the head's hidden layer of this number.
    # None: on the first one where a head with hidden layers was exported, else on the features.
    layer: int | None = 0
    # Stages that are trained: -1 all and the stem, 0 all, j those after the j-th, their number only the classifier.
    train_after: int = -1
    # Rate of each stage over that of the one above it, the stem's below the first one's; the last has the full rate.
    # What has another rate than the full one keeps its norms and biases free of weight decay.
    layer_decay: float = 1.0
    classifier_rate: float = 1.0  # rate of the new linear layer over the full one
    initial_std: float = 0.0  # of the new linear layer's weights
    label_smoothing: float = 0.0
    evaluate_every: int = execution(0)  # epochs between looks at the test images, which are not for choosing; 0: never

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer is not None and self.layer < 0:
            raise ValueError(f"layer is {self.layer}; give 0 for the features, or the number of a hidden layer")
        if self.train_after < -1:
            raise ValueError(
                f"train_after is {self.train_after}; give -1 to train everything, or the number of a stage"
            )
        for name in ("layer_decay", "classifier_rate"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0, and 1 for one rate")
        if isinstance(self.optimizer, LARS.Config) and self.layer_decay != 1:
            raise ValueError(
                f"layer_decay is {self.layer_decay}, and LARS sets the rate of every layer by its norms; "
                "take one of the two, such as --protocol sgd"
            )
        if self.initial_std < 0:
            raise ValueError(f"initial_std is {self.initial_std}; it must not be negative")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must lie in [0, 1)")


def finetune_settings(protocol: str, data: Data) -> Finetune:
    """The published settings of a protocol for 1 % of the labels (see docs/protocols.md); any can be overridden.

    simclr_v2: Chen et al. 2020, "Big self-supervised models", published code: LARS, rate 0.005 sqrt(B), cosine, from
    the head's first hidden layer; 30 epochs for 10 % and 100 %, and layer 0 for 100 %. The kept layer of the head is
    trained, as in the code for TensorFlow 2 and by the author's word; the code for TensorFlow 1 leaves it as it is.
    simclr_v1: Chen et al. 2020, appendix B.5: Nesterov SGD, rate 0.05 B / 256, no decay; 30 epochs for 10 %. The
    schedule, which the paper leaves open, and the zero start are those of the published code.
    Both crop as TensorFlow draws boxes.
    sgd: Zbontar et al. 2021, published code (evaluate.py): SGD, rates 0.005 of the backbone and 0.5 of the classifier
    whatever the batch, cosine from epoch to epoch. Departures: batch norm is over all processes, there over each GPU's
    part; the last, smaller batch of an epoch is dropped, there it is kept; judged is the last epoch, there the best.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"there is no protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}")
    if protocol == "simclr_v2":
        return Finetune(
            protocol="simclr_v2",
            data=data,
            epochs=60,
            batch_size=1024,
            optimizer=LARS.Config(
                learning_rate=0.005, scaling="sqrt", weight_decay=0.0, exclude=("bias", r"head\.linear")
            ),
            schedule=Cosine(),
            layer=None,
            crop_sampler="tensorflow",
        )
    if protocol == "simclr_v1":
        return Finetune(
            protocol="simclr_v1",
            data=data,
            epochs=60,
            batch_size=4096,
            optimizer=SGD.Config(learning_rate=0.05, nesterov=True, weight_decay=0.0),
            schedule=Cosine(),
            crop_sampler="tensorflow",
        )
    return Finetune(
        protocol="sgd",
        data=data,
        epochs=20,
        batch_size=256,
        optimizer=SGD.Config(learning_rate=0.005, scaling="none", weight_decay=0.0),
        schedule=Cosine(per="epoch"),
        classifier_rate=100.0,
        initial_std=0.01,
    )


class FineTuned(Method):
    """An encoder and a classifier on it, trained together by cross-entropy, above the parts that stay as they are."""

    def __init__(self, encoder: Encoder, head: Classifier, settings: Finetune):
        super().__init__()
        self.settings = settings
        nn.init.normal_(head.linear.weight, std=settings.initial_std)
        nn.init.zeros_(head.linear.bias)
        self.encoder = convert(encoder, "sync")
        self.head = convert(head, "sync")
        for part in self._frozen():
            part.requires_grad_(False)

    def _frozen(self) -> list[nn.Module | nn.Parameter]:
        kept = self.settings.train_after
        return [] if kept < 0 else list(self.encoder.frozen(kept))

    def train(self, mode: bool = True) -> "FineTuned":
        super().train(mode)
        for part in self._frozen():
            if isinstance(part, nn.Module):
                part.eval()  # no running statistic of theirs moves
        return self

    def rates(self) -> dict[str, float]:
        settings, levels = self.settings, self.encoder.levels()  # from the lowest
        factors = {
            f"encoder.{name}": settings.layer_decay ** (len(levels) - 1 - level)
            for level, names in enumerate(levels)
            if level > settings.train_after
            for name in names
        }
        return {name: f for name, f in (factors | {"head.linear.": settings.classifier_rate}).items() if f != 1}

    def embed(self, view: Tensor) -> Tensor:
        features: Tensor = self.encoder(view)
        return features

    def objective(self, embeddings: list[Tensor], views: list[Tensor], batch: Batch) -> Step:
        logits = full(self.head(embeddings[0]))  # (B, classes)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.settings.label_smoothing)
        accuracy = (logits.argmax(dim=1) == batch.labels).float().mean()
        return Step(loss, {"accuracy": accuracy.detach()}, {})

    def head_state(self) -> tuple[HeadConfig, dict[str, Tensor]]:
        return self.head.config, self.head.state_dict()


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
    run=run_finetune, defaults=lambda path, protocol: finetune_settings(protocol, data_of(path)), protocols=PROTOCOLS
)
