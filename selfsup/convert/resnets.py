"""Residual networks by the names of other projects: which they are, and where their tensors lie."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from selfsup.convert.layout import Asked, Network, Piece, Refused, Tensors
from selfsup.models.blocks import Bottleneck
from selfsup.models.encoder import Encoder
from selfsup.models.resnet import LAYOUTS, Depth, ResNet

_NORM = re.compile(r"((?:.*\.)?bn\d|.*\.downsample\.1)\.")


@dataclass(frozen=True, kw_only=True)
class ResNetNames(Network):
    """torchvision's names with parts of them called otherwise."""

    parts: Mapping[str, str] = field(default_factory=dict)  # conv1, bn1, layer1 to layer4 -> what they are called
    shortcut: str = "downsample"
    norm: str = ""  # between a norm's name and that of its tensor, such as "BN_T."
    last_stride: Literal[1, 2] = 2
    # What a stem with a 3x3 convolution is: it has no max-pool, and pads by one pixel, or by two.
    small_stem: Literal["cifar", "cifar_padded"] = "cifar"
    depths: tuple[Depth, ...] = (18, 34, 50, 101, 152, 200)  # that the project has

    def anchors(self) -> tuple[str, ...]:
        ours = ("conv1.weight", "layer1.0.bn1.weight", "layer2.0.downsample.0.weight")
        return tuple(self.called(name) for name in ours)

    def called(self, name: str) -> str:
        """What the tensor is called that torchvision calls `name`."""
        if self.norm and (match := _NORM.match(name)):
            name = f"{match[0]}{self.norm}{name[match.end() :]}"
        name = name.replace(".downsample.", f".{self.shortcut}.")
        first, _, rest = name.partition(".")
        return f"{self.parts.get(first, first)}.{rest}"

    def blocks_of(self, stage: int) -> str:
        """What stands before the number of a block."""
        return f"{self.parts.get(f'layer{stage}', f'layer{stage}')}."

    def config(self, tensors: Tensors, asked: Asked) -> ResNet.Config:
        def shape(name: str) -> tuple[int, ...]:
            found = tensors.get(self.called(name))
            return () if found is None else tuple(found.shape)

        stem = shape("conv1.weight")
        if len(stem) != 4:
            raise Refused(
                f"{asked.prefix}{self.called('conv1.weight')} is missing; wanted a first convolution, of (64, 3, 7, 7)"
            )
        counts = tuple(count(tensors, self.blocks_of(stage)) for stage in range(1, 5))
        deep = any(shape(f"layer{stage}.{last - 1}.conv3.weight") for stage, last in enumerate(counts, start=1))
        if stem[1] != 3 or stem[2:] not in ((7, 7), (3, 3)):
            raise Refused(
                f"{asked.prefix}{self.called('conv1.weight')} has shape {stem}; wanted (64, 3, 7, 7), or (64, 3, 3, 3) "
                "of a network for small images"
            )
        return ResNet.Config(
            depth=depth_of(counts, deep, self.depths),
            width=stem[0] / 64,
            stem="imagenet" if stem[2] == 7 else self.small_stem,
            last_stride=self.last_stride,
        )

    def piece(self, name: str, config: Encoder.Config) -> Piece:
        return Piece((self.called(name),))

    def notes(self, config: Encoder.Config) -> list[str]:
        stem = cast(ResNet.Config, config).stem
        if stem == "imagenet":
            return []
        padded = " and is padded by 2 pixels" if stem == "cifar_padded" else ""
        return [f"the first convolution is 3x3: it is taken to have stride 1{padded}, without a max-pool after it"]


def depth_of(counts: tuple[int, ...], deep: bool, depths: tuple[Depth, ...]) -> Depth:
    """The depth of a network by its blocks per stage and their kind. Raises Refused where there is none."""
    for depth in depths:
        layout = LAYOUTS[depth]
        if layout.counts == counts and (layout.block is Bottleneck) == deep:
            return depth
    kind = "bottleneck" if deep else "basic"
    raise Refused(
        f"there are {', '.join(map(str, counts))} {kind} blocks in the stages, and no ResNet of depth "
        f"{', '.join(map(str, depths))} has them; a network of timm can be named by --architecture"
    )


def count(tensors: Tensors, start: str) -> int:
    """How many blocks there are, by the highest number that follows `start` in a name."""
    numbers = [int(match[1]) for there in tensors if (match := re.match(rf"{re.escape(start)}(\d+)\.", there))]
    return max(numbers, default=-1) + 1


STAGES = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")


def sequential(*places: int) -> dict[str, str]:
    """The parts of a network in a `nn.Sequential`: numbers of conv1, bn1, layer1 to layer4."""
    return dict(zip(STAGES, map(str, places), strict=True))


TORCHVISION = ResNetNames()
SHORTCUT = ResNetNames(shortcut="shortcut")  # of lemniscate's and SupContrast's networks for CIFAR
CHILDREN = ResNetNames(parts=sequential(0, 1, 4, 5, 6, 7))  # torchvision's children, ReLU and max-pool among them


@dataclass(frozen=True, kw_only=True)
class HuggingFaceResNet(ResNetNames):
    """Those of transformers' ResNetModel."""

    def called(self, name: str) -> str:
        if name.startswith(("conv1.", "bn1.")):
            part = "convolution" if name[0] == "c" else "normalization"
            return f"embedder.embedder.{part}.{name.partition('.')[2]}"
        match = re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(.*)", name)
        assert match is not None, name
        stage, block, kind, number, tensor = match.groups()
        if kind == "downsample.":
            inside = f"shortcut.{('convolution', 'normalization')[int(number)]}"
        else:
            inside = f"layer.{int(number) - 1}.{'convolution' if kind == 'conv' else 'normalization'}"
        return f"encoder.stages.{int(stage) - 1}.layers.{block}.{inside}.{tensor}"

    def blocks_of(self, stage: int) -> str:
        return f"encoder.stages.{stage - 1}.layers."

    def config(self, tensors: Tensors, asked: Asked) -> ResNet.Config:
        for name in ("downsample_in_bottleneck", "downsample_in_first_stage"):
            if asked.about.get(name):
                raise Refused(f"config.json says {name}, and the ResNets here have their strides elsewhere")
        if asked.about.get("hidden_act", "relu") != "relu":
            raise Refused("config.json says hidden_act is not relu, and the ResNets here have no other")
        return super().config(tensors, asked)
