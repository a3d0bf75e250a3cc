"""R12: a run goes on with other numbers of processes and workers, in the middle of an epoch."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from selfsup.methods.base import Method
from selfsup.methods.moco import MoCo
from selfsup.methods.xbm import XBM
from selfsup.pretraining import Run, pretrain
from selfsup.storage import checkpoint
from tests.reliability.figure import Figure, Measured
from tests.reliability.watched import Seen, differing, watched
from tests.support.in_double import InDouble
from tests.support.processes import run_processes
from tests.support.tiny import METHODS, photographs, tiny_run

EPOCH, STEPS = 5, 10
NEAR = 1e-9  # of the largest value of a tensor


class Leg(NamedTuple):
    """A part of a run."""

    until: int  # step
    world: int
    workers: int
    sharded: bool = False  # whether the processes divide the encoder's weights among them


LEGS = (Leg(2, 1, 0), Leg(4, 2, 2), Leg(6, 3, 0, True), Leg(8, 1, 2), Leg(STEPS, 1, 0))


def large_enough(config: Method.Config) -> Method.Config:
    """With memories that hold a batch of 24, and groups of batch norm that 1, 2 and 3 processes can share."""
    if isinstance(config, MoCo.Config):  # the queue must hold the keys of two views
        return replace(config, queue_size=70, batch_norm_splits=6)
    return replace(config, memory_size=70) if isinstance(config, XBM.Config) else config


def travelling(method: str, folder: Path, photos: Path) -> Run:
    """10 steps in 2 epochs, of batches that 2 and 3 processes can share, too."""
    run = tiny_run(folder, method, root=str(photos), batch_size=24, log_every=1)
    sampling: Any = run.sampling
    if getattr(sampling, "steps_per_epoch", None):
        sampling = replace(sampling, steps_per_epoch=EPOCH)
    return replace(run, sampling=sampling, method=InDouble(method=large_enough(run.method)))


def go(runs: list[Run]) -> list[list[list[Any]]]:
    """`pretrain` of each in turn; returns, for each, what this process saw at every step."""
    found = []
    for run in runs:
        with watched() as seen:
            pretrain(run)
        found.append([_plain(item) for item in seen])
    return found


def _plain(seen: Seen) -> list[Any]:
    return [seen.epoch, [list(row) for row in seen.rows]]


def over_legs(runs: list[Run], legs: tuple[Leg, ...]) -> list[list[list[Any]]]:
    """Each run through all legs; returns, for each, the global batches that were seen, in order."""
    seen: list[list[list[Any]]] = [[] for _ in runs]
    for leg in legs:
        now = [replace(run, max_steps=leg.until, workers=leg.workers, shard_encoder=leg.sharded) for run in runs]
        parts = [go(now)] if leg.world == 1 else run_processes(leg.world, go, now)
        for number in range(len(runs)):
            for steps in zip(*(part[number] for part in parts), strict=True):
                seen[number].append([steps[0][0], [row for _, rows in steps for row in rows]])
    return seen


def misplaced(expected: list[list[Any]], seen: list[list[Any]]) -> int:
    """Images that are not where they ought to be, or look otherwise."""
    if len(expected) != len(seen):
        return sum(len(rows) for _, rows in expected)
    return sum(
        a != b or one[0] != other[0]
        for one, other in zip(expected, seen, strict=True)
        for a, b in zip(one[1], other[1], strict=True)
    )


def _last(folder: Path) -> dict[str, Tensor]:
    found, _ = checkpoint.load_newest(folder / "checkpoints")
    assert found is not None
    return found.tensors["method"]


def farthest(one: Path, other: Path) -> float:
    """Largest difference of a tensor of the last checkpoints, relative to its largest value or to 0.01."""
    largest, states = 0.0, [_last(folder) for folder in (one, other)]
    for name, value in states[0].items():
        if not value.is_floating_point():
            largest = max(largest, 0.0 if bool((states[1][name] == value).all()) else float("inf"))
        elif bool(value.isfinite().all()):
            size = max(float(value.abs().max()), 1e-2)
            largest = max(largest, float((states[1][name] - value).abs().max()) / size)
    return largest


def measure(folder: Path, quick: bool) -> Measured:
    photos = photographs(folder / "photographs", 24 * EPOCH)
    methods = ("simclr", "spcl_domains") if quick else tuple(METHODS)
    straight = [travelling(method, folder / f"{method}_straight", photos) for method in methods]
    moved, stayed = (
        [replace(run, folder=str(folder / f"{method}_{name}")) for method, run in zip(methods, straight, strict=True)]
        for name in ("moved", "stayed")
    )
    legs = (LEGS[0], LEGS[1], LEGS[4]) if quick else LEGS
    expected, saw = go(straight), over_legs(moved, legs)
    saw_alone = over_legs(stayed, tuple(leg._replace(world=1) for leg in legs))
    rows = {}
    for number, method in enumerate(methods):
        rows[method] = {
            "misplaced": misplaced(expected[number], saw[number]),
            "misplaced_with_other_workers": misplaced(expected[number], saw_alone[number]),
            "distance": farthest(Path(straight[number].folder), Path(moved[number].folder)),
            "other_workers_exact": not differing(Path(straight[number].folder), Path(stayed[number].folder)),
        }
    return judged(rows, legs)


def judged(rows: dict[str, dict[str, Any]], legs: tuple[Leg, ...]) -> Measured:
    lost = sum(row["misplaced"] + row["misplaced_with_other_workers"] for row in rows.values())
    exact = sum(row["other_workers_exact"] for row in rows.values())
    near = {name: row["distance"] for name, row in rows.items()}
    far = [name for name, distance in near.items() if not distance <= NEAR]
    worlds = " -> ".join(f"{leg.world}{' (encoder sharded)' if leg.sharded else ''}" for leg in legs)
    workers = " -> ".join(str(leg.workers) for leg in legs)
    return Measured(
        figure=f"{lost} samples lost, repeated or seen otherwise with {worlds} processes and {workers} workers; "
        f"weights and memory within {max(near.values()):.0e} of the uninterrupted run in double precision; with other "
        f"workers alone {exact} of {len(rows)} methods bit-equal",
        good=lost == 0 and exact == len(rows) and not far,
        reason=", ".join(f"{name} is {near[name]:.0e} away" for name in far),
        details={"methods": rows, "legs": [leg._asdict() for leg in legs]},
    )


FIGURE = Figure(
    name="R12",
    goal="1 -> 2 -> 3 -> 1 processes and 0 -> 2 workers: 0 samples lost or repeated, the same weights to 1e-9",
    minutes=3,
    measure=measure,
)
