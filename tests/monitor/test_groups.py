"""Every figure that is logged has a group."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from selfsup.batch import Batch
from selfsup.data.settings import Data
from selfsup.evaluation.accuracy import top_figures
from selfsup.methods.base import Method
from selfsup.models.heads import Classifier
from selfsup.monitor.groups import BY_MOMENT, GROUPS, grouped
from selfsup.monitor.log import Log
from selfsup.monitor.logger import Opening
from selfsup.monitor.loggers import LOGGERS, Loggers
from selfsup.monitor.reporter import Reporter
from selfsup.optim.schedules import Horizon
from selfsup.pretraining import pretrain
from selfsup.stages.finetune_settings import finetune_settings
from selfsup.stages.finetuned import FineTuned
from selfsup.stages.probes import LinearProbe
from selfsup.stages.students import Distilled, FeatureDistilled
from tests.contracts.case import Case, Run, Toy
from tests.contracts.cases import CASES
from tests.support.fake_services import Noted
from tests.support.tiny import tiny_run


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_a_method_logs_has_a_group(case: Case) -> None:
    assert {"loss", *Run(case).step(0).metrics} <= GROUPS.keys()


def test_what_a_run_logs_has_a_group(tmp_path: Path) -> None:
    """With clusters, online evaluations, health, speed."""
    pretrain(tiny_run(tmp_path / "run", "spcl", evaluate_every=1, epochs=1))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = {name for line in lines for name in line} - {"step", "time"}
    assert {"clusters", "knn_top1", "linear_top1", "rank_me", "skipped_steps", "images_per_second"} <= found
    assert found <= GROUPS.keys()
    assert {GROUPS[name] for name in found} == {"train", "eval", "health", "speed"}


def test_what_a_stage_logs_has_a_group() -> None:
    """Of a sweep's many classifiers each figure has its rate in its name, and belongs to training as all of a step."""
    encoder, batch = Toy(batch_norm=False), Batch((), torch.tensor([0, 1]), torch.tensor([0, 1]))
    views, head = [torch.randn(2, 3, 8, 8)], nn.Linear(16, 3)
    teacher = nn.Sequential(Toy(batch_norm=False), nn.Linear(16, 3))
    classifier = Classifier.Config(num_classes=3).build(16)
    methods: list[Method] = [
        FineTuned(encoder, classifier, finetune_settings("sgd", Data())),
        Distilled(encoder, head, teacher, temperature=1.0, alpha=1.0, tau_squared=False),
        FeatureDistilled(encoder, head, teacher),
        LinearProbe(encoder, 3, "zeros"),
    ]
    for method in methods:
        assert {"loss", *method(views, batch).metrics} <= GROUPS.keys() | BY_MOMENT
    assert top_figures(torch.randn(4, 6), torch.arange(4)).keys() <= GROUPS.keys()
    assert "agreement" not in GROUPS, "a step and the evaluation after it would be one figure"


def test_what_an_evaluation_finds_is_told_from_what_a_step_finds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kept = Noted()
    monkeypatch.setitem(LOGGERS, "tensorboard", lambda opening: kept)
    log = Log(tmp_path / "metrics.jsonl", Loggers(["tensorboard"], Opening(Path("run"), 0, {})), 0, 6)
    watching = Reporter(log, Horizon(30, 10, 2), None, 0)  # type: ignore[arg-type]  # no picture is made
    watching.after_step(3, {"agreement": 0.5})
    watching.after_epoch(3, {"agreement": 0.75})
    log.close()
    taken, judged = [words[1] for words, _ in kept.named("scalars")]
    assert taken == {"train/agreement": 0.5}
    assert {"eval/agreement": 0.75}.items() <= judged.items()
    assert {name for name in judged if name != "eval/agreement"} == {
        "speed/seconds_training",
        "speed/seconds_evaluation",
    }


def test_a_figure_of_ones_own_goes_by_when_it_is_logged() -> None:
    assert grouped("mine", "train") == "train/mine"
    assert grouped("mine", "eval") == "eval/mine"
    assert grouped("loss", "eval") == "train/loss"
