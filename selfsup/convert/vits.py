"""Vision transformers by the names of other projects, built by timm."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.convert.layout import Asked, Network, Piece, Refused, Tensors
from selfsup.convert.resnets import count
from selfsup.models.encoder import Encoder
from selfsup.models.timm import Timm

# Width -> heads, of the networks of the papers.
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1536: 24}
_SIZES = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large", (1280, 32): "huge"}
_EPSILON = 1e-6  # timm's, and that of the networks published by their own code
_BLOCK = re.compile(r"blocks\.(\d+)\.(.*)\.(\w+)")


@dataclass(frozen=True, kw_only=True)
class ViTNames(Network):
    """timm's names, with parts of them called otherwise."""

    top: Mapping[str, str] = field(default_factory=dict)  # cls_token, pos_embed, patch_embed.proj, norm, reg_token
    block: str = "blocks.{}"  # of a block, by its number
    inside: Mapping[str, str] = field(
        default_factory=dict
    )  # norm1, attn.qkv, attn.proj, norm2, mlp.fc1, ... of a block
    qkv: tuple[str, ...] = ()  # query, key and value of a block, where these are three; else they are one, in `inside`
    gamma: str = "gamma"  # the tensor of a layer scale
    epsilon: float = _EPSILON  # of the layer norms, where no config.json says it
    positions_of_class: bool = True  # whether the positions' first row is the class token's, with registers too

    def anchors(self) -> tuple[str, ...]:
        return tuple(self._called(name) for name in ("patch_embed.proj.weight", "cls_token", "blocks.0.mlp.fc1.weight"))

    def _called(self, name: str) -> str:
        if match := _BLOCK.fullmatch(name):
            number, part, tensor = match.groups()
            tensor = self.gamma if tensor == "gamma" else tensor
            return f"{self.block.format(number)}.{self.inside.get(part, part)}.{tensor}"
        if name in self.top:
            return self.top[name]
        part, _, tensor = name.rpartition(".")
        return f"{self.top.get(part, part)}.{tensor}" if part else name

    def config(self, tensors: Tensors, asked: Asked) -> Timm.Config:
        def shape(name: str) -> tuple[int, ...]:
            found = tensors.get(self._called(name))
            return () if found is None else tuple(found.shape)

        patches, positions = shape("patch_embed.proj.weight"), shape("pos_embed")
        if len(patches) != 4 or patches[1] != 3 or patches[2] != patches[3]:
            raise Refused(
                f"{asked.prefix}{self._called('patch_embed.proj.weight')} "
                + (f"has shape {patches}" if patches else "is missing")
                + "; wanted (width, 3, patch, patch)"
            )
        width, _, patch, _ = patches
        if len(positions) != 3 or not shape("cls_token"):
            missing = "pos_embed" if shape("cls_token") else "cls_token"
            raise Refused(
                f"{asked.prefix}{self._called(missing)} is missing; a transformer without it can be named by "
                "--architecture"
            )
        extra = self._extra(bool(shape("reg_token")))
        grid = math.isqrt(positions[1] - extra)
        if grid * grid != positions[1] - extra:
            raise Refused(
                f"{asked.prefix}{self._called('pos_embed')} has {positions[1]} positions; wanted a square number"
                + (", and one for the class token" if extra else "")
            )
        if asked.size is not None and asked.size % patch:
            raise Refused(f"size is {asked.size}, and patches are of {patch} pixels; give a multiple")
        depth = count(tensors, self.block.partition("{}")[0])
        heads = asked.heads or _said_heads(asked.about) or asked.attention_heads.get(width)
        heads = heads or HEADS.get(width)
        if heads is None:
            raise Refused(
                f"the number of attention heads is not in the file and none is known of width {width}; give --heads"
            )
        if width % heads:
            raise Refused(f"heads is {heads}, which does not divide the width {width}")
        epsilon = float(asked.about.get("layer_norm_eps", self.epsilon))
        return Timm.Config(
            name=self._name(
                width,
                depth,
                bool(shape("reg_token")),
                bool(shape("blocks.0.ls1.gamma")),
                shape("blocks.0.mlp.fc1.weight"),
                shape("blocks.0.mlp.fc2.weight"),
            ),
            image_size=asked.size or grid * patch,
            patch_size=patch,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            norm_eps=None if epsilon == _EPSILON else epsilon,
        )

    def _extra(self, registers: bool) -> int:
        """How many positions there are beside those of the patches."""
        return 0 if registers and not self.positions_of_class else 1

    @staticmethod
    def _name(
        width: int, depth: int, registers: bool, scaled: bool, first: tuple[int, ...], second: tuple[int, ...]
    ) -> str:
        """A network of timm with these parts, whose sizes are given beside it."""
        gated = len(first) == len(second) == 2 and first[0] == 2 * second[1]
        if gated or registers or scaled:
            size = "giant" if gated else _SIZES.get((width, depth), "small")
            size = size if size in ("small", "base", "large", "giant") else "small"
            return f"vit_{size}_patch14_{'reg4_' if registers else ''}dinov2"
        size = _SIZES.get((width, depth), "small")
        return f"vit_{size}_patch{14 if size == 'huge' else 16}_224"

    def piece(self, name: str, config: Encoder.Config) -> Piece:
        name = name.removeprefix("network.")
        config = cast(Timm.Config, config)
        registers = "reg4" in config.name
        split = registers and self.positions_of_class  # the class token's position is in the token, with us
        match = _BLOCK.fullmatch(name)
        if match and match[2] == "attn.qkv" and self.qkv:
            block, tensor = self.block.format(match[1]), match[3]
            return Piece(tuple(f"{block}.{part}.{tensor}" for part in self.qkv), torch.cat, lambda t: list(t.chunk(3)))
        if name == "pos_embed":
            assert config.image_size is not None
            assert config.patch_size is not None
            side = config.image_size // config.patch_size
            extra = self._extra(registers)
            if split:
                return Piece(
                    (self._called(name),),
                    lambda found: resampled(found[0], side, extra)[:, 1:],
                    lambda t: [torch.cat([torch.zeros_like(t[:, :1]), t], dim=1)],
                )
            return Piece((self._called(name),), lambda found: resampled(found[0], side, extra))
        if name == "cls_token" and split:
            return Piece(
                (self._called(name), self._called("pos_embed")),
                lambda found: found[0] + found[1][:, :1],
                lambda t: [t, None],
            )
        return Piece((self._called(name),))

    def notes(self, config: Encoder.Config) -> list[str]:
        config = cast(Timm.Config, config)
        return [f"a transformer of {config.num_heads} heads, with layer norms of epsilon {config.norm_eps or _EPSILON}"]


