"""From a batch of uint8 pictures to the views that a method sees, and to the one view that is seen at test time."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from selfsup.augment import on_device
from selfsup.augment.bands import Held, require_channels
from selfsup.augment.color import grayscale_, jitter_, processing_order, runs_of_true, solarize_
from selfsup.augment.compiled import loops, views_by_loops
from selfsup.augment.files import center_files, crop_files
from selfsup.augment.geometry import (
    Fit,
    blur_planes,
    canvas_boxes,
    center_boxes,
    crop_planes,
    erase_,
    shift_planes,
    to_planes,
)
from selfsup.augment.kornia_reference import kornia_view, library
from selfsup.augment.parameters import Interpolation, Parameters, View, draw_views
from selfsup.augment.size import Size, height_and_width
from selfsup.augment.threads import in_threads
from selfsup.batch import Batch
from selfsup.config.checks import require
from selfsup.devices.moving import image_format, laid_out, send, to_device
from selfsup.randomness import counter

# Pixels of the views worked on at a time: on a CPU what its caches hold, on a GPU what keeps it busy.
_CHUNK_PIXELS = {"cpu": 128 * 32**2, "gpu": 2**25}
_LONE_PIXELS = 128**2  # on a CPU, views of as many and more are worked on one by one: that is faster


@dataclass(frozen=True, kw_only=True)
class Augment:
    """All views of a run."""

    stored_as: ClassVar[str] = "augment"
    views: tuple[View, ...] = field(default_factory=lambda: (View(), View()))
    backend: Literal["fused", "kornia"] = "fused"  # kornia: the slow reference
    # False: saturation, hue and grayscale of every view are left out, for images whose channels are no colours.
    colour: bool = True

    def __post_init__(self) -> None:
        require(
            1 <= len(self.views) <= 1024,
            f"Augment.views holds {len(self.views)} views; give 1 to 1024, most methods want 2.",
        )

    @property
    def applied(self) -> tuple[View, ...]:
        """The views as they are made."""
        return self.views if self.colour else tuple(view.without_colour() for view in self.views)


class Views:
    """The views of a batch: a pure function of (seed, epoch, index, view), without parameters or gradient.

    Where an image comes several times in an epoch, how often it has come before counts too: see `randomness.counter`.

    Raises:
        ValueError: the backend is kornia, and kornia is not installed.
    """

    def __init__(self, augment: Augment, seed: int):
        if augment.backend == "kornia":
            library()
        self.augment = replace(augment, views=augment.applied)
        self.seed = seed

    @torch.no_grad()
    def __call__(self, batch: Batch, epoch: int, device: torch.device) -> list[Tensor]:
        """The views of a batch.

        Args:
            batch: whole images (B, C, H, W) uint8, or what `crop` made of them; indices on the CPU.
            epoch: counted from 0.
            device: where the views are made.

        Returns:
            One (B, C, S, T) float32 for each view, of its height and width, normalised, on `device` and in its
            `image_format`.
        """
        views = self.augment.views
        cropped = isinstance(batch.images, tuple)
        if isinstance(batch.images, tuple):
            if len(batch.images) != len(views):
                raise ValueError(
                    f"The batch holds crops for {len(batch.images)} views, and {len(views)} are configured; "
                    "crop with the same Augment."
                )
            sources = [to_device(images, device) for images in batch.images]
        else:
            sources = [to_device(batch.images, device)] * len(views)
        # Crops were boxed by the worker, which knew the sizes; all other parameters do not depend on them.
        sizes = None if cropped else batch.sizes
        when = counter(epoch, batch.draws)
        extent = torch.tensor(sources[0].shape[-2:]).expand(len(batch.indices), 2) if sizes is None else sizes
        drawn = draw_views(views, self.seed, when, batch.indices, extent)
        if self.augment.backend == "fused" and device.type == "cuda" and on_device.usable():
            return on_device.views_by_kernels(views, sources, drawn, sizes, cropped)
        return [
            self._view(view, images, numbers, sizes, cropped)
            for view, images, numbers in zip(views, sources, drawn, strict=True)
        ]

    def crop(self, images: Sequence[Held], indices: Tensor, epoch: int | Tensor) -> tuple[Tensor, ...]:
        """The crops of pictures of any size, for a loader's worker: per view (B, C, S, T) uint8, not yet flipped.

        Args:
            images: B pictures.
            indices: (B,) int64, positions in the data set.
            epoch: counted from 0; or `counter` of it and `Batch.draws`.
        """
        sizes = torch.tensor([(image.height, image.width) for image in images])
        drawn = draw_views(self.augment.views, self.seed, epoch, indices, sizes)
        return tuple(
            crop_files(images, numbers.boxes, view.size, view.interpolation)
            for view, numbers in zip(self.augment.views, drawn, strict=True)
        )

    def _view(self, view: View, images: Tensor, parameters: Parameters, sizes: Tensor | None, cropped: bool) -> Tensor:
        # Autocast would run the matrix products in half precision, whose steps are wider than those of the pixels.
        with torch.autocast(images.device.type, enabled=False):
            if self.augment.backend == "fused":
                return fused_view(view, images, parameters, sizes, cropped)
            if sizes is not None:
                raise ValueError("The kornia backend takes images of one size, not squeezed ones; use backend='fused'.")
            return kornia_view(view, images, parameters, cropped).contiguous(memory_format=image_format(images.device))


def fused_view(view: View, images: Tensor, parameters: Parameters, sizes: Tensor | None, cropped: bool) -> Tensor:
    """One view of a batch: on a CPU by compiled loops, where there are any; else in chunks of alike samples.

    Args:
        view: its configuration.
        images: (B, C, H, W) uint8; or of another type, which the loops do not take.
        parameters: of the B samples, on the CPU.
        sizes: (B, 2) original height and width where images were squeezed to H x W, on the CPU.
        cropped: `images` are crops of the view's size already.

    Returns:
        (B, C, S, T) float32, normalised, in the `image_format` of the device.
    """
    require_channels(images, view.mean)
    boxes = canvas_boxes(parameters.boxes, sizes, *images.shape[-2:])
    if images.device.type == "cpu" and images.dtype == torch.uint8 and loops() is not None:
        return views_by_loops(view, images, boxes, parameters, cropped).permute(0, 3, 1, 2)
    chunk = _chunk_size(images.device, view.shape)
    order = processing_order(parameters)
    parameters, boxes = parameters.select(order), boxes[order]
    result = torch.empty(len(images), *view.shape, len(view.mean), device=images.device)

    def work(part: slice) -> None:
        chosen = parameters.select(part)
        planes = (
            _flipped(images, order[part], chosen)
            if cropped
            else _cropped(view, images, order[part], boxes[part], chosen)
        )
        if view.shift > 0:
            planes = shift_planes(planes, send(chosen.shift, planes.device), view.shift)
        _color_(view, planes, chosen)
        for plane, mean, std in zip(planes, view.mean, view.std, strict=True):
            plane.sub_(mean).mul_(1 / std)
        if view.erase.probability > 0:
            erase_(planes, send(chosen.erase, planes.device))
        result[part] = planes.permute(1, 2, 3, 0)

    in_threads(work, [slice(start, start + chunk) for start in range(0, len(order), chunk)], images.device)
    # Whole rows are moved much faster at the end than by indexed assignments on the way.
    return laid_out(result.index_select(0, send(torch.argsort(order), images.device)))


def _chunk_size(device: torch.device, shape: tuple[int, int]) -> int:
    pixels = shape[0] * shape[1]
    if device.type == "cpu" and pixels >= _LONE_PIXELS:
        return 1
    return max(1, _CHUNK_PIXELS["cpu" if device.type == "cpu" else "gpu"] // pixels)


def _cropped(view: View, images: Tensor, samples: Tensor, boxes: Tensor, chosen: Parameters) -> Tensor:
    """Crop, flip and resize of some samples to planes (C, n, S, T) in [0, 1]."""
    images = images.index_select(0, send(samples, images.device))
    planes = crop_planes(images, boxes, chosen.flip, view.size, view.interpolation)
    return planes.mul_(1 / 255).clamp_(0, 1)


def _flipped(crops: Tensor, samples: Tensor, chosen: Parameters) -> Tensor:
    """The same planes of samples that a worker cropped."""
    planes = to_planes(crops.index_select(0, send(samples, crops.device))).mul_(1 / 255)
    for run in runs_of_true(chosen.flip):
        planes[:, run] = planes[:, run].flip(-1)
    return planes


def _color_(view: View, planes: Tensor, chosen: Parameters) -> None:
    """Everything between the geometry and the normalisation, in place; (C, n, S, T) in [0, 1]."""
    grays = runs_of_true(chosen.grayscale)
    if view.grayscale_first:
        for run in grays:
            grayscale_(planes[:, run])
    for run in runs_of_true(chosen.jitter):
        jitter_(planes[:, run], chosen.factors[run], chosen.order[run], view.jitter.additive_brightness)
    if not view.grayscale_first:
        for run in grays:
            grayscale_(planes[:, run])
    for run in runs_of_true(chosen.blur):
        sigma = send(chosen.sigma[run], planes.device)
        planes[:, run] = blur_planes(planes[:, run], sigma, view.blur.kernel_size, view.blur.border)
    for run in runs_of_true(chosen.solarize):
        solarize_(planes[:, run])


class Center:
    """The test-time view: a central box, resized and normalised, the same linear map as the crops of training."""

    def __init__(
        self,
        size: Size,
        fraction: float,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        interpolation: Interpolation = "bilinear",
        fit: Fit = "center",
    ):
        """
        Args:
            size: of the result in pixels: its side, or height and width S, T.
            fraction: side of the box over that of the largest central one: 224 / 256 is the usual resize to 256 and
                crop of 224; 1 takes the whole short side.
            mean: of each channel, subtracted from values in [0, 1].
            std: of each channel, divided by.
            interpolation: "bilinear" or "bicubic", antialiased; or "bicubic_aliased", as tf.image.resize: SimCLR's code
                cuts its box out at whole pixels first, here it is resized where it lies.
            fit: "center" keeps the aspect ratio: the box has the view's, the central square for a square view;
                "whole" squeezes the whole image into the view.
        """
        if min(height_and_width(size)) < 1:
            raise ValueError(f"Center's size is {size}; give its side, or height and width, in pixels, at least 1.")
        if not 0 < fraction <= 1:
            raise ValueError(f"Center's fraction is {fraction}; give a share of the short side, above 0 and up to 1.")
        if min(std) <= 0:
            raise ValueError(f"Center's std is {std}; give values above 0, one for each channel.")
        if len(mean) != len(std):
            raise ValueError(f"Center has {len(mean)} means and {len(std)} std; give both one for each channel.")
        self.size, self.fraction, self.interpolation, self.fit = size, fraction, interpolation, fit
        self.mean, self.std = mean, std

    @torch.no_grad()
    def __call__(self, images: Tensor | tuple[Tensor, ...], sizes: Tensor | None, device: torch.device) -> Tensor:
        """The views of a batch.

        Args:
            images: (B, C, H, W) uint8 whole images; or a tuple with what `crop` made of them, which is only normalised.
            sizes: (B, 2) original height and width where images were squeezed to H x W, on the CPU, else None.
            device: where the work is done.

        Returns:
            (B, C, S, T) float32, normalised, in its `image_format`, on `device`.
        """
        shape = height_and_width(self.size)
        cropped = isinstance(images, tuple)
        source = to_device(images[0] if isinstance(images, tuple) else images, device)
        require_channels(source, self.mean)
        result = torch.empty(len(source), *shape, len(self.mean), device=device)
        whole = self.fraction == 1 and sizes is None and source.shape[-2:] == shape
        chunk = _chunk_size(source.device, shape)
        with torch.autocast(source.device.type, enabled=False):
            for start in range(0, len(source), chunk):
                part = slice(start, start + chunk)
                if cropped or whole:
                    planes = to_planes(source[part])
                else:
                    planes = self._box(source[part], None if sizes is None else sizes[part])
                planes.mul_(1 / 255).clamp_(0, 1)
                for plane, mean, std in zip(planes, self.mean, self.std, strict=True):
                    plane.sub_(mean).mul_(1 / std)
                result[part] = planes.permute(1, 2, 3, 0)
        return laid_out(result)

    def crop(self, images: Sequence[Held]) -> Tensor:
        """The central boxes of pictures of any size, for a loader's worker: (B, C, S, T) uint8."""
        return center_files(images, self.size, self.fraction, self.interpolation, self.fit)

    def _box(self, images: Tensor, sizes: Tensor | None) -> Tensor:
        height, width = images.shape[-2:]
        original = torch.tensor([height, width]).expand(len(images), 2) if sizes is None else sizes
        boxes = canvas_boxes(center_boxes(original, self.size, self.fraction, self.fit), original, height, width)
        unflipped = torch.zeros(len(images), dtype=torch.bool)
        return crop_planes(images, boxes, unflipped, self.size, self.interpolation, inside=False)
