"""What `verify_stages.py` found: the table, and what was expected and does not show."""

import statistics
from typing import Any

Figures = dict[str, Any]
GAIN = {"10_per_class": 0.06, "1pct": 0.06, "10pct": 0.0}  # of fine-tuning over the same labels from scratch
KEPT = 0.95  # of the teacher's accuracy, by a student of half the width
LABELS = {"10_per_class": "10 of each class", "1pct": "1 %", "10pct": "10 %"}

ABOUT = """# What pretraining is worth

Written by `python -m tools.benchmarks.verify_stages`; settings and protocol of each row are in the JSON file beside
this one. CIFAR-10, accuracy on the 10,000 test images at the last epoch; nothing was chosen by them. Where labels were
drawn several times: mean, and standard deviation over the draws.

| labels | images | from scratch | pretrained and fine-tuned | difference |
|---|---|---|---|---|
"""
STUDENTS = """
| labels | student | teacher | student's accuracy | share of the teacher's | agreement |
|---|---|---|---|---|---|
"""


def draws(named: dict[str, dict[str, float]], kind: str, choice: str) -> list[float]:
    """Accuracy of every draw of these labels."""
    names = [name for name in named if name == f"{kind}_{choice}" or name.startswith(f"{kind}_{choice}_seed")]
    return [named[name]["finetune_top1"] for name in names]


def unmet(named: dict[str, dict[str, float]]) -> list[str]:
    """What is expected and does not show in these figures, by the names of the parts."""
    said = []
    for choice, least in GAIN.items():
        tuned, scratch = (draws(named, kind, choice) for kind in ("finetune", "supervised"))
        if tuned and scratch and (gain := statistics.fmean(tuned) - statistics.fmean(scratch)) < least:
            said.append(f"{LABELS[choice]} labels: pretraining gains {gain:+.4f}, less than {least}")
    for name, figures in named.items():
        if name.startswith("distill_smaller") and figures["distill_top1"] < KEPT * figures["teacher_top1"]:
            said.append(f"{name}: {figures['distill_top1']:.4f}, below {KEPT} of {figures['teacher_top1']:.4f}")
    own = [figures for name, figures in named.items() if name.startswith("distill_self")]
    student, teacher = (statistics.fmean([row[f"{who}_top1"] for row in own] or [0]) for who in ("distill", "teacher"))
    if own and student <= teacher:
        said.append(f"self-distillation: {student:.4f}, not above its teachers' {teacher:.4f}")
    return said


def table(found: list[Figures]) -> str:
    """Markdown of all rows."""
    named = {row["name"]: row["figures"] for row in found}
    text = ABOUT
    for choice, labels in LABELS.items():
        tuned, scratch = (draws(named, kind, choice) for kind in ("finetune", "supervised"))
        if tuned and scratch:
            images = next(row["protocol"]["labelled_images"] for row in found if row["name"] == f"finetune_{choice}")
            gain = statistics.fmean(tuned) - statistics.fmean(scratch)
            text += f"| {labels} | {images:,} | {_spread(scratch)} | {_spread(tuned)} | {gain:+.4f} |\n"
    text += STUDENTS
    for name, figures in named.items():
        if name.startswith("distill_"):
            _, kind, choice, *draw = name.split("_")
            student = {"smaller": "half the width", "self": "like its teacher"}[kind]
            student += f", draw {draw[0].removeprefix('seed')} of the labels" if draw else ""
            top1, teacher = figures["distill_top1"], figures["teacher_top1"]
            text += f"| {LABELS[choice]} | {student} | {teacher:.4f} | {top1:.4f} | {top1 / teacher:.3f} |"
            text += f" {figures['agreement']:.3f} |\n"
    return text


def _spread(values: list[float]) -> str:
    mean = f"{statistics.fmean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean
