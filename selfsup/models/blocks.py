"""Residual blocks with torchvision's names, and the max-pool that SimCLR has instead of torchvision's."""

import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, figure 5 left)."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, C', H / stride, W / stride)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        joined: Tensor = self.relu(out + self.downsample(x))
        return joined

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions, the stride in the 3x3 one ("v1.5", as torchvision and SimCLR have it)."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, 4 C', H / stride, W / stride)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        joined: Tensor = self.relu(out + self.downsample(x))
        return joined

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3


class Strided1x1(nn.Conv2d):
    """A 1x1 convolution with a stride, of few channels: the pixels it sees are picked before it is applied.

    For narrow nets on CPUs: torch 2.14 writes beyond its memory when it differentiates such a convolution of fewer than
    7 channels whose tensors are channels-last (oneDNN with AVX2). The weights and the result are those of nn.Conv2d.
    """

    def forward(self, input: Tensor) -> Tensor:
        vertical, horizontal = self.stride
        return F.conv2d(input[:, :, ::vertical, ::horizontal], self.weight, self.bias)


_FEW = 8  # channels


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Shortcut by a strided 1x1 convolution (He et al. 2016, option B)."""
    convolution = Strided1x1 if in_channels < _FEW and stride > 1 else nn.Conv2d
    return nn.Sequential(convolution(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class SameMaxPool(nn.Module):
    """3x3 max-pool of stride 2 with TensorFlow's SAME padding: (B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2)).

    SAME pads as little as the windows need, the smaller half first: an odd side is padded at both ends, as torchvision
    pads, but an even side at its end alone, so that the windows lie elsewhere.
    """

    def forward(self, x: Tensor) -> Tensor:
        # A window that juts out at the end (ceil_mode) takes the maximum of what it covers.
        return F.max_pool2d(x, 3, 2, padding=(x.shape[-2] % 2, x.shape[-1] % 2), ceil_mode=True)
