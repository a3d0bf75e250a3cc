"""Distillation: a student learns from a teacher on images whose labels it does not see (SimCLRv2, Chen et al. 2020)."""

import copy
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsup.augment.parameters import height_and_width
from selfsup.config.recipe_files import load_recipe
from selfsup.config.settings import differences, dump, execution
from selfsup.data.identity import identity
from selfsup.data.labelled import Labelled
from selfsup.data.opening import labelled_part, open_part, open_test_part
from selfsup.data.settings import Data
from selfsup.data.sources import Source
from selfsup.evaluation.accuracy import top_figures
from selfsup.evaluation.encoder import Exported, Feed, export
from selfsup.evaluation.features import extract
from selfsup.evaluation.foreign import is_foreign
from selfsup.evaluation.newest import newest_encoder
from selfsup.evaluation.unfinished import Described
from selfsup.methods.base import Method
from selfsup.models.encoder import Encoder
from selfsup.models.heads import Classifier, Head, HeadConfig
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import LARS
from selfsup.optim.schedules import Cosine
from selfsup.run_folder.folder import RunFolder
from selfsup.stages import supervised
from selfsup.stages.base import Evaluated, Result, Stage, as_read, data_of, place_of
from selfsup.stages.run_data import require_data_of_run
from selfsup.stages.students import Distilled, FeatureDistilled, Taught, agreement
from selfsup.stages.supervised import Supervised
from selfsup.storage import checkpoint
from selfsup.training.precision import settled

PROTOCOLS = ("self", "smaller", "features")
Protocol = Literal["self", "smaller", "features"]


@dataclass(frozen=True, kw_only=True)
class Distill(Supervised):
    """A student trained on all images of the training part; their labels are not looked at, unless alpha is below 1."""

    stored_as: ClassVar[str] = "distill"
    protocol: Protocol
    student: Encoder.Config = ResNet.Config()
    student_like: str = ""  # a recipe or a run whose encoder the student is built as; empty: as `student` says
    start: str = "random"  # or teacher, or a run folder or encoder.safetensors: whose weights it starts from
    temperature: float = 0.1  # of both softmaxes
    # Loss times temperature^2: not in the paper's formula, but in the demonstration published with it. Under LARS it
    # changes only what has no trust ratio: at temperature 0.1, gradients of batch norm and biases are a hundredfold
    # without it.
    tau_squared: bool = False
    alpha: float = 1.0  # (1 - alpha) cross-entropy of the labelled images + alpha distillation of all
    labelled: Labelled = Labelled()  # only where alpha < 1; none given: those that the teacher was fine-tuned on
    evaluate_every: int = execution(0)  # epochs between looks at the test images, which are not for choosing; 0: never

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; give a number above 0, such as 0.1")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is {self.alpha}; give 0 (the labels alone) to 1 (the teacher alone)")
        if self.protocol == "features" and self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha}, but features have no classes for labels; give 1")


