"""A captured step, run again in one process without data: the same numbers go wrong, in the same place."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfsup.data.sampler import Sampler
from selfsup.models.resnet import ResNet
from selfsup.pretraining import Run, pretrain
from selfsup.stages.commands import command_of
from selfsup.stages.replay import run_replay
from selfsup.stages.settings import Replay
from selfsup.storage import checkpoint
from tests.support.planted import MARK, ROW, outcome, planted
from tests.support.sealed_files import put, rewrite
from tests.support.tiny import METHODS, tiny_run


class Poisoned(nn.Conv2d):
    """A convolution that makes NaN of marked images alone."""

    def forward(self, input: Tensor) -> Tensor:
        marked = (input[:, 0, 0, 0] == MARK)[:, None, None, None]
        return torch.where(marked, torch.nan, super().forward(input))


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    build = ResNet.Config.build

    def built(config: ResNet.Config) -> ResNet:
        encoder = build(config)
        encoder.conv1.__class__ = Poisoned
        return encoder

    monkeypatch.setattr(ResNet.Config, "build", built)


def again(run: Run, step: int, **settings: Any) -> dict[str, Any]:
    return run_replay(Path(run.folder) / "captured" / f"step_{step:08d}", Replay(**settings))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_replay_names_the_module_and_the_image(method: str, poisoned: None, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", method, epochs=1, max_steps=2)
    with planted("mark", (1,), value=MARK) as watched:
        pretrain(run)
    assert watched.left_out == [1]
    captured = checkpoint.load(tmp_path / "run" / "captured" / "step_00000002")
    index = int(captured.tensors["batch"]["indices"][ROW])
    found = again(run, 2)
    assert found["reproduced"]
    assert found["first_module"] == {"name": "encoder.conv1", "class": "Poisoned"}
    assert found["images"] == [{"row": ROW, "index": index, "name": captured.state["images"][ROW]}]
    # A loss of distances may be a number all the same; its gradient is not.
    assert found["loss"] == "nan" or method == "metric_margin"
    assert found["first_parameter"] is not None
    assert not any(found["views_not_finite"])


def test_the_view_that_is_not_finite_is_named(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", "moco", epochs=1, max_steps=3)
    outcome(run, "input", (2,))
    index = int(Sampler(128, 16, seed=0).batch(0, 2)[ROW])
    found = again(run, 3)
    assert found["images"] == [{"row": ROW, "index": index, "name": f"shapes-train[{index}]"}]
    assert found["views_not_finite"] == [[ROW], []]
    assert found["first_module"]["name"] == "encoder.conv1"


def test_the_state_is_that_before_the_step(tmp_path: Path) -> None:
    """The same loss to the last bit as the step that was left out, which is not among what is logged."""
    run = tiny_run(tmp_path / "run", "moco", epochs=1, max_steps=4, log_every=1)
    outcome(run, "loss", (3,))
    pretrain(replace(run, folder=str(tmp_path / "whole")))
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    found = again(run, 4)
    assert not found["reproduced"]
    assert found["loss"] == lines[3]["loss"]
    assert found["first_module"] is None
    assert found["images"] == []
    assert len(found["largest_activations"]) == len(found["largest_gradients"]) == 5


def test_precision_may_be_another(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", epochs=1, max_steps=2, precision="bf16")
    outcome(run, "loss", (1,))
    half, full = again(run, 2), again(run, 2, precision="fp32")
    assert (half["precision"], full["precision"]) == ("bf16", "fp32")
    assert half["loss"] != full["loss"]
    assert half["loss"] == pytest.approx(full["loss"], rel=0.03)
    with pytest.raises(ValueError, match="fp16 needs a CUDA device"):
        again(run, 2, precision="fp16", device="cpu")


def test_thecommand_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run(tmp_path / "run", epochs=1, max_steps=3)
    outcome(run, "input", (1,))
    outcome(replace(run, max_steps=4), "loss", (3,))
    # In a process that knows no method yet.
    words = [sys.executable, "-m", "selfsup", "replay", f"{run.folder}/captured/step_00000002", "--precision", "bf16"]
    bad = subprocess.run(words, capture_output=True, text=True)
    assert bad.returncode == 0, bad.stderr
    found = json.loads(bad.stdout)
    assert found["reproduced"]
    assert found["precision"] == "bf16"
    capsys.readouterr()
    command = command_of("replay")
    assert command([f"{run.folder}/captured/step_00000004"]) == 3
    assert not json.loads(capsys.readouterr().out)["reproduced"]
    with pytest.raises(ValueError, match="is no captured step; it captured step_00000002, step_00000004"):
        command([run.folder])


def test_weights_that_training_started_from_are_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path / "run", epochs=1, max_steps=2)
    outcome(run, "loss", (1,))
    asked: list[object] = []
    monkeypatch.setattr(ResNet.Config, "load_pretrained", lambda self, encoder: asked.append(encoder))
    again(run, 2)
    assert not asked


def test_what_a_stage_captured_is_refused(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", epochs=1, max_steps=2)
    outcome(run, "loss", (1,))
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    saved["run"]["class"] = "finetune"
    del saved["checksum"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(saved))
    with pytest.raises(ValueError, match="is of finetune; only what pretraining captured can be run again"):
        again(run, 2)


def test_a_size_that_nothing_can_have_is_named(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", epochs=1, max_steps=2)
    outcome(run, "loss", (1,))
    keys = ("run", "method", "head", "output_dim")
    rewrite(tmp_path / "run" / "config.json", lambda saved: put(2**63, keys, saved))
    with pytest.raises(ValueError, match=r"no network.* method.head.output_dim = 9223372036854775808: ") as refused:
        again(run, 2)
    assert "frame #" not in str(refused.value)
