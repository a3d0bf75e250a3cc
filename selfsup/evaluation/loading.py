"""An encoder ready for use in a program of one's own: `selfsup.load`."""

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from selfsup.augment.bands import Picture as Decoded
from selfsup.augment.size import Size, check_size
from selfsup.data.decode import as_picture, decode
from selfsup.data.levels import parse_levels
from selfsup.devices.choice import Device
from selfsup.devices.moving import image_format
from selfsup.evaluation.encoder import Exported
from selfsup.evaluation.newest import newest_encoder
from selfsup.evaluation.reading import Layer
from selfsup.runtime import arithmetic
from selfsup.runtime.device import device_for

Picture: TypeAlias = str | PathLike[str] | PIL.Image.Image
Images: TypeAlias = Picture | Sequence[Picture] | Tensor | np.ndarray


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder with its preprocessing and the names of its classes, in evaluation mode on one device."""

    exported: Exported
    device: torch.device

    @property
    def feature_dim(self) -> int:
        """D of the backbone's features."""
        return int(self.exported.encoder.feature_dim)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of a classifier's logits, in their order; () where the data named none, or there is no classifier."""
        return self.exported.class_names

    def preprocess(self, images: Images) -> Tensor:
        """What the network is fed with: the central box of every image, resized and normalised as the encoder wants it.

        Args:
            images: a path, a PIL image or a sequence of them, of any sizes; or N images of one size as uint8: a tensor
                (N, C, H, W), or an array (N, H, W, C), as PIL and torchvision's data sets have them.

        Returns:
            (N, C, S, T) float32 on the encoder's device.

        Raises:
            ValueError: no images, or of another form.
            UnreadableImage: a file is no image, or a damaged one; the message names it.
        """
        center, given = self.exported.feed.center(), self._checked(images)
        if isinstance(given, Tensor):
            return center(given, None, self.device)
        return center((center.crop([self._picture(picture) for picture in given]),), None, self.device)

    @torch.no_grad()
    def embed(self, images: Images, layer: Layer = "backbone", batch_size: int = 64) -> Tensor:
        """Features of images: (N, D) float32 on the CPU, not normalised, those that `selfsup embed` writes.

        Args:
            images: as for `preprocess`. Files are read batch by batch.
            layer: "backbone", what evaluations judge; "embedding", behind the head that the loss was about.
            batch_size: images that go through the network at a time.

        Raises:
            ValueError, UnreadableImage: as `preprocess`; or there is no head for the embedding.
        """
        return self._through(self.exported.network(layer), images, batch_size)

    @torch.no_grad()
    def classify(self, images: Images, batch_size: int = 64) -> Tensor:
        """Probabilities of the classes: (N, C) float32 on the CPU, in the order of `class_names`.

        Raises:
            ValueError: there is no classifier; `selfsup finetune` makes one.
        """
        return self._through(self.exported.classifier, images, batch_size).softmax(dim=1)

    def _through(self, network: torch.nn.Module, images: Images, batch_size: int) -> Tensor:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; give at least 1")
        rows = []
        given = self._checked(images)
        for start in range(0, len(given), batch_size):
            with arithmetic.full_precision():
                rows.append(network(self.preprocess(given[start : start + batch_size])).float().cpu())
        return torch.cat(rows)

    def _checked(self, images: Images) -> Tensor | list[Picture]:
        return checked(images, len(self.exported.feed.mean))

    def _picture(self, picture: Picture) -> Decoded:
        feed = self.exported.feed
        levels = parse_levels(feed.range)
        if isinstance(picture, PIL.Image.Image):
            return as_picture(picture, levels, feed.channels)
        return decode(Path(picture), str(picture), levels=levels, channels=feed.channels)[0]


def load(path: str | PathLike[str], device: Device = "auto", size: Size | None = None) -> LoadedEncoder:
    """Read an encoder, ready for use.

    Args:
        path: a run folder, also of a run that is not finished, or an encoder.safetensors.
        device: "auto", a CUDA GPU, else an Apple GPU, else the CPU; "mps", the Apple GPU; or "cpu".
        size: of the images that the network is fed with, in pixels, a side or (height, width), in place of that of
            training: the same central box of an image, resized to it.

    Raises:
        ValueError: there is no encoder, it is damaged, it takes no images of this size, or there is no such device.
    """
    check_size(size)
    place = device_for(device)
    exported = newest_encoder(Path(path), size=size)
    for network in (exported.encoder, exported.head):
        if network is not None:
            network.to(place).to(memory_format=image_format(place))
    return LoadedEncoder(exported, place)


def checked(images: Images, channels: int = 3) -> Tensor | list[Picture]:
    """All images as one tensor (N, C, H, W), or as a list. Raises ValueError for what is neither."""
    if isinstance(images, np.ndarray):
        images = _from_array(images, channels)
    if isinstance(images, Tensor):
        _require_pixels(images, channels)
        return images
    return _listed(images)


def _listed(images: Picture | Sequence[Picture]) -> list[Picture]:
    listed = [images] if isinstance(images, str | PathLike | PIL.Image.Image) else list(images)
    for picture in listed:
        if not isinstance(picture, str | PathLike | PIL.Image.Image):
            kind = type(picture).__name__
            raise ValueError(f"an image is given as {kind}; give paths, PIL images, or all images as one uint8 tensor")
    if not listed:
        raise ValueError("there are no images")
    return listed


def _from_array(images: np.ndarray, channels: int) -> Tensor:
    if images.ndim == 3:
        images = images[None]
    if images.ndim != 4 or images.shape[-1] != channels:
        raise ValueError(f"an array of shape {images.shape} is no images; give (N, H, W, {channels}), uint8")
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)


def _require_pixels(images: Tensor, channels: int) -> None:
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != channels or not len(images):
        raise ValueError(
            f"a tensor of {images.dtype} and shape {tuple(images.shape)} is no images; give (N, {channels}, H, W), "
            "uint8, not normalised: that is done here"
        )
