"""What every encoder gives beside its features: its parts in their order, for rates, freezing and sharding."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from selfsup.models.encoder import Encoder
from selfsup.models.resnet import ResNet


class Tower(Encoder):
    """A user's own: a stem with a parameter of its own, two stages, one of them in two places."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Encoder.Config):
        width: int = 4

        def build(self) -> "Tower":
            return Tower(self.width)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.feature_dim = width
        self.shift = nn.Parameter(torch.zeros(width))
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.floors = nn.ModuleList([nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU()) for _ in range(2)])
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) + self.shift[:, None, None]
        for floor in self.floors:
            x = floor(x)
        return self.norm(x).mean(dim=(2, 3))

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        return (("floors.0",), ("floors.1", "norm"))


class Piece(Encoder):
    """A user's own that says nothing of its parts."""

    feature_dim = 5

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 1)
        self.norm = nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).mean(dim=(2, 3))


ENCODERS = {"resnet": ResNet.Config(depth="small", stem="small").build(), "tower": Tower(4), "piece": Piece()}


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_every_parameter_is_in_one_level(encoder: Encoder) -> None:
    levels = encoder.levels()
    assert len(levels) == len(encoder.stages) + 1
    for name, _ in encoder.named_parameters():
        assert sum(name.startswith(part) for level in levels for part in level) == 1, name


@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_what_is_frozen_are_the_stem_and_the_first_stages(encoder: Encoder) -> None:
    for below in range(len(encoder.stages) + 1):
        held = encoder.frozen(below)
        parts = [list(part.parameters()) if isinstance(part, nn.Module) else [part] for part in held]
        frozen = [id(p) for part in parts for p in part]
        lowest = [part for level in encoder.levels()[: below + 1] for part in level]
        expected = [id(p) for name, p in encoder.named_parameters() if name.startswith(tuple(lowest))]
        assert sorted(frozen) == sorted(expected)  # each once


def test_the_parts_of_shipped_networks() -> None:
    encoder = ENCODERS["resnet"]
    assert encoder.stages == (("layer1",), ("layer2",), ("layer3",))
    assert encoder.levels()[0] == ("conv1.weight", "bn1.weight", "bn1.bias")
    assert [type(block).__name__ for block in encoder.blocks()] == ["BasicBlock"] * 3
    bottlenecks = ResNet.Config(depth=50, width=0.125, variant="simclr", sk_ratio=0.5).build()
    assert len(list(bottlenecks.blocks())) == 16
    assert list(Piece().blocks()) == []
    assert [type(block).__name__ for block in Tower(4).blocks()] == ["Conv2d", "Conv2d", "BatchNorm2d"]


class Tall(Encoder):
    """Twelve stages: the name of the second begins those of the last two."""

    feature_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.floors = nn.ModuleList([nn.Conv2d(3, 3, 1) for _ in range(12)])

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        return tuple((f"floors.{number}",) for number in range(12))


def test_a_stage_is_not_taken_for_one_whose_name_begins_like_it() -> None:
    encoder = Tall()
    assert [part is floor for part, floor in zip(encoder.frozen(11), encoder.floors, strict=False)] == [True] * 11
    trained = {id(floor) for floor in encoder.floors[1:]}
    assert not any(id(part) in trained for part in encoder.frozen(1))
    assert len(encoder.levels()) == 13
    assert [part for level in encoder.levels() for part in level] == [f"floors.{number}." for number in range(12)]
    held = {name: [part for part in encoder.levels()[2] if name.startswith(part)] for name in encoder.state_dict()}
    assert [name for name, parts in held.items() if parts] == ["floors.1.weight", "floors.1.bias"]


def test_a_frozen_stem_keeps_its_running_statistics() -> None:
    assert [type(part) for part in Piece().frozen(0)] == [nn.Conv2d, nn.BatchNorm2d]


def test_what_is_missing_is_named() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Bare(Encoder.Config):
        pass

    with pytest.raises(NotImplementedError, match="Bare does not say how to build its encoder"):
        Bare().build()
    with pytest.raises(ValueError, match="no smaller network is known"):
        Bare().smaller()
    with pytest.raises(NotImplementedError, match="Encoder does not say what its features are"):
        Encoder()(torch.zeros(1, 3, 8, 8))
