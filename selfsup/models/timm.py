"""Backbones of timm (`pip install timm`) by their names: vision transformers, ConvNeXt and hundreds more."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from selfsup.config.checks import require
from selfsup.config.settings import execution
from selfsup.config.stored_names import nearest
from selfsup.models.channels import channels_label, channels_told, require_channels
from selfsup.models.encoder import Encoder
from selfsup.models.positions import sine_cosine_positions
from selfsup.models.timm_weights import HUB, fill, read_weights
from selfsup.packages import optional
from selfsup.storage.untrusted import plain_name


class Timm(Encoder):
    """A network of timm without its classifier: (B, C, H, W) -> (B, feature_dim), pooled as timm pools it.

    The tensors are timm's, with "network." before their names. Parts are timm's layers: the blocks of a transformer,
    the stages of a convolutional network, and what follows them.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(Encoder.Config):
        stored_as: ClassVar[str] = "timm"
        name: str = "vit_small_patch16_224"
        # Weights that training starts from: hub, those that timm downloads; or a file of timm's, .safetensors or .pth.
        pretrained: str = execution("", path=True)
        image_size: int | None = None  # pixels of a side, of networks that are built for one size; None: timm's
        # A vision transformer takes images of other sizes, too: its positions are resampled to theirs (bicubic).
        any_size: bool = False
        drop_path: float = 0.0  # the share of residual branches that are left out in training, in the last block
        dropout: float = 0.0  # the share of features that are left out in training, where timm has a layer for it
        patch_size: int | None = None  # of a vision transformer, in pixels; None: as its name says
        embed_dim: int | None = None  # of a vision transformer, the features of a token; None: as its name says
        depth: int | None = None  # of a vision transformer, its blocks; None: as its name says
        num_heads: int | None = None  # of a vision transformer, in each block; None: as its name says
        # moco_v3: a vision transformer as Chen et al. 2021 build it: positions are sines and cosines that do not learn,
        # first weights are uniform (Glorot and Bengio 2010), and in pretraining the projection of patches stays as it
        # was drawn. ViT-S there: num_heads=12.
        variant: Literal["timm", "moco_v3"] = "timm"
        norm_eps: float | None = None  # what every layer norm adds to the variance; None: as timm has it
        in_channels: int = 3  # of the images: those that data.channels keeps

        def __post_init__(self) -> None:
            for name in ("drop_path", "dropout"):
                require(
                    0 <= getattr(self, name) < 1, f"{name} is {getattr(self, name)}; it must be at least 0 and below 1"
                )
            for name in ("image_size", *_OF_TRANSFORMERS):
                require(
                    getattr(self, name) is None or getattr(self, name) >= 1,
                    f"{name} is {getattr(self, name)}; give at least 1, or None for timm's own",
                )
            require(
                self.norm_eps is None or self.norm_eps > 0,
                f"norm_eps is {self.norm_eps}; give a number above 0, or None for timm's own",
            )
            require_channels(self.in_channels)

        def build(self) -> "Timm":
            return Timm(self)

        def for_size(self, size: tuple[int, int]) -> "Timm.Config":
            height, width = size
            return replace(self, image_size=height) if height == width and _fixed(self.name) else self

        def freeze(self, encoder: Encoder) -> None:
            if self.variant == "moco_v3":
                encoder.network.patch_embed.requires_grad_(False)  # type: ignore[union-attr]  # a network of timm

        def load_pretrained(self, encoder: Encoder) -> None:
            if not self.pretrained:
                return
            if self.pretrained == HUB:
                tensors = _created(replace(self, in_channels=3), pretrained=True).state_dict()
            else:
                tensors = read_weights(Path(self.pretrained))
            where = f"timm's hub for {self.name}" if self.pretrained == HUB else self.pretrained
            fill(encoder.network, tensors, where, self.name)  # type: ignore[arg-type]

        @property
        def channels(self) -> int:
            return self.in_channels

        @property
        def weights(self) -> str:
            return self.pretrained

        @property
        def label(self) -> str:
            return self.name.replace(".", "_") + channels_label(self.in_channels)

        @property
        def title(self) -> str:
            sizes = {n: getattr(self, n) for n in ("image_size", "patch_size", "embed_dim", "depth", "num_heads")}
            told = ", ".join(f"{name} {value}" for name, value in sizes.items() if value is not None)
            return f"timm's {self.name}" + (f" ({told})" if told else "") + channels_told(self.in_channels)

    network: Any  # of timm, which has no types
    fixed_size: tuple[int, int] | None  # the height and width that it is built for; None: others do, too
    _patch: tuple[int, int] | None  # height and width of a patch, where only whole ones are taken

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.network = _created(config)
        if (epsilon := config.norm_eps) is not None:
            for module in self.network.modules():
                if isinstance(module, nn.LayerNorm):
                    module.eps = epsilon
        self.feature_dim = int(getattr(self.network, "head_hidden_size", None) or self.network.num_features)
        described = self.network.pretrained_cfg
        side = config.image_size
        self.fixed_size = self._patch = None
        if config.any_size:
            self._patch = self.network.patch_embed.patch_size
        elif described.get("fixed_input_size"):
            self.fixed_size = (side, side) if side else tuple(described["input_size"][1:])
        if config.pretrained and config.in_channels == 3 and (mean := described.get("mean")):
            self.normalisation = tuple(mean), tuple(described["std"])
        self._stages = tuple(_parts(self.network))

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.network(x)
        return features

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        return self._stages

    def unfit(self, size: tuple[int, int]) -> str:
        if self.fixed_size and size != self.fixed_size:
            height, width = self.fixed_size
            return f"the encoder is built for images of {height} x {width} pixels"
        if self._patch and any(side % patch for side, patch in zip(size, self._patch, strict=True)):
            return f"the encoder's patches are of {self._patch[0]} pixels, and the sides of images are multiples of it"
        if min(size) < (stride := _stride(self.network)):
            return f"the encoder makes images {stride} times smaller, more than the {min(size)} pixels of their side"
        return ""

    def require_size(self, size: tuple[int, int]) -> None:
        if reason := self.unfit(size):
            stride = _stride(self.network)
            remedy = f"give views of another size, such as --size {-(-min(size) // stride) * stride}"
            if self.fixed_size:
                remedy = f"give --encoder.image-size {size[0]}, or views of its size, or --encoder.any-size"
            raise ValueError(f"{reason}, and views are {size[0]} x {size[1]}; {remedy}")


