"""What training saw and what it left behind, so that two runs can be compared bit for bit."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from selfsup.augment.views import Views
from selfsup.batch import Batch
from selfsup.storage import checkpoint
from tests.contracts.contracts import equal

_TIMES = (
    "time",
    "images_per_second",
    "seconds_training",
    "seconds_evaluation",
)  # what a line of metrics.jsonl says of the clock


class Seen(NamedTuple):
    """The views of one batch, of this process."""

    epoch: int
    rows: list[tuple[int, str]]  # of each image its number, and a digest of its views and its label


@contextlib.contextmanager
def told_of_views(told: Callable[[Batch, int, list[Tensor]], None]) -> Iterator[None]:
    """Calls `told` with every batch whose views are made meanwhile, its epoch and the views: once for every step."""
    original = Views.__call__

    def noted(self: Views, batch: Batch, epoch: int, device: torch.device) -> list[Tensor]:
        views = original(self, batch, epoch, device)
        told(batch, epoch, views)
        return views

    Views.__call__ = noted  # type: ignore[method-assign]
    try:
        yield
    finally:
        Views.__call__ = original  # type: ignore[method-assign]


@contextlib.contextmanager
def watched() -> Iterator[list[Seen]]:
    """What training sees meanwhile, in order."""
    seen: list[Seen] = []
    with told_of_views(lambda batch, epoch, views: seen.append(Seen(epoch, digests(batch, views)))):
        yield seen


def digests(batch: Batch, views: list[Tensor]) -> list[tuple[int, str]]:
    """(number, digest) of each image of a batch."""
    found = []
    for row, (index, label) in enumerate(zip(batch.indices.tolist(), batch.labels.tolist(), strict=True)):
        content = b"".join(view[row].contiguous().cpu().numpy().tobytes() for view in views)
        found.append((index, hashlib.sha256(content + str(label).encode()).hexdigest()[:16]))
    return found


def differing(whole: Path, cut: Path) -> dict[int, list[str]]:
    """By step, what differs between two run folders: tensors of checkpoints that both hold, and logged figures.

    The exported encoder counts for the last step.
    """
    found: dict[int, list[str]] = {}
    places = [folder / "checkpoints" for folder in (whole, cut)]
    common = sorted(set(checkpoint.steps(places[0])) & set(checkpoint.steps(places[1])))
    assert common, f"{whole} and {cut} hold no checkpoint of the same step"
    for step in common:
        one, other = (checkpoint.load(place / f"step_{step:08d}") for place in places)
        found[step] = [
            f"{group}: {name}"
            for group in sorted(one.tensors.keys() | other.tensors.keys())
            for name in unlike(one.tensors.get(group, {}), other.tensors.get(group, {}))
        ]
        found[step] += ["state.json"] if one.state != other.state else []
    expected = logged(whole)
    for step, figures in logged(cut).items():
        unequal = [f"logged {name}" for name in figures if figures[name] != expected[step].get(name)]
        found[step] = found.get(step, []) + unequal
    if _exported(whole) != _exported(cut):
        found[max(found)].append("exported encoder")
    return {step: names for step, names in found.items() if names}


def _exported(folder: Path) -> bytes | None:
    path = folder / "encoder.safetensors"
    return path.read_bytes() if path.is_file() else None


def unlike(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that are not the same bits, or are in one of the two alone."""
    names = sorted(one.keys() | other.keys())
    return [name for name in names if name not in one or name not in other or not equal(one[name], other[name])]


def logged(folder: Path) -> dict[int, dict[str, float]]:
    """Figures of metrics.jsonl by step, those of the clock apart."""
    found: dict[int, dict[str, float]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        figures = json.loads(line)
        step = figures.pop("step")
        found.setdefault(step, {}).update({name: value for name, value in figures.items() if name not in _TIMES})
    return found
