"""Distillation: a student learns from a teacher on images whose labels it does not see (SimCLRv2, Chen et al. 2020)."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.config.settings import dump
from selfsup.data.identity import identity
from selfsup.data.labelled import Labelled
from selfsup.data.opening import labelled_part, open_part, open_test_part
from selfsup.data.overlap import about_shared
from selfsup.data.settings import Data
from selfsup.data.sources import Source
from selfsup.devices.double import to_double
from selfsup.evaluation.accuracy import top_figures
from selfsup.evaluation.encoder import Exported, export
from selfsup.evaluation.features import extract
from selfsup.evaluation.newest import newest_encoder
from selfsup.evaluation.unfinished import Described
from selfsup.methods.base import Method
from selfsup.models.heads import Classifier, Head, HeadConfig
from selfsup.models.resnet import ResNet
from selfsup.run_folder.folder import RunFolder
from selfsup.stages import supervised
from selfsup.stages.base import Evaluated, Result, Stage, as_read, data_of, place_of
from selfsup.stages.distill_settings import PROTOCOLS, Distill, distill_settings, with_student
from selfsup.stages.run_data import require_data_of_run
from selfsup.stages.settings import Help
from selfsup.stages.students import Distilled, FeatureDistilled, Student, agreement
from selfsup.stages.teacher import Teacher, check_classes, read_teacher
from selfsup.training.precision import settled


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
    teacher = read_teacher(path, settings)
    source = open_part(settings.data, "train")
    test = _judged_on(source, teacher, settings)
    rows = _labelled_rows(source, teacher, settings)
    folder = RunFolder(Path(settings.folder) if settings.folder else teacher.folder / _folder_name(settings, teacher))
    settings = settled(settings, folder)

    def judge(method: Method, device: torch.device) -> dict[str, float]:
        return judge_student(cast(Student, method), test, teacher.exported, settings, device)

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
    outcome, method = trained.outcome, cast(Student, trained.method)
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
            **about_shared(source, None if int(test.labels.min()) < 0 else test, settings.data.verify),
        },
        data_root=place_of(settings.data),
    )
    return Evaluated([result], folder=folder.path)


def _judged_on(source: Source, teacher: Teacher, settings: Distill) -> Source:
    """The test images; where they have no labels, or there are none, all that is learnt from, without labels."""
    test = open_test_part(settings.data)
    test = test and labelled_part(test, "test")
    if test is None or int(test.labels.min()) < 0:
        return _only_labels_of(source, torch.tensor([], dtype=torch.int64))
    if settings.protocol != "features":
        check_classes(teacher.exported, test)
    return test


def judge_student(
    method: Student, images: Source, exported: Exported, settings: Distill, device: torch.device
) -> dict[str, float]:
    """The figures of `run_distill` on the central crops of `images`; without labels those that need none."""
    center, data = exported.feed.center(), settings.data
    student, teacher = (
        extract(network, images, center, device, canvas=data.canvas, workers=settings.workers)
        for network in (method.student, method.teacher)
    )
    if settings.protocol == "features":
        return {"distill_cosine": to_double(F.cosine_similarity(student.features, teacher.features)).mean().item()}
    figures = {"agreement": agreement(student.features, teacher.features).item()}
    if int(images.labels.min()) < 0:
        return figures
    own, taught = (top_figures(read.features, read.labels) for read in (student, teacher))
    return {"distill_top1": own["top1"], "distill_top5": own["top5"], "teacher_top1": taught["top1"], **figures}


def build_student(settings: Distill, teacher: Teacher) -> Student:
    """The student beside its teacher, on the CPU, drawn from torch's generator where it does not start from weights.

    One like the teacher has the layers of its head too; any other has a classifier on its features. Only one that
    starts from the teacher starts with its head.
    """
    exported, encoder = teacher.exported, settings.student.build()
    wanted: HeadConfig = Head.Config(hidden_layers=0, output_dim=exported.encoder.feature_dim)
    if settings.protocol != "features":
        wanted = cast(Classifier, exported.head).config
        if settings.student != exported.config:
            wanted = replace(wanted, hidden=None, layer=0)
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


# Labels


def _labelled_rows(source: Source, teacher: Teacher, settings: Distill) -> Tensor:
    """Positions of the images whose labels the student sees, (n,) int64; none where it learns from the teacher only."""
    if settings.alpha == 1:
        return torch.tensor([], dtype=torch.int64)
    check_classes(teacher.exported, source)
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


def _export(method: Student, settings: Distill, teacher: Teacher, folder: RunFolder, steps: int) -> str:
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
    help=Help(lambda protocol: distill_settings(protocol, Data(), ResNet.Config(depth=50)), PROTOCOLS),
)
