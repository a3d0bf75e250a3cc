import math

import pytest
import torch
from torch import nn

from selfsup.models.blocks import SameMaxPool
from selfsup.models.resnet import ResNet
from selfsup.models.selective import AveragePool, SelectiveKernels

SIDES = [(1, 2), (2, 3), (7, 8), (8, 7), (5, 5), (6, 6)]


def windows(n, kernel, stride):
    """Positions that each window of TensorFlow's SAME covers, by its own formula."""
    count = math.ceil(n / stride)
    before = max((count - 1) * stride + kernel - n, 0) // 2
    starts = [i * stride - before for i in range(count)]
    return [[p for p in range(start, start + kernel) if 0 <= p < n] for start in starts]


def pooled(x, kernel, stride, combine):
    rows, columns = (windows(n, kernel, stride) for n in x.shape[2:])
    cells = [[combine(x[:, :, r][:, :, :, c]) for c in columns] for r in rows]
    return torch.stack([torch.stack(row, -1) for row in cells], -2)


@pytest.mark.parametrize("sides", SIDES)
def test_max_pool_is_padded_as_tensorflow_does(sides):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *sides) - 5  # a zero pad would win
    assert torch.equal(SameMaxPool()(x), pooled(x, 3, 2, lambda cells: cells.amax((2, 3))))


@pytest.mark.parametrize("sides", SIDES)
def test_average_pool_is_padded_as_simclr_does(sides):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *sides, dtype=torch.float64)
    torch.testing.assert_close(AveragePool(1)(x), pooled(x, 2, 1, lambda cells: cells.mean((2, 3))))
    # Stride 2: zeros behind, then whole windows; they count where a side is odd.
    padded = nn.functional.pad(x, (0, 1, 0, 1))
    h, w = (n // 2 * 2 for n in padded.shape[2:])
    blocks = padded[:, :, :h, :w].unfold(2, 2, 2).unfold(3, 2, 2)
    torch.testing.assert_close(AveragePool(2)(x), blocks.mean((-1, -2)))


def normed(values):  # (B, C, ...) of fresh batch norm in training
    variance, mean = torch.var_mean(values, [0, *range(2, values.ndim)], correction=0, keepdim=True)
    return (values - mean) / (variance + 1e-5).sqrt()


@pytest.mark.parametrize(("channels", "hidden"), [(4, 32), (600, 37)])
def test_selective_kernels_mix_two_streams(channels, hidden):
    torch.manual_seed(0)
    layer = SelectiveKernels(3, channels, 2, ratio=0.0625).double()
    assert layer.reduce.out_channels == hidden  # at least 32
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    both = normed(nn.functional.conv2d(x, layer.streams.weight, stride=2, padding=1)).relu()
    streams = both[:, :channels], both[:, channels:]
    pooled = (streams[0] + streams[1]).mean((2, 3))
    inner = normed(pooled @ layer.reduce.weight[:, :, 0, 0].T).relu()
    scores = inner @ layer.select.weight[:, :, 0, 0].T
    expected = torch.zeros_like(streams[0])
    for channel in range(channels):
        pair = torch.stack([scores[:, channel], scores[:, channels + channel]]).exp()
        for stream, weight in zip(streams, pair / pair.sum(0), strict=True):
            expected[:, channel] += weight[:, None, None] * stream[:, channel]
    torch.testing.assert_close(layer(x), expected)


def test_every_pixel_reaches_the_shortcuts():
    """What ResNet-D is for: a strided 1x1 convolution would look at a quarter of the pixels."""
    x = torch.ones(1, 1, 8, 8, requires_grad=True)
    AveragePool(2)(x).sum().backward()
    assert x.grad.eq(0.25).all()


@pytest.mark.parametrize(
    ("stem", "side", "stem_shapes", "out_side"),
    [
        ("imagenet", 33, [(4, 3, 3, 3), (4, 4, 3, 3), (8, 4, 3, 3)], 3),
        ("cifar", 16, [(8, 3, 3, 3)], 4),
        ("small", 16, [(8, 3, 3, 3)], 2),
    ],
)
def test_stems_with_selective_kernels(stem, side, stem_shapes, out_side):
    config = ResNet.Config(depth=50, width=0.125, stem=stem, variant="simclr", sk_ratio=0.0625, last_stride=1)
    net = config.build().eval()
    assert [tuple(p.shape) for p in net.conv1.parameters() if p.ndim == 4] == stem_shapes
    with torch.no_grad():
        assert net.feature_map(torch.randn(2, 3, side, side)).shape == (2, 256, out_side, out_side)


def test_channels_last_from_block_to_block():
    torch.manual_seed(0)
    net = ResNet.Config(depth=50, width=0.125, variant="simclr", sk_ratio=0.0625).build().eval()
    images = torch.randn(2, 3, 36, 36)
    expected = net(images)
    net = net.to(memory_format=torch.channels_last)
    seen = []
    for (stage,) in net.stages:
        for block in net.get_submodule(stage):
            block.register_forward_hook(lambda block, inputs, output: seen.append(output))
    torch.testing.assert_close(net(images.contiguous(memory_format=torch.channels_last)), expected)
    assert len(seen) == 16
    assert all(output.is_contiguous(memory_format=torch.channels_last) for output in seen)


@pytest.mark.gpu
def test_autocast_keeps_the_narrow_type():
    """CUDA's autocast computes the softmax in float32; the streams must not be widened by it."""
    layer = SelectiveKernels(3, 4, 1, ratio=0.0625).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        assert layer(torch.randn(2, 3, 4, 4, device="cuda")).dtype == torch.bfloat16
