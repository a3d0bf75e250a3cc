"""The precision of a run is that which it began with."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from selfsup.evaluation import online
from selfsup.models.resnet import ResNet
from selfsup.pretraining import pretrain
from selfsup.run_folder.folder import RunFolder
from selfsup.runtime import arithmetic
from selfsup.training.precision import described, settled
from tests.support.tiny import tiny_run


def test_a_run_that_began_on_the_cpu_stays_in_fp32_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = replace(tiny_run(tmp_path / "run", "simclr", max_steps=1, evaluate_every=0), precision="auto")
    pretrain(run)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["run"]["precision"] == saved["result"]["precision"] == "fp32"
    launch = json.loads((tmp_path / "run" / "environment.json").read_text())["launches"][0]
    assert launch["arithmetic"] == {"tf32_products": False, "tf32_convolutions": False, "deterministic": False}
    monkeypatch.setattr(arithmetic, "capability", lambda device: (9, 0))
    later = settled(run, RunFolder(tmp_path / "run"))
    assert later.precision == "fp32"
    assert described("auto", later) == "precision fp32, with which the run began (a new one would have bf16 here)"
    assert settled(run, RunFolder(tmp_path / "new")).precision == "bf16"
    monkeypatch.undo()
    assert pretrain(replace(run, max_steps=2))["step"] == 2  # the same command goes on
    with pytest.raises(ValueError, match="precision"):
        pretrain(replace(run, precision="bf16"))


def test_what_is_asked_for_by_name_is_kept(tmp_path: Path) -> None:
    run = replace(tiny_run(tmp_path / "run", "simclr"), precision="tf32")
    assert settled(run, RunFolder(tmp_path / "run")).precision == "tf32"
    assert described("tf32", run) == "precision tf32"


@pytest.mark.parametrize("exact", ["run", "fp32"])
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_the_encoder_is_judged_in_the_precision_of_the_run_and_neighbours_in_full(
    precision: Any, exact: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, searched = set(), set()
    forward, search = ResNet.forward, online.knn_accuracy

    def noted() -> tuple[bool, bool]:
        return arithmetic.in_force()["tf32_products"], torch.is_autocast_enabled("cpu")

    def seen(self: ResNet, x: torch.Tensor) -> torch.Tensor:
        encoded.update(set() if self.training else {noted()})
        return forward(self, x)

    monkeypatch.setattr(ResNet, "forward", seen)
    monkeypatch.setattr(online, "knn_accuracy", lambda *a, **k: (searched.add(noted()), search(*a, **k))[1])
    run = tiny_run(tmp_path / "run", root="shapes:32", epochs=1, evaluate_every=1, max_steps=2, probe_l2=None)
    pretrain(replace(run, precision=precision, evaluate_precision=exact))
    assert encoded == {(precision == "tf32", precision == "bf16") if exact == "run" else (False, False)}
    assert searched == {(False, False)}