_OF_TRANSFORMERS = ("patch_size", "embed_dim", "depth", "num_heads")


def create_options(config: Timm.Config) -> dict[str, int]:
    """What `timm.create_model` is told, beside the name, for a network of these shapes."""
    options = {name: getattr(config, name) for name in _OF_TRANSFORMERS if getattr(config, name) is not None}
    if config.image_size is not None and _fixed(config.name):
        options["img_size"] = config.image_size
    if config.any_size:
        options["dynamic_img_size"] = True
    if config.in_channels != 3:
        options["in_chans"] = config.in_channels
    return options


def _created(config: Timm.Config, pretrained: bool = False) -> Any:
    """The network of timm. Raises ValueError where there is none of this name, or it does not know an option."""
    timm = optional("timm", "an encoder of timm")
    if not timm.is_model(config.name):
        known = timm.list_models()
        raise ValueError(
            f"timm has no network {plain_name(config.name, 80)}{nearest(config.name, known)}; "
            f"it has {len(known)}, listed by timm.list_models()"
        )
    options: dict[str, Any] = dict(create_options(config))
    if config.drop_path:
        options["drop_path_rate"] = config.drop_path
    if config.dropout:
        options["drop_rate"] = config.dropout
    if config.variant == "moco_v3":
        options["weight_init"] = "moco"
    try:
        network = timm.create_model(config.name, pretrained=pretrained, num_classes=0, **options)
    except (TypeError, AssertionError) as error:
        if "dynamic_img_size" in str(error):
            raise ValueError(f"{config.name} is no vision transformer of timm; leave any_size out") from error
        if "weight_init" in str(error):
            raise ValueError(_no_transformer(config.name)) from error
        raise ValueError(f"timm cannot build {config.name} with {options}: {plain_name(error, 200)}") from error
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise ValueError(
            f"timm has no weights of {config.name} that can be loaded: {plain_name(error, 200)}\n"
            "give --encoder.pretrained the path of a file, or leave it out"
        ) from error

    if config.variant == "moco_v3":
        _as_in_moco_v3(network, config.name)
    return network


def _as_in_moco_v3(network: Any, name: str) -> None:
    positions, patches = getattr(network, "pos_embed", None), getattr(network, "patch_embed", None)
    projection = getattr(patches, "proj", None)
    if patches is None or positions is None or not isinstance(projection, nn.Conv2d):
        raise ValueError(_no_transformer(name))
    with torch.no_grad():
        # As a matrix from the values of one colour of a patch: what the published code takes for its inputs.
        bound = math.sqrt(6 / (projection.in_channels * math.prod(projection.kernel_size) + projection.out_channels))
        projection.weight.uniform_(-bound, bound)
        if projection.bias is not None:
            projection.bias.zero_()
        grid = sine_cosine_positions(patches.grid_size, positions.shape[-1])
        extra = positions.shape[1] - len(grid)  # tokens before the patches, which have no position
        positions.copy_(torch.cat([torch.zeros(extra, grid.shape[1]), grid]))
    positions.requires_grad_(False)


def _no_transformer(name: str) -> str:
    return (
        f"{name} has no positions of patches to fix, which the variant moco_v3 does; take a vision transformer, such "
        'as vit_small_patch16_224, or variant="timm"'
    )


def _fixed(name: str) -> bool:
    """Whether a network of timm is built for one size."""
    timm = optional("timm", "an encoder of timm")
    described = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return bool(described and described.fixed_input_size)


def _stride(network: Any) -> int:
    """By how much the last feature map is smaller than the image, each way; 1 where timm does not say."""
    described = getattr(network, "feature_info", None)
    return int(described[-1].get("reduction", 1)) if isinstance(described, list) and described else 1


def _parts(network: Any) -> list[tuple[str, ...]]:
    """The layers that timm groups parameters by, but the lowest, each by the largest modules inside it."""
    from timm.models import group_parameters

    layer_of: dict[str, int] = group_parameters(network, network.group_matcher(coarse=True), reverse=True)
    lowest = min(layer_of.values())
    parts = []
    for layer in sorted(set(layer_of.values()) - {lowest}):
        held = {name for name, of in layer_of.items() if of == layer}
        parts.append(tuple(f"network.{name}" for name in _cover(network, "", held)))
    return parts


def _cover(module: nn.Module, prefix: str, held: set[str]) -> list[str]:
    """Names of the largest modules all of whose parameters are held, and of single parameters beside them."""
    names = [f"{prefix}{name}" for name, _ in module.named_parameters(recurse=False) if f"{prefix}{name}" in held]
    for name, child in module.named_children():
        inside = {f"{prefix}{name}.{inner}" for inner, _ in child.named_parameters()}
        if inside and inside <= held:
            names.append(f"{prefix}{name}")
        elif inside & held:
            names += _cover(child, f"{prefix}{name}.", held)
    return names
