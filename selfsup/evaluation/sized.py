"""Encoders that are fed with images of another size than that of training."""

import hashlib
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from selfsup.augment.size import Size, height_and_width
from selfsup.convert.vits import resampled
from selfsup.evaluation.encoder import Exported, filled
from selfsup.models.timm import Timm
from selfsup.storage import checkpoint
from selfsup.storage.untrusted import plain_name


def sized(exported: Exported, size: Size | None, path: Path) -> Exported:
    """The encoder, fed with images of another size: the same central box of every image, resized to it.

    Args:
        exported: with its weights on the CPU; not changed.
        size: in pixels: the side of a square, or height and width; None: as the encoder says.
        path: that it was read from, for messages.

    Raises:
        ValueError: the encoder takes no images of this size, or one side is given where images are no squares.
    """
    if size is None:
        return exported
    fed, asked = height_and_width(exported.feed.size), height_and_width(size)
    if fed == asked:
        return exported
    if isinstance(size, int) and fed[0] != fed[1]:
        raise ValueError(
            f"size is {size}, and the encoder is fed with images of {said(fed)} pixels; give height and width, such as "
            f"--size {size} {max(1, round(size * fed[1] / fed[0]))}"
        )
    feed = replace(exported.feed, size=size if isinstance(size, int) or asked[0] != asked[1] else asked[0])
    if reason := exported.encoder.unfit(asked):
        raise ValueError(f"size is {said(asked)}: {reason}\n{_remedy(exported, asked, path)}")
    _require_features(exported, asked)
    return replace(exported, feed=feed)


def said(size: tuple[int, int]) -> str:
    """Height and width in words."""
    return f"{size[0]} x {size[1]}"


def _remedy(exported: Exported, size: tuple[int, int], path: Path) -> str:
    if isinstance(exported.encoder, Timm) and exported.encoder.fixed_size and size[0] == size[1]:
        return (
            f"resample its positions: selfsup import {plain_name(path)} --out DIR --size {size[0]}; or train one that "
            "takes any size: --encoder.any-size"
        )
    return f"leave --size out: it is fed with images of {said(height_and_width(exported.feed.size))}"


@torch.no_grad()
def _require_features(exported: Exported, size: tuple[int, int]) -> None:
    """Raise ValueError where the network fails on such an image, or makes other features of it."""
    encoder, wanted = exported.encoder, (1, exported.encoder.feature_dim)
    try:
        features = encoder(torch.zeros(1, exported.config.channels, *size))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        reason = f"it fails: {plain_name(error, 200)}"
    else:
        found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        if found == wanted:
            return
        reason = f"its features would be {found} and not {wanted}"
    fed = said(height_and_width(exported.feed.size))
    raise ValueError(f"the encoder takes no images of {said(size)} pixels, for {reason}; leave --size out, for {fed}")


def resampled_encoder(exported: Exported, side: int, path: Path) -> Exported:
    """A vision transformer that is built for one size, built for another: its positions are resampled (bicubic).

    Args:
        exported: the transformer, with its weights.
        side: of the images that it is fed with then, in pixels.
        path: that it was read from, for messages.

    Raises:
        ValueError: it is none, or its patches do not divide the side.
    """
    encoder, config = exported.encoder, exported.config
    positions = getattr(encoder.network, "pos_embed", None) if isinstance(encoder, Timm) else None
    if not (
        isinstance(encoder, Timm) and isinstance(config, Timm.Config) and encoder.fixed_size and positions is not None
    ):
        raise ValueError(
            f"{plain_name(path)} is an encoder already, without positions to resample\n"
            f"give --size {side} to the command that uses it"
        )
    patches = encoder.network.patch_embed
    if side % patches.patch_size[0] or patches.grid_size[0] != patches.grid_size[1]:
        raise ValueError(f"size is {side}, and patches are of {patches.patch_size[0]} pixels; give a multiple")
    extra = positions.shape[1] - patches.grid_size[0] * patches.grid_size[1]  # of tokens that are no patches
    tensors = dict(encoder.state_dict())
    tensors["network.pos_embed"] = resampled(positions.detach(), side // patches.patch_size[0], extra)
    wanted = replace(config, image_size=side)
    return replace(
        exported,
        encoder=filled(wanted.build, wanted, tensors, path).eval().to(memory_format=torch.channels_last),
        config=wanted,
        feed=replace(exported.feed, size=side),
        sha256=hashlib.sha256(checkpoint.serialize(tensors)).hexdigest(),
        made_by=exported.made_by | {"resampled": {"from_sha256": exported.sha256, "size": side}},
    )
