"""Residual networks with torchvision's names and outputs, CIFAR stems, widths and one small enough for a CPU."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (He et al. 2016, figure 5 left)."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C', H / stride, W / stride)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + self.downsample(x))

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions, the stride in the 3x3 one ("v1.5", as torchvision and SimCLR have it)."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, 4 C', H / stride, W / stride)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + self.downsample(x))

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class Layout(NamedTuple):
    block: type[BasicBlock] | type[Bottleneck]
    counts: tuple[int, ...]  # blocks in each stage
    channels: int  # of the first stage at width 1; every later stage doubles them


Depth = Literal["small", 18, 34, 50, 101, 152]

LAYOUTS: dict[Depth, Layout] = {
    "small": Layout(BasicBlock, (1, 1, 1), 32),  # 0.31 million parameters; for CPUs, with stem="small"
    18: Layout(BasicBlock, (2, 2, 2, 2), 64),
    34: Layout(BasicBlock, (3, 4, 6, 3), 64),
    50: Layout(Bottleneck, (3, 4, 6, 3), 64),
    101: Layout(Bottleneck, (3, 4, 23, 3), 64),
    152: Layout(Bottleneck, (3, 8, 36, 3), 64),
}


class ResNet(nn.Module):
    """Residual network without a classifier (He et al. 2016): (B, 3, S, S) -> (B, feature_dim).

    State keys and outputs are those of torchvision's `resnet18` to `resnet152` with `fc` taken off. Weights are drawn
    from torch's default generator.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        depth: Depth = 50
        width: float = 1.0  # multiplies the channels of every layer, the stem included (SimCLR: 1, 2, 4)
        # imagenet: 7x7 stride 2, max-pool stride 2. cifar: 3x3, no max-pool. small: 3x3 stride 2, no max-pool.
        stem: Literal["imagenet", "cifar", "small"] = "imagenet"
        last_stride: Literal[1, 2] = 2  # 1: a finer last stage, as in SpCL and other re-identification work
        zero_init_residual: bool = False  # last scale of each branch starts at 0, as SimCLR does; MoCo does not

        def __post_init__(self) -> None:
            if self.depth not in LAYOUTS:
                raise ValueError(f"depth is {self.depth!r}; allowed are {', '.join(map(repr, LAYOUTS))}")
            if round(LAYOUTS[self.depth].channels * self.width) < 1:
                raise ValueError(f"width is {self.width}, which leaves no channel; give a larger one, such as 1.0")

        def build(self) -> "ResNet":
            return ResNet(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        layout = LAYOUTS[config.depth]
        channels = round(layout.channels * config.width)
        kernel, stride = {"imagenet": (7, 2), "cifar": (3, 1), "small": (3, 2)}[config.stem]
        self.conv1 = nn.Conv2d(3, channels, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if config.stem == "imagenet" else nn.Identity()
        self.stages: list[str] = []
        self.feature_dim = channels
        for number, count in enumerate(layout.counts):
            last = number == len(layout.counts) - 1
            first_stride = 1 if number == 0 else config.last_stride if last else 2
            self.stages.append(f"layer{number + 1}")
            self.add_module(self.stages[-1], self._stage(layout.block, channels * 2**number, count, first_stride))
        self._initialise(config.zero_init_residual)

    def _stage(self, block: type[BasicBlock] | type[Bottleneck], channels: int, count: int, stride: int) -> nn.Module:
        blocks: list[nn.Module] = []
        for number in range(count):
            blocks.append(block(self.feature_dim, channels, stride if number == 0 else 1))
            self.feature_dim = channels * block.expansion
        return nn.Sequential(*blocks)

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, (BasicBlock, Bottleneck)):
                    nn.init.zeros_(module.last_norm.weight)

    def feature_map(self, x: Tensor) -> Tensor:
        """Output of the last stage, before pooling: (B, 3, S, S) -> (B, feature_dim, s, s)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(nn.functional.adaptive_avg_pool2d(self.feature_map(x), 1), 1)
