"""Views on a GPU by Triton: at most six kernels for a view, and one upload for all views of a batch."""

import importlib.util
import os
import shutil
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from selfsup.augment.bands import require_channels
from selfsup.augment.geometry import canvas_boxes
from selfsup.augment.parameters import Parameters, View
from selfsup.augment.table import REACH, table_of, widens
from selfsup.devices.moving import send

_PIXELS = 256  # of a program
_TOGETHER = 2**25  # pixels of a view in which samples are worked on together: they bound the memory


@cache
def usable() -> bool:
    """Whether Triton is installed, and finds a C compiler, which it needs to start a kernel."""
    compiler = "CC" in os.environ or any(shutil.which(name) for name in ("clang", "gcc"))
    return compiler and importlib.util.find_spec("triton") is not None


def views_by_kernels(
    views: Sequence[View], sources: Sequence[Tensor], drawn: Sequence[Parameters], sizes: Tensor | None, cropped: bool
) -> list[Tensor]:
    """All views of a batch.

    Args:
        views: their configurations.
        sources: for each view (B, C, H, W) uint8, on the device.
        drawn: for each view the parameters of the B samples, on the CPU.
        sizes: (B, 2) original height and width where images were squeezed to H x W, on the CPU.
        cropped: `sources` are crops of the views' sizes already.

    Returns:
        For each view (B, C, S, T) float32, normalised, channels_last.
    """
    for view, images in zip(views, sources, strict=True):
        require_channels(images, view.mean)
    tables = [
        table_of(view, numbers, canvas_boxes(numbers.boxes, None if cropped else sizes, *images.shape[-2:]))
        for view, images, numbers in zip(views, sources, drawn, strict=True)
    ]
    sent = send(torch.stack(tables), sources[0].device).unbind()
    with torch.cuda.device_of(sent[0]):
        return [_view(view, images, table, cropped) for view, images, table in zip(views, sources, sent, strict=True)]


def _view(view: View, images: Tensor, table: Tensor, cropped: bool) -> Tensor:
    result = table.new_empty(len(images), *view.shape, images.shape[1])
    together = max(1, _TOGETHER // (view.shape[0] * view.shape[1]))
    for some, numbers, out in zip(*(x.split(together) for x in (images, table, result)), strict=True):
        _make(view, some, numbers, cropped, out)
    return result.permute(0, 3, 1, 2)


def _make(view: View, images: Tensor, table: Tensor, cropped: bool, out: Tensor) -> None:
    """The view of some samples, written to (B, S, T, C)."""
    from selfsup.augment import kernels

    count, channels, height, _ = images.shape
    (rows, columns), wide = view.shape, table.shape[1]
    size: dict[str, int] = {"CHANNELS": channels, "PADDED": _power_of_2(channels), "PIXELS": _PIXELS}
    planes = table.new_empty(count, channels, rows, columns)
    grid = (count, -(-rows * columns // _PIXELS))
    if cropped:
        _launch(kernels.flip_kernel, grid, images, table, planes, *images.stride(), wide, rows, columns, **size)
    else:
        kind = {"REACH": REACH[view.interpolation], "WIDENS": widens(view)}
        narrowed = table.new_empty(count, channels, height, columns)
        tall = (count, -(-height * columns // _PIXELS))
        _launch(
            kernels.columns_kernel,
            tall,
            images,
            table,
            narrowed,
            *images.stride(),
            wide,
            height,
            columns,
            **kind,
            **size,
        )
        _launch(kernels.rows_kernel, grid, narrowed, table, planes, wide, height, rows, columns, **kind, **size)
    sums = table.new_empty(count, grid[1])
    contrast, blur = view.jitter.contrast > 0, view.blur.probability > 0
    size["ADDITIVE"] = view.jitter.additive_brightness
    if contrast:
        _launch(kernels.sums_kernel, grid, planes, table, sums, wide, rows * columns, **size)
    kind = {"BLOCKS": _power_of_2(grid[1]), "LAST": not blur, "CONTRAST": contrast}
    _launch(kernels.color_kernel, grid, planes, table, sums, out, wide, rows, columns, grid[1], **kind, **size)
    if blur:
        del size["ADDITIVE"]
        kind = {"RADIUS": view.blur.kernel_size // 2, "REFLECT": view.blur.border == "reflect"}
        between = torch.empty_like(planes)
        _launch(kernels.blur_kernel, grid, planes, table, between, wide, rows, columns, ROWS=False, **kind, **size)
        _launch(kernels.blur_kernel, grid, between, table, out, wide, rows, columns, ROWS=True, **kind, **size)


def _power_of_2(count: int) -> int:
    """The first one that is as large."""
    return 1 << (count - 1).bit_length()


def _launch(kernel: Any, grid: tuple[int, int], *arguments: Any, **constants: Any) -> None:
    """One operation of the device."""
    kernel[grid](*arguments, **constants)
