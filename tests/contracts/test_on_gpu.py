"""Every method on a GPU: what it computes there is what it computes on a CPU, in double precision."""

import pytest
import torch

from tests.contracts.case import Case, Run
from tests.contracts.cases import CASES
from tests.contracts.traces import TOLERANCE

STEPS = 8  # over an epoch's end, so that clusters are formed twice


def losses(case: Case, device: str) -> list[float]:
    """Of steps as the trainer takes them: views, labels and indices on the device."""
    run = Run(case, dtype=torch.float64)
    run.method.to(device)
    found = []
    for step in range(STEPS):
        run.begin_epoch(step)
        views, batch = run.batch(step)
        batch = batch._replace(labels=batch.labels.to(device), indices=batch.indices.to(device))
        out = run.method([view.to(device) for view in views], batch)
        run.optimizer.zero_grad()
        out.loss.backward()
        run.finish(step, out)
        found.append(out.loss.item())
    return found


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=str)
def test_losses_are_those_of_a_cpu(case: Case) -> None:
    assert losses(case, "cuda") == pytest.approx(losses(case, "cpu"), rel=TOLERANCE)
