"""An encoder of the user's own that the stages could not read is refused before anything is trained or written."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from selfsup.config.own_code import own_files
from selfsup.models.encoder import Encoder
from selfsup.models.resnet import ResNet
from selfsup.pretraining import pretrain
from tests.support.tiny import tiny_run
from tests.training.test_resume import final_state

BUILT = iter(range(1000))


class Odd(Encoder):
    """One fault at a time."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Encoder.Config):
        stored_as: ClassVar[str] = "odd"
        fault: str = ""
        anything: Any = None

        def build(self) -> "Odd":
            return Odd(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        fault = config.fault
        self.feature_dim: Any = {"dimension": 9, "no number": "8"}.get(fault, 8)
        width = 8 + next(BUILT) if fault == "another each time" else 8
        self.layers = nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(8))
        self.layers[3] = nn.Linear(width, 8)
        self.fault = fault
        if fault == "type":
            self.register_buffer("coarse", torch.zeros(2, dtype=torch.complex128))
        if fault == "reads its weights":
            self.scale = float(self.layers[3].weight.detach().abs().max())

    def get_extra_state(self) -> Any:
        return {"a": 1}

    def set_extra_state(self, state: Any) -> None:
        pass

    def forward(self, x: Tensor) -> Any:
        features = self.layers(x)
        return (features, features) if self.fault == "two" else features


class Bare(nn.Linear):
    """A module that is no Encoder."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Encoder.Config):
        stored_as: ClassVar[str] = "bare"

        def build(self) -> Any:
            return Bare(3, 8)


class Fine(Odd):
    """Without a fault, but for those that are asked for."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Odd.Config):
        stored_as: ClassVar[str] = "fine"

        def build(self) -> "Fine":
            return Fine(self)

    get_extra_state = nn.Module.get_extra_state
    set_extra_state = nn.Module.set_extra_state


@pytest.mark.parametrize(
    ("encoder", "told"),
    [
        (Odd.Config(), "_extra_state of its state is no tensor and cannot be stored; keep it in the settings"),
        (Fine.Config(fault="dimension"), r"of 2 images its features are \(2, 8\), and \(2, 9\) was promised"),
        (Fine.Config(fault="no number"), "feature_dim is '8'; it must be the number of features"),
        (Fine.Config(fault="two"), "of 2 images its features are tuple"),
        (Fine.Config(fault="another each time"), "tensors differ, the first is"),
        (Fine.Config(fault="type"), "complex128"),
        (Bare.Config(), r"Bare.Config builds a Bare, which is no Encoder; derive it from selfsup\.Encoder"),
        (Fine.Config(fault="reads its weights"), "describe no network that can be built"),
        (Fine.Config(anything={"a": 1}), r"configuration has encoder.anything = \{'a': 1\}; wanted"),
    ],
    ids=lambda value: value.fault or str(value.anything) if isinstance(value, Odd.Config) else "",
)
def test_what_cannot_be_read_later_is_refused(encoder: Encoder.Config, told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        pretrain(tiny_run(tmp_path / "run", root="shapes:32", encoder=encoder))
    assert not (tmp_path / "run").exists()


def test_a_trial_changes_neither_the_network_nor_what_is_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(tmp_path / "run", root="shapes:32", encoder=Fine.Config(), max_steps=1)
    pretrain(run)
    assert (tmp_path / "run" / "code" / Path(__file__).name).read_bytes() == Path(__file__).read_bytes()
    monkeypatch.setattr("selfsup.pretraining.require_readable", lambda *_: None)
    pretrain(replace(run, folder=str(tmp_path / "untried")))
    tried, untried = (final_state(tmp_path / name)["method"] for name in ("run", "untried"))
    assert all(torch.equal(value, untried[name]) for name, value in tried.items())


def test_only_classes_of_ones_own_have_files(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run")
    assert own_files(run) == []
    assert own_files(replace(run, encoder=Fine.Config())) == [Path(__file__).resolve()]
    assert own_files((ResNet.Config(), Fine.Config())) == [Path(__file__).resolve()]
