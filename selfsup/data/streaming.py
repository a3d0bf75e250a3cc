"""Photographs that are read anew in every epoch: worker processes decode and crop them at full resolution."""

import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from selfsup.augment.bands import Held
from selfsup.augment.files import compiled, held
from selfsup.batch import Batch, Key
from selfsup.data.base import Source, TooManyUnreadable, UnreadableImage, check_unreadable
from selfsup.data.workers import Fork, cores, leave_signals_to_parent, say_where_too_many, signals_held_back
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


class _Rows(Dataset[_Item]):
    """Makes the batch of a key. Substitutes unreadable images, or leaves them out."""

    def __init__(self, source: Source, crop: Crop, substitute: bool) -> None:
        self.source = source
        self.crop = crop
        self.substitute = substitute
        self.unreadable: dict[int, str] = {}  # known so far, so that each is tried once per process
        # Containers often have 64 MB of shared memory, less than one batch, and a worker that runs out of it is killed.
        # Batches go through the pipe there: a copy more, but whole.
        self.through_pipe = _shared_memory() < _SMALL_SHARED_MEMORY

    def __getitem__(self, key: Key) -> _Item:
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


class _Keys:
    """Keys, one after the other: those that are put here reach workers that stay from one epoch to the next."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys)

    def __len__(self) -> int:
        return len(self.keys)


class Streaming:
    """Batches decoded and cropped by `workers` processes (0: by this one); the result does not depend on their number.

    Args:
        source: the data set.
        crop: see Crop.
        device: where the batches are wanted.
        workers: number of processes.
        substitute: replace an unreadable image by the next readable one, with its label and position; else leave it
            out.
        lasting: the processes stay for the next call of `batches`, until `close`. What they know of `source` and `crop`
            is what these were when the first were started.
    """

    def __init__(
        self,
        source: Source,
        crop: Crop,
        device: torch.device,
        workers: int,
        substitute: bool,
        lasting: bool = False,
    ) -> None:
        self.rows = _Rows(source, crop, substitute)
        self.device = device
        self.workers = workers
        self.lasting = lasting and workers > 0
        self._keys = _Keys(())
        self._kept: DataLoader[_Item] | None = None  # the loader whose workers stay
        self._in_use = False  # by an iteration that has not ended

    @property
    def unreadable(self) -> dict[int, str]:
        return self.rows.unreadable

    def batches(self, keys: Sequence[Key]) -> Iterator[Batch]:
        """A batch for each key, in order; images and labels on the device. Raises TooManyUnreadable."""
        lasting = self.lasting and not self._in_use
        with signals_held_back():
            items = self._started(keys, lasting)
        self._in_use = self._in_use or lasting
        ended = False
        try:
            for item, key in zip(items, keys, strict=True):
                self.unreadable.update(item.met)
                check_unreadable(self.rows.source, self.unreadable)
                if len(item.indices):
                    images = tuple(self._move(view) for view in item.images)
                    yield Batch(images, self._move(item.labels), torch.as_tensor(item.indices), draws=key.draws)
            ended = True
        finally:
            if lasting:
                self._in_use = False
                if not ended:  # what is on its way is of no use
                    self.close()

    def close(self) -> None:
        """End the processes that stay. `batches` starts others."""
        kept, self._kept = self._kept, None
        iterator = None if kept is None else kept._iterator
        if isinstance(iterator, _MultiProcessingDataLoaderIter):
            iterator._shutdown_workers()

    def _move(self, values: Any) -> Tensor:
        return to_device(torch.as_tensor(values), self.device)

    def _started(self, keys: Sequence[Key], lasting: bool = False) -> Iterator[_Item]:
        """What the workers make, which are started here, or have stayed."""
        if lasting and self._kept is not None:
            self._keys.keys = keys
            return iter(self._kept)
        # Forked workers start at once and need nothing picklable. That is safe after CUDA has been initialised as long
        # as they do not touch it, and they decode on the CPU alone, with one thread each (the loader sees to that).
        fork = sys.platform == "linux" and self.workers > 0
        if fork:
            compiled()  # once, for all of them
        say_where_too_many(self.workers, cores())
        with warnings.catch_warnings():
            # Said above, in our words; torch warns where a loader is made, and again where its workers start.
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            given = _Keys(keys)
            loader: DataLoader[_Item] = DataLoader(
                self.rows,
                batch_size=None,
                sampler=given,
                num_workers=self.workers,
                persistent_workers=lasting,
                collate_fn=_as_it_is,
                worker_init_fn=leave_signals_to_parent,
                pin_memory=self.device.type == "cuda",
                multiprocessing_context=Fork() if fork else None,
                generator=torch.Generator(),  # of its own: it is drawn from, and the global state is not for that
            )
            items = iter(loader)
        if lasting:
            self._kept, self._keys = loader, given
        return items


def _as_it_is(item: Any) -> Any:
    return item


def _shared_memory() -> int:
    place = Path("/dev/shm")
    return shutil.disk_usage(place).free if place.is_dir() else sys.maxsize
