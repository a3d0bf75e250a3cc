"""Residual networks as torchvision or SimCLR has them, with CIFAR stems, widths and one small enough for a CPU."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from selfsup.config.checks import require
from selfsup.models.blocks import BasicBlock, Bottleneck, SameMaxPool, projection
from selfsup.models.channels import channels_label, channels_told, require_channels
from selfsup.models.encoder import Encoder
from selfsup.models.selective import SelectiveBottleneck, deep_stem, pooled_projection


class Layout(NamedTuple):
    block: type[BasicBlock] | type[Bottleneck]
    counts: tuple[int, ...]  # blocks in each stage
    channels: int  # of the first stage at width 1; every later stage doubles them


Depth = Literal["small", 18, 34, 50, 101, 152, 200]

LAYOUTS: dict[Depth, Layout] = {
    "small": Layout(BasicBlock, (1, 1, 1), 32),  # 0.31 million parameters; for CPUs, with stem="small"
    18: Layout(BasicBlock, (2, 2, 2, 2), 64),
    34: Layout(BasicBlock, (3, 4, 6, 3), 64),
    50: Layout(Bottleneck, (3, 4, 6, 3), 64),
    101: Layout(Bottleneck, (3, 4, 23, 3), 64),
    152: Layout(Bottleneck, (3, 8, 36, 3), 64),
    200: Layout(Bottleneck, (3, 24, 36, 3), 64),
}


class ResNet(Encoder):
    """Residual network without a classifier (He et al. 2016): (B, C, S, S) -> (B, feature_dim).

    State keys and outputs are those of torchvision's `resnet18` to `resnet152` with `fc` taken off; with
    variant="simclr" outputs are those of the published SimCLR and SimCLRv2 (Chen et al. 2020). Weights are drawn from
    torch's default generator.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(Encoder.Config):
        stored_as: ClassVar[str] = "resnet"
        depth: Depth = 50
        width: float = 1.0  # multiplies the channels of every layer, the stem included (SimCLR: 1, 2, 4)
        # imagenet: 7x7 stride 2, max-pool stride 2. cifar: 3x3, no max-pool. cifar_padded: the same, padded by 2 pixels
        # as in solo-learn. small: 3x3 stride 2, no max-pool.
        stem: Literal["imagenet", "cifar", "cifar_padded", "small"] = "imagenet"
        # simclr: the published SimCLR network, which pads its max-pool otherwise, has a convolution in the shortcut of
        # every stage, and starts from truncated normal weights and zero_init_residual.
        variant: Literal["torchvision", "simclr"] = "torchvision"
        # Selective kernels with a bottleneck of this part of the channels, and ResNet-D's stem and shortcuts; 0: none.
        # SimCLRv2: 0.0625, with variant="simclr" and a depth of 50 or more.
        sk_ratio: float = 0.0
        last_stride: Literal[1, 2] = 2  # 1: a finer last stage, as in SpCL and other re-identification work
        zero_init_residual: bool = False  # last scale of each branch starts at 0, as in variant="simclr"; MoCo: not
        in_channels: int = 3  # of the images: those that data.channels keeps

        def __post_init__(self) -> None:
            require(self.depth in LAYOUTS, f"depth is {self.depth!r}; allowed are {', '.join(map(repr, LAYOUTS))}")
            require(
                round(LAYOUTS[self.depth].channels * self.width) >= (2 if self.sk_ratio else 1),
                f"width is {self.width}, which leaves no channel; give a larger one, such as 1.0",
            )
            require_channels(self.in_channels)
            self._check_selective_kernels()

        def _check_selective_kernels(self) -> None:
            if not 0 <= self.sk_ratio <= 1:
                raise ValueError(
                    f"sk_ratio is {self.sk_ratio}; give 0 for no selective kernels, or up to 1, such as 0.0625"
                )
            if self.sk_ratio and self.variant != "simclr":
                raise ValueError(
                    f"sk_ratio is {self.sk_ratio}, but torchvision's networks have no selective kernels; "
                    'add variant="simclr", or leave sk_ratio at 0'
                )
            if self.sk_ratio and LAYOUTS[self.depth].block is BasicBlock:
                raise ValueError(
                    f"sk_ratio is {self.sk_ratio} and depth {self.depth!r}, whose blocks have no selective kernels; "
                    "give a depth of 50 or more, or leave sk_ratio at 0"
                )

        def build(self) -> "ResNet":
            return ResNet(self)

        @property
        def channels(self) -> int:
            return self.in_channels

        @property
        def stride(self) -> int:
            stem = {"imagenet": 4, "small": 2, "cifar": 1, "cifar_padded": 1}[self.stem]
            stages = len(LAYOUTS[self.depth].counts)
            return (stem << stages - 2) * self.last_stride

        @property
        def label(self) -> str:
            return f"{self.depth}x{self.width:g}_{self.stem}{channels_label(self.in_channels)}"

        @property
        def title(self) -> str:
            selective = ", selective kernels" if self.sk_ratio else ""
            stride = ", last stage with stride 1" if self.last_stride == 1 else ""
            simclr = " of SimCLR" if self.variant == "simclr" else ""
            kind = f"a ResNet-{self.depth}{simclr} of width {self.width:g}, {self.stem} stem{selective}{stride}"
            return kind + channels_told(self.in_channels)

        def smaller(self) -> "ResNet.Config":
            """Half as wide."""
            return replace(self, width=self.width / 2)

    def __init__(self, config: Config) -> None:
        super().__init__()
        layout = LAYOUTS[config.depth]
        channels = round(layout.channels * config.width)
        self.conv1 = _stem(config, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = _max_pool(config)
        self.feature_dim = channels
        for number, count in enumerate(layout.counts):
            last = number == len(layout.counts) - 1
            first_stride = 1 if number == 0 else config.last_stride if last else 2
            self.add_module(f"layer{number + 1}", self._stage(config, channels * 2**number, count, first_stride))
        self._initialise(config)

    def _stage(self, config: Config, channels: int, count: int, stride: int) -> nn.Module:
        block = LAYOUTS[config.depth].block
        blocks: list[nn.Module] = []
        for number in range(count):
            first = number == 0
            own_stride = stride if first else 1
            shortcut = self._shortcut(config, channels * block.expansion, own_stride, first)
            if config.sk_ratio:
                blocks.append(SelectiveBottleneck(self.feature_dim, channels, own_stride, shortcut, config.sk_ratio))
            else:
                blocks.append(block(self.feature_dim, channels, own_stride, shortcut))
            self.feature_dim = channels * block.expansion
        return nn.Sequential(*blocks)

    def _shortcut(self, config: Config, out_channels: int, stride: int, first: bool) -> nn.Module:
        reshapes = stride > 1 or self.feature_dim != out_channels
        if not (reshapes or (first and config.variant == "simclr")):
            return nn.Identity()
        project = pooled_projection if config.sk_ratio else projection
        return project(self.feature_dim, out_channels, stride)

    def _initialise(self, config: Config) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and config.variant == "simclr":
                _truncated_normal(module.weight)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if config.zero_init_residual or config.variant == "simclr":
            for module in self.modules():
                if isinstance(module, (BasicBlock, Bottleneck, SelectiveBottleneck)):
                    nn.init.zeros_(module.last_norm.weight)

    def feature_map(self, x: Tensor) -> Tensor:
        """Output of the last stage, before pooling: (B, C, S, S) -> (B, feature_dim, s, s)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for (stage,) in self.stages:
            x = self.get_submodule(stage)(x)
        return x

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        return tuple((name,) for name, _ in self.named_children() if name.startswith("layer"))

    def forward(self, x: Tensor) -> Tensor:
        return self.feature_map(x).mean(dim=(2, 3))


def _stem(config: ResNet.Config, channels: int) -> nn.Module:
    if config.sk_ratio and config.stem == "imagenet":
        return deep_stem(config.in_channels, channels)
    kernel, stride, padding = {
        "imagenet": (7, 2, 3),
        "cifar": (3, 1, 1),
        "cifar_padded": (3, 1, 2),
        "small": (3, 2, 1),
    }[config.stem]
    return nn.Conv2d(config.in_channels, channels, kernel, stride, padding, bias=False)


def _max_pool(config: ResNet.Config) -> nn.Module:
    if config.stem != "imagenet":
        return nn.Identity()
    return SameMaxPool() if config.variant == "simclr" else nn.MaxPool2d(3, 2, padding=1)


def _truncated_normal(weight: Tensor) -> None:
    """Normal weights of variance 1 / fan-in, none further than 2 deviations out: the published code's start."""
    std = weight[0].numel() ** -0.5 / 0.8796256610342398  # the deviation that is left of 1 by cutting at 2
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
