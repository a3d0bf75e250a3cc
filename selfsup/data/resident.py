"""Data sets that are held whole, as uint8, where the training is: on the device when they fit there."""

import math
from collections.abc import Iterable, Iterator
from typing import Self

import torch
from torch import Tensor

from selfsup.batch import Batch, Key
from selfsup.data.base import ArraySource, Source, check_unreadable
from selfsup.data.free_memory import free_memory
from selfsup.data.sharing import processes_here, shares_memory, squeezed_once
from selfsup.data.squeezed import Squeezed, squeeze
from selfsup.devices.moving import send, to_device

_MOVED = 1 << 26  # bytes of a mapped file that go to a device at a time


class CanvasSource(Squeezed):
    """Image files decoded once and squeezed to squares (aspect ratio not kept, antialiased), held in memory.

    The processes of a machine decode a part each, and share the memory: all must make it.

    Args:
        source: the files.
        canvas: side of the square in pixels.

    Raises:
        ValueError: too large for this machine's memory.
        TooManyUnreadable: see `check_unreadable`.
    """

    def __init__(self, source: Source, canvas: int) -> None:
        _check_memory(source, canvas)
        images, sizes, unreadable = squeezed_once(source, canvas)
        self.mapped = shares_memory()
        super().__init__(images, sizes, unreadable, source.labels, source.classes)
        self.files = source
        check_unreadable(source, self.unreadable)

    def name(self, index: int) -> str:
        return self.files.name(index)

    def names_cut_short(self) -> list[str]:
        return self.files.names_cut_short()

    def select(self, rows: Tensor) -> Self:
        part = super().select(rows)
        part.files = self.files.select(rows)
        return part


def kept_whole(source: Source, canvas: int | None) -> Source:
    """The images in memory, where there is a canvas to squeeze files to; arrays are there already."""
    return source if canvas is None or isinstance(source, ArraySource) else CanvasSource(source, canvas)


class Resident:
    """Batches of an array of images, which is on a CUDA device if it fits in half of what is free there.

    Else it is in pinned memory, or stays in the file that it is mapped from; for MPS in the memory of the CPU, which is
    the same.

    Args:
        source: the images.
        device: where the batches are wanted.
        substitute: replace an unreadable image by the next readable one, with its label and position; else leave it
            out.
    """

    def __init__(self, source: ArraySource, device: torch.device, substitute: bool) -> None:
        self.source = source
        self.device = device
        self.substitute = substitute
        self.images = _place(source, device)
        self.labels = source.labels.to(device)

    @property
    def unreadable(self) -> dict[int, str]:
        return self.source.unreadable if isinstance(self.source, Squeezed) else {}

    def batches(self, keys: Iterable[Key]) -> Iterator[Batch]:
        """A batch for each key: images and labels on the device, the rest on the CPU."""
        for _, rows, draws in keys:
            sizes = None
            if isinstance(self.source, Squeezed):
                found = self.source.substitute[rows]
                rows = found if self.substitute else rows[found == rows]
                sizes = self.source.sizes[rows]
            if len(rows):
                where = _upload(rows, self.device)
                yield Batch(self._images(rows, where), self.labels.index_select(0, where), rows, sizes, draws)

    def _images(self, rows: Tensor, where: Tensor) -> Tensor:
        if self.images.device.type == self.device.type:
            return self.images.index_select(0, self.source.at(where) if self.images is self.source.images else where)
        on_gpu = self.device.type == "cuda"
        buffer = torch.empty(len(rows), *self.images.shape[1:], dtype=torch.uint8, pin_memory=on_gpu)
        return to_device(torch.index_select(self.images, 0, self.source.at(rows), out=buffer), self.device)


class CanvasStream:
    """Batches of image files that are squeezed to a canvas and not kept: for reading each once."""

    def __init__(self, source: Source, device: torch.device, canvas: int) -> None:
        self.source = source
        self.device = device
        self.canvas = canvas
        self.unreadable: dict[int, str] = {}

    def batches(self, keys: Iterable[Key]) -> Iterator[Batch]:
        """A batch of the readable images for each key. Raises TooManyUnreadable."""
        for _, rows, _ in keys:
            images, sizes, unreadable = squeeze(self.source, rows, self.canvas)
            self.unreadable |= unreadable
            check_unreadable(self.source, self.unreadable)
            good = torch.tensor([index not in unreadable for index in rows.tolist()])
            if good.any():
                rows = rows[good]
                yield Batch(images[good].to(self.device), self.source.labels[rows].to(self.device), rows, sizes[good])


def _place(source: ArraySource, device: torch.device) -> Tensor:
    images = source.images
    if device.type != "cuda":  # MPS shares the memory of the CPU, and cannot be handed 4 GiB at once
        return images
    free, _ = torch.cuda.mem_get_info(device)
    shape = (len(source), *images.shape[1:])
    if math.prod(shape) > free // 2:
        return images if source.mapped else images.pin_memory()
    if not source.mapped:
        return images.to(device)
    placed = torch.empty(shape, dtype=torch.uint8, device=device)
    for rows in torch.arange(len(source)).split(max(1, _MOVED // max(1, images[0].numel()))):
        placed[int(rows[0]) : int(rows[-1]) + 1] = images[source.at(rows)].to(device)
    return placed


def _upload(rows: Tensor, device: torch.device) -> Tensor:
    return send(rows, device)


def decoded_bytes(source: Source, canvas: int | None) -> int:
    """What the images of files take in the processes of this machine, once they are squeezed; 0 where none are."""
    if canvas is None or isinstance(source, ArraySource):
        return 0
    copies = 1 if shares_memory() else processes_here()
    return len(source) * source.channels * canvas * canvas * copies


def _check_memory(source: Source, canvas: int) -> None:
    count, needed = len(source), decoded_bytes(source, canvas)
    free = free_memory()
    if needed > free:
        raise ValueError(
            f"{count:,} images of {canvas} x {canvas} pixels need {needed / 2**30:.1f} GiB of memory in the processes "
            f"of this machine, and {free / 2**30:.1f} GiB are free\n"
            "choose a smaller canvas; or none, to read the images anew in every epoch; or have them mapped from the "
            f"disk: selfsup pack OUT --data.canvas {canvas}"
        )
