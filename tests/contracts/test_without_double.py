"""Every method on a device without double precision: it takes every step, and gives what the CPU gives."""

import pytest
import torch
from torch import Tensor

from selfsup.methods.base import Step
from tests.contracts.case import Case, Run
from tests.contracts.cases import CASES
from tests.support.pretended import DEVICE, OnDevice, move, on_cpu, pretended

STEPS = 7  # over an epoch's end, so that clusters are formed twice


def steps(case: Case, there: bool) -> tuple[list[Step], dict[str, Tensor], dict[str, Tensor]]:
    """What some steps gave, the last gradients and the state after them."""
    run = Run(case)
    if there:
        move(run.method)
        run.optimizer = torch.optim.SGD([p for p in run.method.parameters() if p.requires_grad], lr=0.05)
    given = []
    for step in range(STEPS):
        run.begin_epoch(step)
        run.foresee(step)
        views, batch = run.batch(step)
        if there:
            batch = batch._replace(labels=OnDevice(batch.labels), indices=OnDevice(batch.indices))
            views = [OnDevice(view) for view in views]
        out = run.method(views, batch)
        run.optimizer.zero_grad()
        out.loss.backward()
        given.append(out)
        run.finish(step, out)
    return given, run.gradients(), run.state()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_steps_are_those_of_the_cpu(case: Case) -> None:
    expected, slopes, state = steps(case, there=False)
    with pretended():
        found, found_slopes, found_state = steps(case, there=True)
        for step, wanted in zip(found, expected, strict=True):
            assert step.loss.device == DEVICE
            assert {figure.device for figure in step.metrics.values()} <= {DEVICE}
            assert_close(on_cpu(step.loss), wanted.loss, "loss")
            for name, figure in wanted.metrics.items():
                assert_close(on_cpu(step.metrics[name]), figure, name)
    for part, wanted in ((found_slopes, slopes), (found_state, state)):
        assert part.keys() == wanted.keys()
        for name, value in wanted.items():
            assert_close(on_cpu(part[name]), value, name)


def assert_close(found: Tensor, expected: Tensor, name: str) -> None:
    """As double precision has it; single precision is a thousand times as coarse. Whole numbers are equal."""
    bound = 1e-10 if expected.is_floating_point() else 0.0
    torch.testing.assert_close(
        found, expected, rtol=bound, atol=bound, equal_nan=True, msg=lambda said: f"{name}: {said}"
    )
