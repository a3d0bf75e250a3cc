"""Every shipped recipe, made small, with 1 process and with several: its own batch norm, views, sampling, optimizer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfsup.config.recipe_files import recipe_names
from tests.contracts.contracts import EXACT
from tests.reliability.equivalence import Way
from tests.reliability.figure import Figure, Measured
from tests.support.distance import distance
from tests.support.processes import run_processes
from tests.support.small_recipes import IMAGES, STEPS, small, trained
from tests.support.tiny import array_file

WAYS = (Way(2), Way(4), Way(2, sharded=True))
KINDS = ("losses", "state", "optimizer")


def ran(names: list[str], root: str, folder: Path, way: Way) -> dict[str, dict[str, Any]]:
    """What `trained` returns in the first of the processes."""
    runs = [replace(small(name, root, folder / str(way)), shard_encoder=way.sharded) for name in names]
    found = trained(runs) if way.world == 1 else run_processes(way.world, trained, runs)[0]
    return {name: {**kinds, "state": without_key_biases(kinds["state"])} for name, kinds in found.items()}


def without_key_biases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state without the biases of attention's keys, which no loss depends on.

    They add the same to all scores of a query, and a softmax does not see that. Their gradient is 0 but for rounding,
    of 1e-17; AdamW divides it by its own size plus 1e-8, so that what moves them is rounding alone. Queries and values,
    the other two thirds of timm's `attn.qkv.bias`, stay.
    """
    kept = {}
    for name, value in state.items():
        if name.endswith("attn.qkv.bias"):
            queries, _, values = value.chunk(3)
            value = torch.cat([queries, values])
        kept[name] = value
    return kept


def measure(folder: Path, quick: bool) -> Measured:
    names = recipe_names()[::12] if quick else recipe_names()
    root = str(array_file(folder / "shapes.npz", IMAGES))
    one = ran(names, root, folder, Way(1))
    cells: dict[str, dict[str, dict[str, float]]] = {name: {} for name in names}
    for way in WAYS[:1] if quick else WAYS:
        several = ran(names, root, folder, way)
        for name in names:
            cells[name][str(way)] = {kind: distance(several[name][kind], one[name][kind]) for kind in KINDS}
    return judged(cells)


def judged(cells: dict[str, dict[str, dict[str, float]]]) -> Measured:
    """The figure, from recipe -> way -> kind -> distance."""
    worst = {f"{name} in {way}": max(row.values()) for name, rows in cells.items() for way, row in rows.items()}
    bad = [cell for cell, distance in worst.items() if not distance <= EXACT]
    return Measured(
        figure=f"{len(cells)} recipes, {len(bad)} of {len(worst)} cells differ (largest relative difference "
        f"{max(worst.values()):.0e})",
        good=not bad,
        reason="; ".join(bad),
        details={"cells": cells},
        table=table(cells),
    )


def table(cells: dict[str, dict[str, dict[str, float]]]) -> str:
    ways = list(next(iter(cells.values())))
    lines = [
        f"All {len(cells)} shipped recipes with their own settings; only images, encoders, memories and batches are "
        f"made small. Losses of {STEPS} steps / weights, running statistics and memory / the optimizer's state after "
        "the last: the largest difference from one process, relative to the largest value of that tensor, in double "
        "precision. The biases of attention's keys, which no loss depends on, are left out: AdamW moves them by "
        "rounding alone.",
        "",
        "| recipe | " + " | ".join(ways) + " |",
        "|---|" + "---|" * len(ways),
    ]
    lines += [
        f"| {name} | "
        + " | ".join(" / ".join(f"{value:.0e}" for value in row.values()) for row in rows.values())
        + " |"
        for name, rows in cells.items()
    ]
    return "\n".join(lines)


FIGURES = (
    Figure(
        name="R21",
        goal="every shipped recipe with its own settings in 2 and 4 processes, and with a sharded encoder: as in 1",
        minutes=8,
        measure=measure,
    ),
)
