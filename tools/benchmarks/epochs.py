"""The epochs of a pretraining run as its log has them, and which was the first to reach an accuracy."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Epoch(NamedTuple):
    """One epoch that was judged by kNN."""

    epoch: int
    seconds: float  # of training in it, without the evaluation
    training_seconds: float  # the same since the beginning of the run
    knn_top1: float
    time: float  # when the evaluation was done, in seconds since 1970; 0 where the log does not say


def epochs_of(metrics: Path, steps: int, batch_size: int) -> list[Epoch]:
    """Every epoch in a metrics.jsonl whose rate was logged at the end of each epoch.

    Args:
        metrics: may be missing, or end with half a line.
        steps: of an epoch.
        batch_size: the global one.
    """
    text = metrics.read_text() if metrics.is_file() else ""
    found: list[Epoch] = []
    seconds, total = 0.0, 0.0
    for line in (json.loads(line) for line in text.splitlines() if line.endswith("}")):
        if "images_per_second" in line:
            seconds = steps * batch_size / line["images_per_second"]
        if "knn_top1" in line:
            total += seconds
            found.append(Epoch(line["step"] // steps, seconds, total, line["knn_top1"], line.get("time", 0.0)))
    return found


def first_to_reach(epochs: Sequence[Epoch], threshold: float) -> Epoch | None:
    """The first epoch whose kNN accuracy is at least the threshold; None where none is."""
    return next((epoch for epoch in epochs if epoch.knn_top1 >= threshold), None)
