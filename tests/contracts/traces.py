"""Golden traces: the losses of each method's first steps, and how fast an error of rounding grows in them.

Processors, threads and versions of torch differ in the last bits of what they compute, and a descent amplifies that.
Everything here is in double precision, the draws of the first weights too. How much a trace may differ elsewhere is
measured: the first weights are changed by far more than rounding, and as many steps count as the losses stand it.
"""

import json
from typing import NamedTuple

import torch
from torch import Tensor

from tests.contracts.case import Case, Run
from tests.support.places import GOLDEN

TRACES = GOLDEN / "traces.json"
STEPS = 20  # at most; memory is full, and a fourth epoch has begun
TOLERANCE = 1e-6  # relative, of a loss
MARGIN = 1000  # by which it is above what the losses change with the weights
CHANGE = 1e-14  # of each weight, relative; double precision rounds to 1.1e-16
SEEDS = range(4)  # of the change


class Trace(NamedTuple):
    losses: list[float]
    moved: float  # the largest relative change of a loss, with weights that were changed by CHANGE


def measured(case: Case) -> Trace:
    """The trace of as many steps as keep `TOLERANCE` `MARGIN` times above what the losses move."""
    expected = losses(case, STEPS)
    changed = torch.stack([losses(case, STEPS, seed) for seed in SEEDS])
    moved = ((changed - expected).abs() / expected.abs()).amax(dim=0).cummax(dim=0).values  # (STEPS,)
    steps = int((moved <= TOLERANCE / MARGIN).sum())
    return Trace(expected[:steps].tolist(), float(moved[steps - 1]))


def losses(case: Case, steps: int, changed: int | None = None) -> Tensor:
    """(steps,) in double precision; with the first weights changed, where the seed of a change is given."""
    run = Run(case, dtype=torch.float64)
    if changed is not None:
        generator = torch.Generator().manual_seed(changed)
        with torch.no_grad():
            for weight in run.method.parameters():
                weight.mul_(1 + CHANGE * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
    return run.losses(range(steps))


def read() -> dict[str, Trace]:
    return {name: Trace(**found) for name, found in json.loads(TRACES.read_text()).items()}


def write(traces: dict[str, Trace]) -> None:
    """One line for each case."""
    lines = []
    for name, (found, moved) in traces.items():
        kept = {"moved": float(f"{moved:.1e}"), "losses": [float(f"{loss:.10g}") for loss in found]}
        lines.append(f"{json.dumps(name)}: {json.dumps(kept)}")
    TRACES.write_text("{\n" + ",\n".join(lines) + "\n}\n")
