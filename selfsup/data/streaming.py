"""Photographs that are read anew in every epoch: worker processes decode and crop them at full resolution."""

import contextlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from selfsup.augment.bands import Held
from selfsup.augment.files import held
from selfsup.batch import Batch, Key
from selfsup.data.base import Source, TooManyUnreadable, UnreadableImage, check_unreadable
from selfsup.data.worker_pool import WorkerPool
from selfsup.devices.moving import to_device
from selfsup.randomness import counter

Crop = Callable[[list[Held], Tensor, Any], tuple[Tensor, ...]]
"""(images, (B,) int64 positions in the data set, epoch) -> for each view (B, C, S, S) uint8. Must not use a GPU.

The epoch is an int or, where images come several times in an epoch, what `randomness.counter` makes of it.
"""

_SMALL_SHARED_MEMORY = 1 << 30


class _Item(NamedTuple):
    images: Any  # a tensor per view, or the same as arrays; () where no image of the rows could be read
    labels: Any
    indices: Any
    met: dict[int, str]  # unreadable images on the way, number -> reason


class _Rows:
    """Makes the batch of a key. Substitutes unreadable images, or leaves them out."""

    def __init__(self, source: Source, crop: Crop, substitute: bool) -> None:
        self.source = source
        self.crop = crop
        self.substitute = substitute
        self.unreadable: dict[int, str] = {}  # known so far, so that each is tried once per process
        # Containers often have 64 MB of shared memory, less than one batch, and a worker that runs out of it is killed.
        # Batches go through the pipe there: a copy more, but whole.
        self.through_pipe = _shared_memory() < _SMALL_SHARED_MEMORY

    def __call__(self, key: Key) -> _Item:
        epoch, rows, draws = key
        met: dict[int, str] = {}
        try:
            found = [pair for row in rows.tolist() if (pair := self._readable(row, met)) is not None]
        except TooManyUnreadable:  # raised again where the batch arrives: here it would end in a worker's traceback
            return _Item((), (), (), dict(self.unreadable))
        if not found:
            return _Item((), (), (), met)
        indices = torch.tensor([index for index, _ in found])
        crops = self.crop([image for _, image in found], indices, counter(epoch, draws))
        item = _Item(crops, self.source.labels[indices], indices, met)
        if self.through_pipe and get_worker_info() is not None:
            return _Item(tuple(view.numpy() for view in item.images), item.labels.numpy(), indices.numpy(), met)
        return item

    def _readable(self, index: int, met: dict[int, str]) -> tuple[int, Held] | None:
        """The first readable image from `index` on, cyclically: a pure function of the files, never of timing."""
        while True:
            if index not in self.unreadable:
                try:
                    return index, held(self.source.load_for_crop(index))
                except UnreadableImage as error:
                    self.unreadable[index] = error.reason
                    check_unreadable(self.source, self.unreadable)
            met[index] = self.unreadable[index]
            if not self.substitute:
                return None
            index = (index + 1) % len(self.source)


class Streaming:
    """Batches decoded and cropped by the processes of a pool; the result does not depend on their number.

    Args:
        source: the data set.
        crop: see Crop.
        pool: of worker processes, which several may share.
        substitute: replace an unreadable image by the next readable one, with its label and position; else leave it
            out.
    """

    def __init__(self, source: Source, crop: Crop, pool: WorkerPool, substitute: bool) -> None:
        self.rows = _Rows(source, crop, substitute)
        self.pool = pool
        self._job = pool.add(self.rows)

    @property
    def unreadable(self) -> dict[int, str]:
        return self.rows.unreadable

    def batches(self, keys: Sequence[Key]) -> Iterator[Batch]:
        """A batch for each key, in order; images and labels on the device. Raises TooManyUnreadable."""
        with contextlib.closing(self.pool.items(self._job, keys)) as items:
            for item, key in zip(items, keys, strict=True):
                self.unreadable.update(item.met)
                check_unreadable(self.rows.source, self.unreadable)
                if len(item.indices):
                    images = tuple(self._move(view) for view in item.images)
                    yield Batch(images, self._move(item.labels), torch.as_tensor(item.indices), draws=key.draws)

    def _move(self, values: Any) -> Tensor:
        return to_device(torch.as_tensor(values), self.pool.device)


def _shared_memory() -> int:
    place = Path("/dev/shm")
    return shutil.disk_usage(place).free if place.is_dir() else sys.maxsize
