"""What SimCLRv2 adds to residual networks: selective kernels, and the stem and shortcuts of ResNet-D."""

import torch.nn.functional as F
from torch import Tensor, nn


class SelectiveKernels(nn.Module):
    """Two 3x3 convolutions mixed channel by channel with weights that the image decides (Li et al. 2019, section 3.1).

    As in SimCLRv2 (Chen et al. 2020b, section 2) both streams have 3x3 kernels and are one convolution to twice the
    channels, stream 1 in the first half: (B, C, H, W) -> (B, channels, H / stride, W / stride), not negative.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, ratio: float) -> None:
        super().__init__()
        hidden = max(int(channels * ratio), 32)
        self.streams = nn.Conv2d(in_channels, 2 * channels, 3, stride, padding=1, bias=False)
        self.streams_bn = nn.BatchNorm2d(2 * channels)
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.reduce_bn = nn.BatchNorm2d(hidden)
        self.select = nn.Conv2d(hidden, 2 * channels, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        streams: Tensor = self.relu(self.streams_bn(self.streams(x)))
        first, second = streams.chunk(2, dim=1)  # (B, C', H, W) each
        pooled = streams.mean((2, 3), keepdim=True).unflatten(1, (2, -1)).sum(1)  # (B, C', 1, 1), of their sum
        scores: Tensor = self.select(self.relu(self.reduce_bn(self.reduce(pooled))))
        weights = (
            scores.unflatten(1, (2, -1)).softmax(1).to(streams.dtype)
        )  # (B, 2, C', 1, 1); autocast would widen streams with it
        selected: Tensor = first * weights[:, 0] + second * weights[:, 1]
        return selected


class SelectiveBottleneck(nn.Module):
    """The bottleneck block with selective kernels for its 3x3 convolution."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: nn.Module, ratio: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = SelectiveKernels(channels, channels, stride, ratio)  # with batch norm and ReLU of its own
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W) -> (B, 4 C', H / stride, W / stride)
        out = self.conv2(self.relu(self.bn1(self.conv1(x))))
        out = self.bn3(self.conv3(out))
        joined: Tensor = self.relu(out + self.downsample(x))
        return joined

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3


class AveragePool(nn.Module):
    """2x2 average of stride 1 or 2 as SimCLR's code pads it: (B, C, H, W) -> (B, C, ceil(H / s), ceil(W / s)).

    Windows start at every `stride`-th pixel and may jut out by one at the end. With stride 1 the mean is over what they
    cover (TensorFlow's SAME); with stride 2 what is missing counts as zeros.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            # Padded at both ends, for lack of an end alone; the windows that jut out at the start are dropped.
            return F.avg_pool2d(x, 2, 1, padding=1, count_include_pad=False)[:, :, 1:, 1:]
        rows, columns = x.shape[-2] % 2, x.shape[-1] % 2
        # Zeros instead of windows that jut out and a divisor: ONNX has no such divisor, and its export would drop it.
        return F.avg_pool2d(F.pad(x, (0, columns, 0, rows)) if rows or columns else x, 2, 2)


def pooled_projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Shortcut by an average and a 1x1 convolution, which sees every pixel (He et al. 2019, ResNet-D)."""
    return nn.Sequential(
        AveragePool(stride), nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
    )


def deep_stem(in_channels: int, channels: int) -> nn.Module:
    """Three 3x3 convolutions in place of the 7x7 one, stride 2 (ResNet-D, He et al. 2019): C -> `channels`."""
    narrow = channels // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, narrow, 3, 2, padding=1, bias=False),
        nn.BatchNorm2d(narrow),
        nn.ReLU(inplace=True),
        nn.Conv2d(narrow, narrow, 3, padding=1, bias=False),
        nn.BatchNorm2d(narrow),
        nn.ReLU(inplace=True),
        nn.Conv2d(narrow, channels, 3, padding=1, bias=False),
    )
