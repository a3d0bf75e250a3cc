"""Between reports nothing is computed for a log, and nothing waits for the device."""

import contextlib
from typing import Any

import pytest
import torch

from selfsup.monitor import reporter
from selfsup.monitor.observer import Report
from selfsup.monitor.reporter import HISTOGRAMS, Reporter
from selfsup.optim.schedules import Horizon
from tests.support.fake_services import Noted


def watching(steps: int) -> tuple[Reporter, Any]:
    """A reporter on a run of one epoch, and what its log is told."""
    noted = Noted()
    log: Any = noted
    return Reporter(log, Horizon(steps, 1, 1), None, 0), noted  # type: ignore[arg-type]  # no picture is made


def test_a_step_that_is_not_reported_reads_nothing_back() -> None:
    """Values on the device called "meta" cannot be had at all."""
    reporter, noted = watching(1000)
    rows = torch.empty(8, 4, device="meta")
    reporter.before_step(3, [torch.empty(8, 3, 4, 4, device="meta")])
    reporter.after_step(4, None)
    assert {name for name, _, _ in noted.calls} == {"advance"}
    with pytest.raises((NotImplementedError, RuntimeError)):
        reporter.report(Report(step=4, labels=torch.zeros(8), figures={}, shown=(rows, rows)))


@pytest.mark.parametrize(("steps", "between"), [(90, 1), (199, 2), (1000, 10)])
def test_similarities_are_those_of_the_last_step_and_not_too_many(steps: int, between: int) -> None:
    reporter, noted = watching(steps)
    with reporter:
        for step in range(1, steps + 1):
            rows = torch.nn.functional.normalize(torch.randn(6, 4))
            reporter.report(Report(step=step, labels=torch.zeros(6), figures={}, shown=(rows, rows.flip(1))))
    told = [words for words, _ in noted.named("histogram") if words[0] == "similarity/positive"]
    assert [words[1] for words in told] == list(range(1, steps + 1, between))
    assert len(told) <= HISTOGRAMS
    assert [words for words, _ in noted.named("close")] == [("stopped",)]


@pytest.mark.parametrize(("last", "fails", "ending"), [(3, 0, "finished"), (2, 0, "stopped"), (3, 1, "failed")])
def test_how_a_run_ends_is_told(last: int, fails: int, ending: str) -> None:
    reporter, noted = watching(3)
    with contextlib.suppress(ArithmeticError), reporter:
        for step in range(1, last + 1):
            reporter.after_step(step, None)
        _ = 1 // (1 - fails)
    assert [words for words, _ in noted.named("close")] == [(ending,)]


def test_an_evaluation_is_logged_with_its_seconds_and_those_of_the_training_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    monkeypatch.setattr(reporter.time, "monotonic", lambda: clock[0])
    watch, noted = watching(2)
    clock[0] = 110.0
    with watch:
        for step, (training, evaluation) in enumerate([(7.0, 0.0), (8.0, 0.5), (20.0, 2.0)], start=1):
            clock[0] += training
            watch.at("evaluating", step)
            clock[0] += evaluation
            watch.after_epoch(step, {"knn_top1": 0.5} if evaluation else {})
    told = [words[1] for words, _ in noted.named("scalars")]
    assert told == [
        {"knn_top1": 0.5, "seconds_training": 15.0, "seconds_evaluation": 0.5},
        {"knn_top1": 0.5, "seconds_training": 20.0, "seconds_evaluation": 2.0},
    ]
