"""Every method in 1, 2 and 4 processes: the same batches, the same views, the same numbers to rounding."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from selfsup.augment import presets
from selfsup.augment.views import Augment, Views
from selfsup.data.loader import Loader
from selfsup.data.opening import open_training
from selfsup.data.sampling import ClassBalanced, Sampling, Shuffled, TwoDomains
from selfsup.data.settings import Data
from selfsup.distributed import rank, world_size
from tests.contracts.case import Case
from tests.contracts.cases import CASES
from tests.contracts.contracts import EXACT, STEPS, equal, trained
from tests.reliability.figure import Figure, Measured
from tests.reliability.watched import digests
from tests.support.distance import distance
from tests.support.processes import run_processes
from tests.support.tiny import photographs


class Way(NamedTuple):
    """How processes are compared with one."""

    world: int
    sharded: bool = False  # whether they divide the encoder's weights among them

    def __str__(self) -> str:
        return f"{self.world} processes" + (", encoder sharded" if self.sharded else "")


WAYS = (Way(2), Way(4), Way(2, sharded=True))
KINDS = ("losses", "gradients", "state")
EPOCHS = 2
# Global batches that 4 processes can share, each with 2 of the 8 groups of batch norm; two domains need larger ones.
BATCH, BATCH_OF_DOMAINS = 16, 24
CPU = torch.device("cpu")


# The same numbers


def comparable(case: Case) -> Case:
    """Where batch norm is over each process's own images by definition, the same method on a net without batch norm."""
    return replace(case, batch_norm=False) if case.local_batch_norm else case


def train_all(cases: list[Case], sharded: bool = False) -> dict[str, dict[str, Any]]:
    """What `trained` returns for each of the cases as they can be compared, in this process."""
    sizes = [BATCH_OF_DOMAINS if case.domains == 2 else BATCH for case in cases]
    return trained([comparable(case) for case in cases], sizes, sharded)


class Row(NamedTuple):
    """One case in several processes."""

    distances: dict[str, float]  # of KINDS, from one process
    replicas: bool  # whether all processes hold the same bits

    @property
    def good(self) -> bool:
        return self.replicas and max(self.distances.values()) <= EXACT

    def __str__(self) -> str:
        numbers = " / ".join("0" if value == 0 else f"{value:.0e}" for value in self.distances.values())
        return numbers if self.replicas else f"{numbers}, processes differ"


Matrix = dict[str, dict[Way, Row]]  # by case


def matrix(cases: list[Case], ways: tuple[Way, ...]) -> Matrix:
    """How far losses, gradients and state are from those of one process."""
    one = train_all(cases)
    rows: Matrix = {case.name: {} for case in cases}
    for way in ways:
        replicas = run_processes(way.world, train_all, cases, way.sharded)
        for case in cases:
            first, *others = (replica[case.name] for replica in replicas)
            same = all(equal(value, other["state"][name]) for other in others for name, value in first["state"].items())
            rows[case.name][way] = Row({kind: distance(first[kind], one[case.name][kind]) for kind in KINDS}, same)
    return rows


# The same batches


class Preprocessing(NamedTuple):
    """A way in which images come to a method."""

    name: str
    data: Data
    sampling: Sampling
    canvas: int | None = None


def feeds(photos: Path) -> list[Preprocessing]:
    array, files = Data(root="shapes:96"), Data(root=str(photos))
    both = replace(files, labelled_root=str(photos))
    by_class = ClassBalanced(per_class=4)
    clusters = ClassBalanced(per_class=4, singletons="once")
    return [
        Preprocessing("array, shuffled", array, Shuffled()),
        Preprocessing("array, by class", array, by_class),
        Preprocessing("array, by clusters", array, clusters),
        Preprocessing("photographs, shuffled", files, Shuffled()),
        Preprocessing("photographs, by class", files, by_class),
        Preprocessing("photographs, by clusters", files, clusters),
        Preprocessing("photographs, two domains", both, TwoDomains(per_class=4)),
        Preprocessing("canvas, shuffled", replace(files, canvas=24), Shuffled(), 24),
    ]


Epochs = list[list[list[Any]]]  # by epoch and step, what `digests` says of each image