def distill_settings(protocol: str, data: Data, teacher: Encoder.Config) -> Distill:
    """The published settings; any of them can be overridden.

    SimCLRv2 (Chen et al. 2020, "Big self-supervised models", section 2): trained as in its pretraining, LARS at
    0.1 sqrt(B), decay 1e-4, cosine, batch 4,096, for 400 epochs, with crops and flips alone, crops as TensorFlow draws
    them. Temperature 0.1 for a student like its teacher ("self"), 1 for another network ("smaller", here half as wide).
    These are the paper's settings; the published code of this part is a demonstration of ten steps
    (distillation_self_training.ipynb), with rate 2, temperature 1 and the loss times tau^2.
    "features", from a backbone without a classifier, is no published setting. Small data want small batches: for
    CIFAR-10 on a CPU, --batch-size 256 --epochs 20.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"there is no protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}")
    return Distill(
        protocol=cast(Protocol, protocol),
        data=data,
        student=teacher.smaller() if protocol == "smaller" else teacher,
        temperature=0.1 if protocol == "self" else 1.0,
        epochs=400,
        batch_size=4096,
        optimizer=LARS.Config(learning_rate=0.1, scaling="sqrt", weight_decay=1e-4),
        schedule=Cosine(),
        crop_sampler="torchvision" if protocol == "features" else "tensorflow",
    )


class Teacher(NamedTuple):
    """What is learnt from, and what the student starts from."""

    exported: Exported
    network: nn.Module  # images to logits; for the protocol "features" to features
    folder: Path
    start: Exported | None  # the student's first weights; None: random
    facts: dict[str, str]  # what must be the same when the student goes on: the hashes of all weights


def run_distill(path: Path, settings: Distill) -> Evaluated:
    """Distil a run's classifier, or the features of its backbone, into a student.

    The student's folder is a run folder itself, by default `distill_<protocol>` inside the teacher's; where it is
    another network than the teacher, its name is added. It holds the student's encoder with its head beside it.

    Figures: "distill_top1", "distill_top5" and "teacher_top1" on the test images, and how often student and teacher
    choose the same class, "agreement". Without labelled test images there is the agreement alone, on the training
    images; of features there is the mean cosine, "distill_cosine".

    Args:
        path: a run folder or an encoder.safetensors; with a classifier, unless the protocol is "features".
        settings: from `distill_settings`, with `data.root` set.

    Raises:
        ValueError: there is no classifier or one of other classes, the student does not fit the teacher or the size of
            the images, or the data or the folder do not fit the settings.
    """
    require_data_of_run(path, settings.data)
    settings = with_student(settings)
    teacher = _read_teacher(path, settings)
    data = settings.data
    source = open_part(data, "train")
    test = open_test_part(data)
    test = test and labelled_part(test, "test")
    if test is None or int(test.labels.min()) < 0:
        test = _only_labels_of(source, torch.tensor([], dtype=torch.int64))
    elif settings.protocol != "features":
        _check_classes(teacher.exported, test)
    rows = _labelled_rows(source, teacher, settings)
    folder = RunFolder(Path(settings.folder) if settings.folder else teacher.folder / _folder_name(settings, teacher))
    settings = settled(settings, folder)

    def judge(method: Method, device: torch.device) -> dict[str, float]:
        return judge_student(cast(Taught, method), test, teacher.exported, settings, device)

    trained = supervised.train(
        settings,
        lambda: build_student(settings, teacher),
        _only_labels_of(source, rows),
        settings.augment(teacher.exported.feed),
        folder,
        teacher.facts,
        judge if settings.evaluate_every else None,
        whole=source,
        labelled=source.select(rows) if len(rows) else None,
        described=_described(settings, teacher),
    )
    outcome, method = trained.outcome, cast(Taught, trained.method)
    if not outcome.finished:
        return Evaluated([], outcome.reason, outcome.signal, folder.path)
    result = Result(
        stage="distill",
        figures=judge(method, trained.device),
        protocol=_protocol(settings, teacher.exported, source, source.select(rows), test),
        about={
            "encoder_sha256": _export(method, settings, teacher, folder, outcome.step),
            "teacher_sha256": teacher.exported.sha256,
            "start_sha256": teacher.start.sha256 if teacher.start else None,
            "seed": settings.seed,
            "labelled_seed": settings.labelled.seed,
        },
        data_root=place_of(data),
    )
    return Evaluated([result], folder=folder.path)


def judge_student(
    method: Taught, images: Source, exported: Exported, settings: Distill, device: torch.device
) -> dict[str, float]:
    """The figures of `run_distill` on the central crops of `images`; without labels those that need none."""
    center, data = exported.feed.center(), settings.data
    student, teacher = (
        extract(network, images, center, device, canvas=data.canvas, workers=settings.workers)
        for network in (method.student, method.teacher)
    )
    if settings.protocol == "features":
        return {"distill_cosine": F.cosine_similarity(student.features, teacher.features).double().mean().item()}
    figures = {"agreement": agreement(student.features, teacher.features).item()}
    if int(images.labels.min()) < 0:
        return figures
    own, taught = (top_figures(read.features, read.labels) for read in (student, teacher))
    return {"distill_top1": own["top1"], "distill_top5": own["top5"], "teacher_top1": taught["top1"], **figures}


def build_student(settings: Distill, teacher: Teacher) -> Taught:
    """The student beside its teacher, on the CPU, drawn from torch's generator where it does not start from weights.

    One like the teacher has the layers of its head too; any other has a classifier on its features. Only one that
    starts from the teacher starts with its head.
    """
    exported, encoder = teacher.exported, settings.student.build()
    wanted: HeadConfig = Head.Config(hidden_layers=0, output_dim=exported.encoder.feature_dim)
    if settings.protocol != "features":
        wanted = cast(Classifier, exported.head).config
        if settings.student != exported.config:
            wanted = replace(cast(Classifier.Config, wanted), hidden=None, layer=0)
    head = wanted.build(encoder.feature_dim)
    if teacher.start:
        encoder.load_state_dict(teacher.start.encoder.state_dict())
    if settings.protocol == "features":
        return FeatureDistilled(encoder, head, teacher.network)
    if settings.start == "teacher":
        head.load_state_dict(cast(Classifier, exported.head).state_dict())
    return Distilled(
        encoder,
        head,
        teacher.network,
        temperature=settings.temperature,
        alpha=settings.alpha,
        tau_squared=settings.tau_squared,
    )


def with_student(settings: Distill) -> Distill:
    """The settings with the student that `student_like` names. Raises ValueError where it names none."""
    name = settings.student_like
    if not name:
        return settings
    student: Any
    foreign = not name.endswith(".py") and is_foreign(Path(name))
    if Path(name).is_dir() or name.endswith(".safetensors") or foreign:
        student = newest_encoder(Path(name), told=False).config
    else:
        student = getattr(load_recipe(name), "encoder", None)
    if not isinstance(student, Encoder.Config):
        raise ValueError(f"student_like is {name}, a recipe without an encoder; name one of pretraining, or a run")
    return replace(settings, student=student, student_like="")


# Checks


def _read_teacher(path: Path, settings: Distill) -> Teacher:
    exported = newest_encoder(path)
    if settings.protocol != "features" and not isinstance(exported.head, Classifier):
        raise ValueError(
            f"{path} has no classifier to distil; make one by selfsup finetune, or distil the features of the backbone "
            "by --protocol features"
        )
    check_student(settings, exported.config, exported.feed)
    start = exported if settings.start == "teacher" else _read_start(settings)
    network = exported.encoder if settings.protocol == "features" else exported.classifier
    facts = {"teacher": exported.sha256}
    if settings.protocol != "features":
        head = cast(nn.Module, exported.head)
        facts["classifier"] = hashlib.sha256(checkpoint.serialize(head.state_dict())).hexdigest()
    if start:
        facts["start"] = start.sha256
    return Teacher(exported, network, path if path.is_dir() else path.parent, start, facts)


def _read_start(settings: Distill) -> Exported | None:
    if settings.start == "random":
        return None
    start = newest_encoder(Path(settings.start))
    unlike = differences(dump(start.config), dump(settings.student), "student")
    if unlike:
        raise ValueError(f"the student cannot start from {settings.start}: {'; '.join(unlike)}; give --start random")
    return start


def check_student(settings: Distill, teacher: Encoder.Config, feed: Feed) -> None:
    """Raise ValueError where the student does not fit its teacher, or is too deep for the images."""
    unlike = differences(dump(teacher), dump(settings.student), "student")
    if unlike and settings.start == "teacher":
        raise ValueError(f"the student cannot start from its teacher: {'; '.join(unlike)}; give --start random")
    if unlike and settings.protocol == "self":
        raise ValueError(f"the student is not like its teacher: {'; '.join(unlike)}; give --protocol smaller")
    with torch.device("meta"):
        settings.student.build().require_size(height_and_width(feed.size))
    stride, side = settings.student.stride, min(height_and_width(feed.size))
    if stride > side:
        raise ValueError(
            f"the student shrinks images {stride} times, more than the {side} pixels of theirs; "
            "give --student.stem small or --student.stem cifar, or fewer stages by --student.depth small"
        )


def _check_classes(exported: Exported, images: Source) -> None:
    known, given = exported.class_names, images.classes
    if known and known != given:
        raise ValueError(
            f"the teacher knows {len(known)} classes ({', '.join(known[:3])}, ..), the data have {len(given)} others "
            f"({', '.join(given[:3])}, ..); give --data.root the teacher's data, or --data.labels none, which judges "
            "by the agreement of student and teacher alone"
        )


# Labels


def _labelled_rows(source: Source, teacher: Teacher, settings: Distill) -> Tensor:
    """Positions of the images whose labels the student sees, (n,) int64; none where it learns from the teacher only."""
    if settings.alpha == 1:
        return torch.tensor([], dtype=torch.int64)
    _check_classes(teacher.exported, source)
    labelled, listed = settings.labelled, teacher.folder / "labelled.txt"
    if labelled == Labelled():
        if not listed.is_file():
            raise ValueError(
                f"{teacher.folder} has no labelled.txt that tells which labels alpha = {settings.alpha} is about; name "
                "them by --labelled.fraction (1: all), --labelled.per-class or --labelled.file"
            )
        labelled = Labelled(file=str(listed))
    return labelled.choose(source)


def _only_labels_of(source: Source, rows: Tensor) -> Source:
    """The same images, of which those of `rows` alone have their label."""
    shown = copy.copy(source)
    shown.labels = torch.full_like(source.labels, -1)
    shown.labels[rows] = source.labels[rows]
    return shown


# What is written


def _folder_name(settings: Distill, teacher: Teacher) -> str:
    student = settings.student
    like = student == teacher.exported.config
    other = "" if like else f"_{student.label}"
    return f"distill_{settings.protocol}{other}{teacher.exported.suffix}"


def _described(settings: Distill, teacher: Teacher) -> Described:
    exported = teacher.exported
    made_by = {"method": "distill", "from": exported.sha256, "epochs": settings.epochs, "seed": settings.seed}
    return Described(settings.student, replace(exported.feed, range=settings.data.range), made_by)


def _export(method: Taught, settings: Distill, teacher: Teacher, folder: RunFolder, steps: int) -> str:
    """Write the student; returns its encoder's SHA-256, in the main process."""
    config, feed, made_by = _described(settings, teacher)
    return export(method, folder.encoder, config, feed, made_by | {"steps": steps})


