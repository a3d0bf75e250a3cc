"""Crops of pictures of any size in a loader's worker: what `geometry` does to batches of one size.

PIL's resizing is always antialiased; without antialiasing only four pixels of each axis make a new one, and these alone
are read, whatever the size of the picture. Both are done by compiled code (`resampling`), to the bit as by PIL and by
`sample` here, which do it where that code cannot be had.
"""

import functools
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import get_args

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from selfsup.augment.bands import Held, Pixels, in_channels
from selfsup.augment.geometry import Fit, center_boxes, keys_
from selfsup.augment.parameters import Interpolation
from selfsup.augment.size import Size, height_and_width
from selfsup.output import message

# Pillow makes new columns first and then rows, which rounds otherwise than the other way round. From version 13 on it
# makes rows first where a picture gets shorter by more than twice as many pixels as it gets narrower.
_ROWS_FIRST = int(PIL.__version__.partition(".")[0]) >= 13
_RESAMPLING = {"bilinear": PIL.Image.Resampling.BILINEAR, "bicubic": PIL.Image.Resampling.BICUBIC}


def crop_files(images: Sequence[Held], boxes: Tensor, size: Size, interpolation: Interpolation) -> Tensor:
    """`resized_crop` without the flip for pictures of any size, in a loader's worker.

    Args:
        images: B pictures; Pillow's, of any mode, are read as RGB.
        boxes: (B, 4) int64 top, left, height, width.
        size: the side, or height and width S, T.
        interpolation: as in `geometry.resized_crop`.

    Returns:
        (B, C, S, T) uint8.
    """
    return _resized(images, boxes, size, interpolation, cut=True)


def center_files(images: Sequence[Held], size: Size, fraction: float, interpolation: Interpolation, fit: Fit) -> Tensor:
    """The box of `center_boxes` of each picture, resized: (B, C, S, T) uint8."""
    boxes = center_boxes(_sizes(images), size, fraction, fit)
    return _resized(images, boxes, size, interpolation, cut=False)


def held(picture: Held) -> Held:
    """A picture as crops take it best, where there may be several of one picture."""
    if isinstance(picture, Pixels) or compiled() is None:
        return picture
    return Pixels(np.asarray(in_channels(picture)))


@functools.cache
def compiled() -> ModuleType | None:
    """`resampling`, once it has been compiled and has done what PIL does; None where PIL is to do it, which is said."""
    try:
        from selfsup.augment import resampling

        if (fault := _fault(resampling)) is None:
            return resampling
    except Exception as error:  # of an installation, a compiler, or the folder where it keeps what it made
        fault = f"{type(error).__name__}: {error}"
    if get_worker_info() is None:  # said by the process that started the worker
        message(f"crops of image files are made by Pillow, which is slower: numba cannot make them here ({fault})")
    return None


def _fault(resampling: ModuleType) -> str | None:
    """What compiled code makes otherwise than Pillow and `sample`."""
    picture = Pixels(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    boxes = torch.tensor([[1, 2, 38, 10], [1, 2, 10, 38], [0, 0, 40, 40]])
    for interpolation in get_args(Interpolation):
        for size in (7, 30):
            asked = ([picture] * len(boxes), boxes, (size, size), interpolation, True)
            if not torch.equal(_by_code(resampling, *asked), _by_pillow(*asked)):
                return f"{interpolation} is not what Pillow makes"
    return None


def _resized(images: Sequence[Held], boxes: Tensor, size: Size, interpolation: Interpolation, cut: bool) -> Tensor:
    """(B, C, S, T) uint8 of boxes (B, 4), of whole pixels where they are cut out before they are resized."""
    shape = height_and_width(size)
    # A loader holds arrays. For a few pictures that come as Pillow's nothing is compiled, or read from the disk.
    resampling = compiled() if all(isinstance(image, Pixels) for image in images) else None
    if resampling is None:
        return _by_pillow(images, boxes, shape, interpolation, cut)
    return _by_code(resampling, images, boxes, shape, interpolation, cut)


def _by_code(
    resampling: ModuleType,
    images: Sequence[Held],
    boxes: Tensor,
    shape: tuple[int, int],
    interpolation: Interpolation,
    cut: bool,
) -> Tensor:
    arrays = [_array(image) for image in images]
    channels = arrays[0].shape[2]
    if any(array.shape[2] != channels for array in arrays):
        raise ValueError("pictures of one batch have different numbers of channels")
    made = torch.empty(len(images), channels, *shape, dtype=torch.uint8)
    if interpolation == "bicubic_aliased":
        for array, taps, target in zip(arrays, _taps(_sizes(images), boxes, shape, cut), made.numpy(), strict=True):
            resampling.sample_box(array, *taps, target)
    else:
        ends = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1).float().numpy()  # single, as Pillow's
        sides = boxes[:, 2:] if cut else _sizes(images)
        for array, box, (height, width), target in zip(arrays, ends, sides.tolist(), made.numpy(), strict=True):
            down, across = height - shape[0], width - shape[1]
            rows_first = _ROWS_FIRST and down > max(0, 2 * across)
            resampling.resize_box(array, box, cut, interpolation == "bicubic", rows_first, target)
    return made


