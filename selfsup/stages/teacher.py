"""What a student learns from and starts from, read from runs, and whether the two fit."""

import hashlib
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import nn

from selfsup.augment.size import height_and_width
from selfsup.config.settings import differences, dump
from selfsup.data.sources import Source
from selfsup.evaluation.encoder import Exported
from selfsup.evaluation.feed import Preprocessing
from selfsup.evaluation.newest import newest_encoder
from selfsup.models.encoder import Encoder
from selfsup.models.heads import Classifier
from selfsup.stages.distill_settings import Distill
from selfsup.storage import checkpoint


class Teacher(NamedTuple):
    """What is learnt from, and what the student starts from."""

    exported: Exported
    network: nn.Module  # images to logits; for the protocol "features" to features
    folder: Path
    start: Exported | None  # the student's first weights; None: random
    facts: dict[str, str]  # what must be the same when the student goes on: the hashes of all weights


def read_teacher(path: Path, settings: Distill) -> Teacher:
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


def check_student(settings: Distill, teacher: Encoder.Config, feed: Preprocessing) -> None:
    """Raise ValueError where the student does not fit its teacher, or is too deep for the images."""
    unlike = differences(dump(teacher), dump(settings.student), "student")
    if unlike and settings.start == "teacher":
        raise ValueError(f"the student cannot start from its teacher: {'; '.join(unlike)}; give --start random")
    if unlike and settings.protocol == "self":
        raise ValueError(f"the student is not like its teacher: {'; '.join(unlike)}; give --protocol smaller")
    if settings.student.channels != teacher.channels:
        raise ValueError(
            f"the student takes {settings.student.channels} channels and its teacher {teacher.channels}; give "
            f"--student.in-channels {teacher.channels}"
        )
    with torch.device("meta"):
        settings.student.build().require_size(height_and_width(feed.size))
    stride, side = settings.student.stride, min(height_and_width(feed.size))
    if stride > side:
        raise ValueError(
            f"the student shrinks images {stride} times, more than the {side} pixels of theirs; "
            "give --student.stem small or --student.stem cifar, or fewer stages by --student.depth small"
        )


def check_classes(exported: Exported, images: Source) -> None:
    known, given = exported.class_names, images.classes
    if known and known != given:
        raise ValueError(
            f"the teacher knows {len(known)} classes ({', '.join(known[:3])}, ..), the data have {len(given)} others "
            f"({', '.join(given[:3])}, ..); give --data.root the teacher's data, or --data.labels none, which judges "
            "by the agreement of student and teacher alone"
        )