def _protocol(settings: Distill, exported: Exported, source: Source, chosen: Source, judged: Source) -> dict[str, Any]:
    if not len(chosen):
        labels = "none"
    elif settings.labelled == Labelled():
        labels = "the teacher's"
    else:
        labels = settings.labelled.described(chosen)
    return {
        "protocol": settings.protocol,
        "teacher": dump(exported.config),
        "student": dump(settings.student),
        "start": settings.start if settings.start in ("random", "teacher") else "encoder",
        "temperature": settings.temperature,
        "tau_squared": settings.tau_squared,
        "alpha": settings.alpha,
        "labels": labels,
        "labelled_images": len(chosen),
        "train_images": len(source),
        "judged_on": "training images" if int(judged.labels.min()) < 0 else "test images",
        "data": identity(settings.data.verify, source, judged),
        "judged_images": len(judged),
        **exported.protocol,
        **as_read(settings.data),
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "optimizer": dump(settings.optimizer),
        "schedule": dump(settings.schedule),
        "peak_learning_rate": settings.optimizer.peak(settings.batch_size),
        **settings.crops,
        "precision": settings.precision,
        "clip_norm": settings.clip_norm,
    }


STAGE = Stage(
    run=run_distill,
    defaults=lambda path, protocol: distill_settings(protocol, data_of(path), newest_encoder(path, told=False).config),
    protocols=PROTOCOLS,
    of_nothing=lambda protocol: distill_settings(protocol, Data(), ResNet.Config(depth=50)),
)
