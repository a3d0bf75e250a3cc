"""Alarms where an encoder collapses, and none where it does not."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from selfsup.distributed import rank
from selfsup.losses.contrastive import l2_normalize
from selfsup.losses.diagnostics import effective_rank, feature_health
from selfsup.monitor.health import REPORTS, Health
from selfsup.monitor.observer import Diverged
from selfsup.pretraining import pretrain
from tests.support.planted import Collapse, collapsed
from tests.support.processes import run_processes
from tests.support.tiny import QUICK, tiny_run


def reported(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def test_effective_rank_is_the_exponential_of_the_entropy_of_singular_values() -> None:
    torch.manual_seed(0)
    for shape in ((40, 7), (7, 40)):
        rows = torch.randn(shape)
        values = torch.linalg.svdvals(rows.double()).tolist()
        shares = [value / sum(values) + 1e-7 for value in values]
        naive = math.exp(-sum(share * math.log(share) for share in shares))
        assert effective_rank(rows) == pytest.approx(naive, rel=1e-4)
    assert effective_rank(torch.ones(30, 8)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.eye(8)) == pytest.approx(8, rel=1e-4)


def alarms(rows: list[Tensor], by_labels: bool = False, labels: Tensor | None = None) -> list[bool]:
    """Whether there is an alarm at each report of (n, D) unit rows."""
    found, health = [], Health(by_labels)
    for step, part in enumerate(rows):
        figures = {name: float(value) for name, value in feature_health(part, part).items()}
        figures |= health.figures(part, torch.zeros(len(part)) if labels is None else labels)
        found.append(bool(health.judge(step, figures)))
    return found


def test_an_alarm_needs_three_reports_in_a_row() -> None:
    torch.manual_seed(0)
    well = l2_normalize(torch.randn(64, 32))
    constant = l2_normalize(1 + 1e-3 * torch.randn(64, 32))
    few = l2_normalize(torch.cat([torch.randn(64, 2), torch.zeros(64, 30)], dim=1))
    for bad, worse in ((constant, constant), (few, few), (few, constant)):
        assert alarms([bad, worse, well, bad, worse, bad, bad, well]) == [False] * 5 + [True, True, False]


def test_classes_that_became_points_are_no_collapse_of_a_method_with_labels() -> None:
    """The best that a loss by labels can reach: k points, as far from each other as can be."""
    for classes in (2, 3, 4, 10):
        labels = torch.arange(40) % classes
        points = torch.eye(16)[labels]
        rows = [l2_normalize(points + 1e-3 * torch.randn(40, 16)) for _ in range(4)]
        assert not any(alarms(rows, by_labels=True, labels=labels))
    assert any(alarms([l2_normalize(torch.eye(16)[torch.arange(40) % 2])] * 4))  # where nothing asked for two points


def test_what_is_not_finite_is_left_to_the_guard() -> None:
    assert not any(alarms([torch.full((8, 4), torch.nan)] * 4))


@pytest.mark.parametrize("kind", ["constant", "directions"])
@pytest.mark.parametrize("method", QUICK)
def test_a_planted_collapse_is_told(method: str, kind: Collapse, tmp_path: Path) -> None:
    with collapsed(kind):
        pretrain(tiny_run(tmp_path / "run", method, epochs=1, log_every=2))
    seen = ["collapse_alarm" in line for line in reported(tmp_path / "run")]
    assert seen == [False] * (REPORTS - 1) + [True] * (4 - REPORTS + 1)


@pytest.mark.parametrize("method", QUICK)
def test_healthy_runs_raise_no_alarm(method: str, tmp_path: Path) -> None:
    # At the rate of the other tests instance discrimination does end on a line, with 99.9 % of the variance in it.
    run = tiny_run(tmp_path / "run", method, epochs=4, log_every=2)
    if method == "instdisc":
        run = replace(run, optimizer=replace(run.optimizer, learning_rate=0.003))
    pretrain(run)
    found = reported(tmp_path / "run")
    assert not any("collapse_alarm" in line for line in found)
    assert all(1 < line["rank_me"] <= 16 and 1 < line["feature_rank"] <= 16 for line in found)


def test_a_run_may_be_stopped_by_a_collapse(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", log_every=1, stop_on_collapse=True)
    with collapsed("constant"), pytest.raises(Diverged, match="collapse at step 3: all images get nearly") as error:
        pretrain(run)
    assert len(str(error.value).splitlines()) <= 3


def in_parts(rows: Tensor) -> dict[str, float]:
    part = rows.chunk(2)[rank()]
    return Health(by_labels=False).figures(part, torch.zeros(len(part)))


def test_processes_count_the_directions_of_the_whole_batch() -> None:
    rows = l2_normalize(torch.randn(24, 32, generator=torch.Generator().manual_seed(0)))
    first, second = run_processes(2, in_parts, rows)
    assert first == second
    assert first["rank_me"] == pytest.approx(effective_rank(rows), rel=1e-5)
    assert first["feature_rank"] == pytest.approx(effective_rank(rows - rows.mean(dim=0)), rel=1e-5)