def _by_pillow(
    images: Sequence[Held], boxes: Tensor, shape: tuple[int, int], interpolation: Interpolation, cut: bool
) -> Tensor:
    if interpolation == "bicubic_aliased":
        taps = _taps(_sizes(images), boxes, shape, cut)
        made = [_sampled(_array(image), *each) for image, each in zip(images, taps, strict=True)]
        return torch.from_numpy(np.rint(np.stack(made)).clip(0, 255).astype(np.uint8))
    crops = []
    for image, (top, left, height, width) in zip(images, boxes.tolist(), strict=True):
        picture = image.picture() if isinstance(image, Pixels) else image
        box = (left, top, left + width, top + height)
        # Cut first where it is asked for: PIL's resize(box=...) lets the pixels around the box in.
        part = in_channels(picture.crop(box) if cut else picture)
        within = None if cut else box
        crops.append(np.asarray(part.resize(shape[::-1], _RESAMPLING[interpolation], box=within)))
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()


def _sizes(images: Sequence[Held]) -> Tensor:
    """(B, 2) int64 heights and widths."""
    return torch.tensor([(image.height, image.width) for image in images])


def _array(image: Held) -> np.ndarray:
    return (image if isinstance(image, Pixels) else Pixels(np.asarray(in_channels(image)))).array


def sample(pixels: Tensor, box: tuple[float, float, float, float], size: tuple[int, int]) -> Tensor:
    """A box resized with four pixels of each axis to a new one, cubic and without antialiasing ("bicubic_aliased").

    Args:
        pixels: (H, W, C) of any type, on the CPU.
        box: top, left, height, width in pixels; those around it count too.
        size: height and width S, T of the result.

    Returns:
        (S, T, C) float32, not clamped.
    """
    (taps,) = _taps(torch.tensor([pixels.shape[:2]]), torch.tensor([box]), size, cut=False)
    return torch.from_numpy(_sampled(pixels.numpy(), *taps)).permute(1, 2, 0)


Taps = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _sampled(
    pixels: np.ndarray, rows: np.ndarray, row_weights: np.ndarray, columns: np.ndarray, column_weights: np.ndarray
) -> np.ndarray:
    """`sample` by places, (S, 4) and (T, 4) int64, and weights, (S, 4) and (T, 4) float32: (C, S, T).

    All is added in the order of the pixels, rows first, with each product and each sum rounded to single precision.
    """
    _, across, channels = pixels.shape
    made = _added(pixels.reshape(len(pixels), -1), rows, row_weights).reshape(len(rows), across, channels)
    made = _added(made.transpose(1, 2, 0).reshape(across, -1), columns, column_weights)
    return np.ascontiguousarray(made.reshape(len(columns), channels, len(rows)).transpose(1, 2, 0))


def _added(lines: np.ndarray, places: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted sum of four lines for each new one: (n, m), places and weights (size, 4) -> (size, m) float32."""
    total: np.ndarray = lines[places[:, 0]].astype(np.float32) * weights[:, :1]
    for tap in range(1, 4):
        total += lines[places[:, tap]].astype(np.float32) * weights[:, tap : tap + 1]
    return total


def _taps(sizes: Tensor, boxes: Tensor, shape: tuple[int, int], cut: bool) -> Iterator[Taps]:
    """For each of B boxes the places and weights of `_sampled`, in pictures of `sizes`, (B, 2).

    Weights sum to one; pixels outside of the picture, or of a box that is cut out, have none.
    """
    axes: list[np.ndarray] = []
    for axis in (0, 1):
        start, length = boxes[:, axis, None, None], boxes[:, 2 + axis, None, None]
        low, high = (start, start + length) if cut else (torch.zeros_like(start), sizes[:, axis, None, None])
        steps = torch.arange(0.5, shape[axis], dtype=torch.float64)[:, None]
        centers = start + steps * (length.double() / shape[axis])  # (B, S, 1)
        places = (centers - 0.5).floor() + torch.arange(-1, 3)
        weights = keys_((places + 0.5 - centers).abs_())
        weights *= (places >= low) & (places < high)
        first, second, third, fourth = weights.unbind(dim=2)  # added in this order, however many there are
        weights /= (first + second + third + fourth)[..., None]
        axes += [torch.clamp(places.long(), low.long(), high.long() - 1).numpy(), weights.float().numpy()]
    return zip(*axes, strict=True)
