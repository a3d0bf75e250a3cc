"""SimCLR's networks by TensorFlow's names: numbered in the order in which the published code makes them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch
from torch import Tensor

from selfsup.convert.layout import Asked, HeadFound, HeadNames, Network, Piece, Refused, Tensors, holder_of
from selfsup.convert.projections import Layer, head_of, layers_of
from selfsup.models.blocks import BasicBlock
from selfsup.models.encoder import Encoder
from selfsup.models.heads import Head, HeadConfig
from selfsup.models.resnet import LAYOUTS, Depth, ResNet

_SK_RATIO = 0.0625  # of the published networks
_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
_DEPTHS: tuple[Depth, ...] = (18, 34, 50, 101, 152, 200)


def _numbered(name: str, number: int) -> str:
    return f"{name}_{number}" if number else name


def _creation(config: ResNet.Config) -> Iterator[tuple[str, str | None]]:
    """Convolutions of ours in the order in which SimCLR makes its own, each with the norm behind it.

    The shortcut of a block comes first; selective kernels are three convolutions, the last without a norm.
    """
    layout, selective = LAYOUTS[config.depth], bool(config.sk_ratio)
    if selective and config.stem == "imagenet":
        yield from (("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1"))
    else:
        yield "conv1", "bn1"
    for stage, count in enumerate(layout.counts, start=1):
        for number in range(count):
            block = f"layer{stage}.{number}"
            if number == 0:
                place = 1 if selective else 0
                yield f"{block}.downsample.{place}", f"{block}.downsample.{place + 1}"
            yield f"{block}.conv1", f"{block}.bn1"
            if selective:
                yield f"{block}.conv2.streams", f"{block}.conv2.streams_bn"
                yield f"{block}.conv2.reduce", f"{block}.conv2.reduce_bn"
                yield f"{block}.conv2.select", None
            else:
                yield f"{block}.conv2", f"{block}.bn2"
            if layout.block is not BasicBlock:
                yield f"{block}.conv3", f"{block}.bn3"


@cache
def _places(config: ResNet.Config) -> dict[str, str]:
    """What our modules are called."""
    places, norms = {}, 0
    for number, (convolution, norm) in enumerate(_creation(config)):
        places[convolution] = _numbered("conv2d", number)
        if norm is not None:
            places[norm] = _numbered("batch_normalization", norms)
            norms += 1
    return places


def _last_first(kernel: Tensor) -> Tensor:
    return kernel.permute(3, 2, 0, 1).contiguous()  # (H, W, in, out) -> (out, in, H, W)


@dataclass(frozen=True, kw_only=True)
class SimCLRNames(Network):
    """Of google-research/simclr for TensorFlow 1: base_model/conv2d_7/kernel, base_model/batch_normalization_7/beta."""

    def anchors(self) -> tuple[str, ...]:
        return ("conv2d/kernel", "batch_normalization/gamma", "conv2d_5/kernel")

    def config(self, tensors: Tensors, asked: Asked) -> ResNet.Config:
        numbers = [int(match[1] or 0) for name in tensors if (match := re.fullmatch(r"conv2d(?:_(\d+))?/kernel", name))]
        count = max(numbers, default=-1) + 1
        first = _shape(tensors, "conv2d/kernel")
        if len(first) != 4:
            raise Refused(f"{asked.prefix}conv2d/kernel is missing; wanted the first convolution, of (7, 7, 3, 64)")
        large = first[0] == 7
        for depth in _DEPTHS:
            # With selective kernels a stem for large images is three convolutions, the first of half the channels.
            for selective, imagenet in ((False, large), (True, True), (True, False)):
                if selective and LAYOUTS[depth].block is BasicBlock:
                    continue
                config = ResNet.Config(
                    depth=depth,
                    width=first[3] / (32 if selective and imagenet else 64),
                    stem="imagenet" if imagenet else "cifar",
                    variant="simclr",
                    sk_ratio=_SK_RATIO if selective else 0.0,
                )
                if sum(1 for _ in _creation(config)) == count:
                    return config
        raise Refused(f"there are {count} convolutions, and no ResNet of SimCLR has as many")

    def piece(self, name: str, config: Encoder.Config) -> Piece:
        module, _, tensor = name.rpartition(".")
        place = _places(cast(ResNet.Config, config))[module]
        if place.startswith("conv2d"):
            return Piece(
                (f"{place}/kernel",),
                lambda found: _last_first(found[0]),
                lambda t: [t.permute(2, 3, 1, 0).contiguous()],
            )
        if tensor not in _NORM:  # num_batches_tracked, which TensorFlow does not count
            return Piece((), lambda found: torch.tensor(0), lambda t: [])
        return Piece((f"{place}/{_NORM[tensor]}",))


def _shape(tensors: Tensors, name: str) -> tuple[int, ...]:
    return tuple(tensors[name].shape) if name in tensors else ()


@dataclass(frozen=True, kw_only=True)
class SimCLRHead(HeadNames):
    """head_contrastive/nl_0/dense/kernel and its batch norm; the last norm has no beta."""

    prefix: str = "head_contrastive/"

    def find(self, tensors: Tensors, encoder: str, feature_dim: int) -> HeadFound | None:
        prefix = holder_of(encoder) + self.prefix
        names = {name for name in tensors if name.startswith(prefix) and not name.endswith("/Momentum")}
        layers: list[Layer] = []
        used = set()
        while True:
            place = f"{prefix}nl_{len(layers)}/"
            kernel = next((n for n in names if re.fullmatch(rf"{re.escape(place)}dense(_\d+)?/kernel", n)), None)
            if kernel is None:
                break
            linear = {"weight": tensors[kernel].T.contiguous()}
            used.add(kernel)
            if (bias := kernel.replace("/kernel", "/bias")) in names:
                linear["bias"] = tensors[bias]
                used.add(bias)
            norm = {}
            for ours, theirs in _NORM.items():
                found = [n for n in names if re.fullmatch(rf"{re.escape(place)}batch_normalization(_\d+)?/{theirs}", n)]
                if found:
                    norm[ours] = tensors[found[0]]
                used |= set(found)
            layers.append(Layer(linear, norm or None))
        if not layers:
            return None
        config, taken, why = head_of(layers, feature_dim)
        return HeadFound(config, taken, names if config is None else used, why)

    def write(
        self, config: HeadConfig, tensors: Tensors, encoder: str, network: Encoder.Config
    ) -> dict[str, Tensor] | None:
        if not isinstance(config, Head.Config):
            return None
        written: dict[str, Tensor] = {}
        layers = layers_of(config, tensors)
        for number, (linear, norm) in enumerate(layers):
            place = f"{holder_of(encoder)}{self.prefix}nl_{number}/"
            written[f"{place}dense/kernel"] = linear["weight"].T.contiguous()
            if "bias" in linear:
                written[f"{place}dense/bias"] = linear["bias"]
            for ours, theirs in _NORM.items():
                last_shift = ours == "bias" and number == len(layers) - 1
                if norm is not None and not (last_shift and torch.count_nonzero(norm[ours]) == 0):
                    written[f"{place}batch_normalization/{theirs}"] = norm[ours]
        return written
