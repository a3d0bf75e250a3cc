"""What a network's settings alone say of it: names and shapes of its tensors, and how a person would call it."""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import torch

from selfsup.convert.layout import Refused
from selfsup.models.encoder import Encoder
from selfsup.models.resnet import ResNet
from selfsup.models.timm import Timm
from selfsup.storage.untrusted import plain_name


def described(config: Encoder.Config) -> str:
    """An encoder's settings as a person would say them."""
    if isinstance(config, ResNet.Config):
        selective = ", selective kernels" if config.sk_ratio else ""
        stride = ", last stage with stride 1" if config.last_stride == 1 else ""
        simclr = " of SimCLR" if config.variant == "simclr" else ""
        kind = f"a ResNet-{config.depth}{simclr} of width {config.width:g}, {config.stem} stem{selective}{stride}"
        return kind + _of_channels(config)
    if isinstance(config, Timm.Config):
        sizes = {n: getattr(config, n) for n in ("image_size", "patch_size", "embed_dim", "depth", "num_heads")}
        told = ", ".join(f"{name} {value}" for name, value in sizes.items() if value is not None)
        return f"timm's {config.name}" + (f" ({told})" if told else "") + _of_channels(config)
    return config.label


def _of_channels(config: Encoder.Config) -> str:
    return "" if config.channels == 3 else f", for images of {config.channels} channel{'s'[: config.channels > 1]}"


class Outline(NamedTuple):
    """What is known of a network without its weights."""

    shapes: Mapping[str, tuple[int, ...]]  # of its tensors, by name
    feature_dim: int


@lru_cache(maxsize=16)
def outline(config: Encoder.Config) -> Outline:
    """Names and shapes of an encoder's tensors; nothing is allocated.

    Raises:
        Refused: there is no such network.
    """
    try:
        with torch.device("meta"):
            encoder = config.build()
    except (RuntimeError, OverflowError, MemoryError, TypeError) as error:
        raise Refused(f"{described(config)} cannot be built: {plain_name(error, 200)}") from error
    return Outline({name: tuple(t.shape) for name, t in encoder.state_dict().items()}, int(encoder.feature_dim))