def batches(ways: list[Preprocessing], workers: int) -> dict[str, Epochs]:
    """What this process trains on, by way of feeding."""
    found: dict[str, Epochs] = {}
    for way in ways:
        views = Views(Augment(views=presets.moco_v2(16).views), seed=11)
        loader = Loader(
            open_training(way.data),
            batch_size=BATCH_OF_DOMAINS,
            seed=11,
            device=CPU,
            rank=rank(),
            world=world_size(),
            workers=workers,
            canvas=way.canvas,
            crop=None if way.canvas else views.crop,
            sampling=way.sampling,
        )
        clusters = isinstance(way.sampling, ClassBalanced) and way.sampling.singletons == "once"
        found[way.name] = [list(_epoch(loader, views, epoch, clusters)) for epoch in range(EPOCHS)]
    return found


def _epoch(loader: Loader, views: Views, epoch: int, clusters: bool) -> Iterator[list[Any]]:
    if clusters:  # that change from epoch to epoch
        loader.sampler.use(torch.arange(len(loader.source)) // (2 + epoch))
    for batch in loader.epoch(epoch):
        yield [list(row) for row in digests(batch, views(batch, epoch, CPU))]


def joined(parts: list[dict[str, Epochs]]) -> dict[str, Epochs]:
    """The global batches, of what the processes saw."""
    first = parts[0]
    return {
        name: [
            [[row for part in parts for row in part[name][epoch][step]] for step in range(len(steps))]
            for epoch, steps in enumerate(first[name])
        ]
        for name in first
    }


def compare_batches(folder: Path, worlds: tuple[int, ...], workers: tuple[int, ...]) -> tuple[int, list[str]]:
    """How many (way, world, workers) were compared with one process without workers, and which of them differ."""
    ways = feeds(photographs(folder / "photographs", 96))
    one = batches(ways, 0)
    compared, unlike = 0, []
    for world in (1, *worlds):
        for number in workers:
            if (world, number) == (1, 0):
                continue
            parts = [batches(ways, number)] if world == 1 else run_processes(world, batches, ways, number)
            for name, epochs in joined(parts).items():
                compared += 1
                unlike += [f"{name}, {world} processes, {number} workers"] if epochs != one[name] else []
    return compared, unlike


# The figure


def measure(folder: Path, quick: bool) -> Measured:
    cases = CASES[::8] if quick else CASES
    rows = matrix(cases, WAYS)
    worlds = tuple(sorted({way.world for way in WAYS}))
    compared, unlike = compare_batches(folder, worlds, (0,) if quick else (0, 2))
    cells = [row for by_way in rows.values() for row in by_way.values()]
    bad = sum(not row.good for row in cells)
    largest = {kind: max(row.distances[kind] for row in cells) for kind in KINDS}
    said = ", ".join(f"{kind} {value:.0e}" for kind, value in largest.items())
    return Measured(
        figure=f"{bad} of {len(cells)} cells differ (largest relative difference: {said}); "
        f"{len(unlike)} of {compared} ways to feed differ in a batch or a view",
        good=not bad and not unlike,
        reason="; ".join(
            [f"{name} in {way}" for name, by_way in rows.items() for way in WAYS if not by_way[way].good] + unlike
        ),
        details={
            "cells": {name: {str(way): row._asdict() for way, row in by_way.items()} for name, by_way in rows.items()},
            "feeds_compared": compared,
            "feeds_that_differ": unlike,
        },
        table=table(cases, rows),
    )


def table(cases: list[Case], rows: Matrix) -> str:
    lines = [
        f"Loss over {STEPS} steps / gradients of the first step / weights, running statistics and memory after the "
        "last: the largest difference from one process, relative to the largest value of that tensor, in double "
        "precision. In every cell all processes hold the same bits, unless it says otherwise. The same batches and "
        "views: images, labels and views of every global batch were compared bit for bit, read by the loader from "
        "arrays, photographs and a canvas, in every way of sampling.",
        "",
        "| case | " + " | ".join(map(str, WAYS)) + " |",
        "|---|" + "---|" * len(WAYS),
    ]
    marks = {case.name: " *" if case.local_batch_norm else "" for case in cases}
    lines += [
        f"| {name}{marks[name]} | " + " | ".join(str(by_way[way]) for way in WAYS) + " |"
        for name, by_way in rows.items()
    ]
    if any(marks.values()):
        lines += [
            "",
            "\\* Batch norm of this case is over each process's own images by definition, so that the number of "
            "processes is part of the method. The row is of the same method on an encoder without batch norm.",
        ]
    return "\n".join(lines)


FIGURES = (
    Figure(
        name="equivalence",
        goal="every method in 2 and 4 processes, and with a sharded encoder: batches, views and numbers as in 1",
        minutes=3,
        measure=measure,
    ),
)
