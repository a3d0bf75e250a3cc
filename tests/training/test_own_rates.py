"""Runs in which a loss learns parameters at a rate of their own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from selfsup.augment import presets
from selfsup.augment.views import Augment
from selfsup.data.sampling import ClassBalanced
from selfsup.data.sources import open_source
from selfsup.methods.metric import Metric
from selfsup.methods.pair_loss import PairLoss
from selfsup.methods.pair_losses import Margin, Proxy
from selfsup.optim.optimizers import SGD, AdamW, OptimizerConfig
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import Run, build_method, pretrain
from selfsup.storage import checkpoint
from selfsup.training.trainer import Trainer
from tests.support.tiny import tiny_run

SLOW = SGD.Config(learning_rate=1e-3, scaling="none", weight_decay=0.1)


def metric_run(folder: Path, loss: PairLoss.Config, optimizer: OptimizerConfig = SLOW, **changes: Any) -> Run:
    return replace(
        tiny_run(folder, **changes),
        method=Metric.Config(loss=loss, output_dim=8),
        augment=Augment(views=presets.moco_cifar(size=16).views[:1]),
        sampling=ClassBalanced(per_class=4),
        optimizer=optimizer,
    )


def final(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    found, _ = checkpoint.load_newest(folder / "checkpoints")
    assert found is not None
    return found.tensors


def test_a_step_is_as_much_longer_as_the_rate(tmp_path: Path) -> None:
    """The first step of beta in a whole run, without decay."""
    moved = []
    for rate in (1.0, 6.0):
        folder = tmp_path / str(rate)
        pretrain(metric_run(folder, Margin.Config(boundary="one", rate=rate), max_steps=1))
        moved.append(final(folder)["method"]["loss.beta"].double() - 1.2)
    assert moved[0].abs() > 1e-5
    assert float(moved[1] / moved[0]) == pytest.approx(6, rel=1e-2)


def test_the_schedule_acts_on_every_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    step = Trainer.step

    def spied(self: Trainer, number: int, *rest: object) -> object:
        out = step(self, number, *rest)  # type: ignore[arg-type]
        seen[number] = [group["lr"] for group in self.optimizer.param_groups]
        return out

    monkeypatch.setattr(Trainer, "step", spied)
    pretrain(metric_run(tmp_path / "run", Proxy.Config(rate=20.0), schedule=Cosine(), epochs=1))
    assert len(seen) == 8
    for number, rates in seen.items():
        factor = 0.5 * (1 + torch.tensor(torch.pi * number / 8).cos().item())
        assert rates == pytest.approx([1e-3 * factor, 20e-3 * factor], rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "optimizer"),
    [(Margin.Config(), SLOW), (Margin.Config(boundary="one"), AdamW.Config()), (Proxy.Config(), AdamW.Config())],
)
def test_resume_is_exact(loss: PairLoss.Config, optimizer: OptimizerConfig, tmp_path: Path) -> None:
    pretrain(metric_run(tmp_path / "whole", loss, optimizer, epochs=1))
    pretrain(metric_run(tmp_path / "cut", loss, optimizer, epochs=1, max_steps=3))
    pretrain(metric_run(tmp_path / "cut", loss, optimizer, epochs=1))
    whole, cut = final(tmp_path / "whole"), final(tmp_path / "cut")
    for group in ("method", "optimizer"):
        assert whole[group].keys() == cut[group].keys()
        assert all(torch.equal(value, cut[group][name]) for name, value in whole[group].items())
    learnt = "loss.proxies" if isinstance(loss, Proxy.Config) else "loss.beta"
    assert any(name.startswith(f"{learnt}/") for name in whole["optimizer"])
    start = build_method(metric_run(tmp_path / "x", loss), open_source("shapes:128")).state_dict()[learnt]
    assert not torch.equal(whole["method"][learnt], start)
