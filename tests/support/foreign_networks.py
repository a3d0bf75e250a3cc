"""Small networks as other projects build them: plain modules whose names and forward passes are those of their code."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TwoNorms(nn.Module):
    """Batch norm for two domains as SpCL has it; judged by the target's."""

    BN_S: nn.Module
    BN_T: nn.Module

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.BN_S, self.BN_T = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.BN_T(x)
        return out


class ListedNorms(nn.Module):
    """Batch norm for two domains as OpenUnReID has it; judged by the second's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dsbn = nn.ModuleList([nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)])

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dsbn[1](x)
        return out


class Block(nn.Module):
    def __init__(
        self, into: int, width: int, stride: int, deep: bool, shortcut: str, project: bool, norm: type
    ) -> None:
        super().__init__()
        out = 4 * width if deep else width
        sizes = (
            [(into, width, 1, 1), (width, width, 3, stride), (width, out, 1, 1)]
            if deep
            else [(into, width, 3, stride), (width, out, 3, 1)]
        )
        self.count, self.beside = len(sizes), shortcut
        for number, (a, b, kernel, step) in enumerate(sizes, start=1):
            self.add_module(f"conv{number}", nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False))
            self.add_module(f"bn{number}", norm(b))
        if project or stride > 1 or into != out:
            self.add_module(shortcut, nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), norm(out)))

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for number in range(1, self.count + 1):
            out = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(out))
            out = out.relu() if number < self.count else out
        return (out + (self.get_submodule(self.beside)(x) if hasattr(self, self.beside) else x)).relu()


class PlainResNet(nn.Module):
    """A ResNet-18 or 50 with a sixteenth of the channels: conv1, bn1, layer1 to layer4."""

    fc: nn.Module  # where a project has something behind the features

    def __init__(
        self,
        depth: int = 18,
        stem: str = "imagenet",
        shortcut: str = "downsample",
        last_stride: int = 2,
        padding: int = 1,
        norm: type = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.big = stem == "imagenet"
        kernel, stride, pad = (7, 2, 3) if self.big else (3, 1, padding)
        self.conv1 = nn.Conv2d(3, 4, kernel, stride, pad, bias=False)
        self.bn1 = norm(4)
        deep = depth >= 50
        width, counts = 4, {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]
        for stage, count in enumerate(counts):
            step = (1, 2, 2, last_stride)[stage]
            channels = 4 * 2**stage
            blocks = []
            for number in range(count):
                blocks.append(Block(width, channels, step if number == 0 else 1, deep, shortcut, False, norm))
                width = 4 * channels if deep else channels
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.out_channels = width

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = F.max_pool2d(x, 3, 2, 1) if self.big else x
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return x.mean((2, 3))

    def children_of(self, *between: nn.Module) -> nn.Sequential:
        """The parts in a `nn.Sequential`, with modules without tensors between norm and stages."""
        stages = [self.get_submodule(f"layer{stage}") for stage in range(1, 5)]
        return nn.Sequential(self.get_submodule("conv1"), self.get_submodule("bn1"), *between, *stages)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, 2))
        weights = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(3)
        out: Tensor = self.proj((weights @ value).transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class TransformerBlock(nn.Module):
    def __init__(self, width: int, heads: int, scaled: bool) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), Mlp(width)
        self.scaled = scaled
        if scaled:
            self.ls1, self.ls2 = Scale(width), Scale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + (self.ls1 if self.scaled else nn.Identity())(self.attn(self.norm1(x)))
        out: Tensor = x + (self.ls2 if self.scaled else nn.Identity())(self.mlp(self.norm2(x)))
        return out


class Patches(nn.Module):
    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)


class PlainViT(nn.Module):
    """Two blocks of 24 dimensions and 3 heads over patches of 8 in 32 pixels; the class token behind the last norm."""

    head: nn.Module  # where a project has something behind the features

    def __init__(self, scaled: bool = False, registers: int = 0, width: int = 24, heads: int = 3) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 17, width))
        if registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, registers, width))
        if scaled:
            self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.registers = registers
        self.patch_embed = Patches(width, 8)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, scaled) for _ in range(2)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), patches], 1) + self.pos_embed
        if self.registers:
            tokens = torch.cat([tokens[:, :1], self.register_tokens.expand(len(x), -1, -1), tokens[:, 1:]], 1)
        out: Tensor = self.norm(self.blocks(tokens))[:, 0]
        return out


class SimCLRNet(nn.Module):
    """SimCLR's ResNet-18 or 50, or 50 with selective kernels, made in the order of the published code.

    `made` lists what was made: kernels (H, W, in, out), and batch norms, in the order in which TensorFlow numbers them.
    """

    def __init__(self, depth: int, selective: bool, channels: int = 4) -> None:
        super().__init__()
        self.selective, self.deep = selective, depth >= 50
        self.convolutions, self.norms = nn.ModuleList(), nn.ModuleList()
        if selective:
            half = channels // 2
            self.stem = [self._conv(3, half, 3, 2), self._conv(half, half, 3, 1), self._conv(half, channels, 3, 1)]
        else:
            self.stem = [self._conv(3, channels, 7, 2)]
        self.blocks, width = [], channels
        for stage, count in enumerate({18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}[depth]):
            for number in range(count):
                stride = 2 if stage and number == 0 else 1
                self.blocks.append(self._block(width, channels * 2**stage, stride, number == 0))
                width = channels * 2**stage * (4 if self.deep else 1)
        self.out_channels = width

    def _conv(self, into: int, out: int, kernel: int, stride: int, norm: bool = True) -> tuple[int, int]:
        self.convolutions.append(nn.Conv2d(into, out, kernel, stride, kernel // 2, bias=False))
        if norm:
            self.norms.append(nn.BatchNorm2d(out))
        return len(self.convolutions) - 1, len(self.norms) - 1

    def _block(self, into: int, width: int, stride: int, first: bool) -> dict[str, Any]:
        out = 4 * width if self.deep else width
        block: dict[str, Any] = {"stride": stride}
        if first:  # with selective kernels the pool before it has the stride
            block["shortcut"] = self._conv(into, out, 1, 1 if self.selective else stride)
        if not self.deep:
            block["main"] = [self._conv(into, width, 3, stride), self._conv(width, out, 3, 1)]
            return block
        main = [self._conv(into, width, 1, 1)]
        if self.selective:
            main.append(self._conv(width, 2 * width, 3, stride))
            block["mix"] = [self._conv(width, 32, 1, 1), self._conv(32, 2 * width, 1, 1, norm=False)]
        else:
            main.append(self._conv(width, width, 3, stride))
        block["main"] = [*main, self._conv(width, out, 1, 1)]
        return block

    def _apply_pair(self, place: tuple[int, int], x: Tensor) -> Tensor:
        out: Tensor = self.norms[place[1]](self.convolutions[place[0]](x))
        return out

    def forward(self, x: Tensor) -> Tensor:
        for place in self.stem:
            x = self._apply_pair(place, x).relu()
        x = (
            F.max_pool2d(F.pad(x, (0, x.shape[3] % 2 == 0, 0, x.shape[2] % 2 == 0), value=-torch.inf), 3, 2)
            if (x.shape[2] % 2 == 0)
            else F.max_pool2d(x, 3, 2, 1)
        )
        for block in self.blocks:
            beside = x
            if "shortcut" in block:
                pooled = x
                if self.selective and block["stride"] == 2:
                    pooled = F.avg_pool2d(x, 2, 2)
                elif self.selective:  # SAME: what lies outside does not count
                    wide = F.pad(x, (0, 1, 0, 1))
                    ones = F.pad(torch.ones_like(x), (0, 1, 0, 1))
                    pooled = F.avg_pool2d(wide, 2, 1) / F.avg_pool2d(ones, 2, 1)
                beside = self._apply_pair(block["shortcut"], pooled)
            out = x
            for number, place in enumerate(block["main"]):
                out = self._apply_pair(place, out)
                if number < len(block["main"]) - 1:
                    out = out.relu()
                if number == 1 and "mix" in block:
                    out = self._mixed(out, block["mix"])
            x = (out + beside).relu()
        return x.mean((2, 3))

    def _mixed(self, streams: Tensor, mix: list[tuple[int, int]]) -> Tensor:
        first, second = streams.chunk(2, 1)
        hidden = self._apply_pair(mix[0], (first + second).mean((2, 3), keepdim=True)).relu()
        weights = torch.stack(self.convolutions[mix[1][0]](hidden).chunk(2, 1)).softmax(0)
        return weights[0] * first + weights[1] * second

    def by_tensorflows_names(self) -> dict[str, Tensor]:
        """base_model/conv2d_3/kernel and the like."""
        named = {}
        for number, convolution in enumerate(self.convolutions):
            place = f"conv2d_{number}" if number else "conv2d"
            named[f"base_model/{place}/kernel"] = (
                convolution.get_parameter("weight").detach().permute(2, 3, 1, 0).contiguous()
            )
        for number, norm in enumerate(self.norms):
            place = f"base_model/batch_normalization_{number}" if number else "base_model/batch_normalization"
            parts = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
            tensors = norm.state_dict()
            named |= {f"{place}/{theirs}": tensors[name] for theirs, name in parts.items()}
        return named


def with_epsilon(net: nn.Module, epsilon: float) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = epsilon
    return net


def randomised(module: Any, seed: int = 0) -> Any:  # of any project; its parts have no types
    """Every tensor drawn anew, norms and their statistics too, so that no two may be mistaken; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            tensor.fill_(7)
        elif name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.ndim < 2:
            ones = 1.0 if name.endswith(("weight", "gamma")) else 0.0
            tensor.copy_(ones + 0.2 * torch.randn(tensor.shape, generator=generator))
        else:
            fan = tensor[0].numel()
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (2 / fan) ** 0.5)
    return module.eval()