def _said_heads(about: Mapping[str, Any]) -> int | None:
    """The attention heads that config.json says, of Hugging Face's or of timm's; None where it says none."""
    arguments = about.get("model_args")
    heads = about.get("num_attention_heads") or (arguments.get("num_heads") if isinstance(arguments, dict) else None)
    return int(heads) if isinstance(heads, int) and heads > 0 else None


def resampled(positions: Tensor, side: int, extra: int) -> Tensor:
    """(1, extra + n^2, D) embeddings of positions -> (1, extra + side^2, D), bicubic; the first ones are kept."""
    count = math.isqrt(positions.shape[1] - extra)
    if count == side:
        return positions
    grid = positions[:, extra:].unflatten(1, (count, count)).permute(0, 3, 1, 2).float()
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :extra], grid.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)], dim=1)


@dataclass(frozen=True, kw_only=True)
class Named(Network):
    """Any network of timm, by timm's own names; which one has to be said."""

    def anchors(self) -> tuple[str, ...]:
        return ()

    def config(self, tensors: Tensors, asked: Asked) -> Timm.Config:
        return Timm.Config(name=asked.architecture, image_size=asked.size)

    def piece(self, name: str, config: Encoder.Config) -> Piece:
        return Piece((name.removeprefix("network."),))


TIMM = ViTNames(positions_of_class=False)
