"""Batches for training, the same for any number of processes and workers, and batches for reading out features."""

from collections.abc import Iterator

import torch

from selfsup.batch import Batch, Key
from selfsup.data.base import ArraySource, Source
from selfsup.data.resident import CanvasSource, CanvasStream, Resident
from selfsup.data.sampling import SHUFFLED, Sampling
from selfsup.data.streaming import Crop, Streaming
from selfsup.data.worker_pool import WorkerPool
from selfsup.output import message


class Loader:
    """Training batches, in an order that is a pure function of (seed, epoch).

    Images and labels are on `device`; all else is on the CPU, where augmentation draws its parameters.

    An array is held whole, on the device if it fits there. So are image files if `canvas` is given: they are decoded
    once and squeezed to canvas x canvas, and `Batch.sizes` holds their original heights and widths. With `crop` instead
    they are read anew in every epoch, by `workers` processes that stay until `close`, and `Batch.images` is what `crop`
    returns.

    An unreadable image is replaced by the next readable one, with that one's label and index. So neither batch size nor
    order changes, and no memory keeps a feature under another image's number.

    Args:
        source: the data set. After construction `source` is the squeezed one where `canvas` was used, fit to be handed
            to `evaluation_batches`, so that nothing is decoded twice.
        batch_size: of the global batch.
        seed: of the run.
        device: of images and labels.
        rank, world: this process and their number; rank r gets the rows [r B/W, (r+1) B/W) of each global batch.
        workers: processes that decode; only used with `crop`.
        canvas: side in pixels; has no meaning for arrays.
        crop: see `streaming.Crop`; has no meaning for arrays.
        sampling: how batches are put together.

    Raises:
        ValueError: an impossible batch size, too little data, no way given to bring files to one size.
        TooManyUnreadable: more than one image and more than 1 % cannot be read; here, or in `epoch`.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        canvas: int | None = None,
        crop: Crop | None = None,
        sampling: Sampling = SHUFFLED,
    ) -> None:
        if batch_size % world:
            raise ValueError(
                f"the batch size {batch_size} cannot be shared evenly by {world} processes; "
                f"try {max(1, batch_size // world) * world}"
            )
        self.sampler = sampling.build(source.labels, batch_size, seed)
        if self.sampler.remark and rank == 0:
            message(self.sampler.remark)
        self.steps_per_epoch = self.sampler.steps_per_epoch
        self.own_rows = slice(rank * batch_size // world, (rank + 1) * batch_size // world)
        _check_feeding(workers, canvas, crop)
        self.source = source
        self.data: Resident | Streaming
        if isinstance(source, ArraySource):
            self.data = Resident(source, device, substitute=True)
        elif canvas is not None:
            self.source = CanvasSource(source, canvas)
            self.data = Resident(self.source, device, substitute=True)
        else:
            pool = WorkerPool(workers, device, lasting=True)
            self.data = Streaming(source, _given(crop), pool, substitute=True)

    @property
    def unreadable(self) -> dict[str, str]:
        """Name -> reason, of the images this process has met that could not be read."""
        return {self.source.name(index): reason for index, reason in self.data.unreadable.items()}

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This process's batches of `epoch`, from batch number `start` on. Raises TooManyUnreadable."""
        if not 0 <= start <= self.steps_per_epoch:
            raise ValueError(f"cannot start at batch {start}: an epoch has {self.steps_per_epoch} batches")
        return self.data.batches([self._key(epoch, number) for number in range(start, self.steps_per_epoch)])

    @property
    def pool(self) -> WorkerPool | None:
        """The workers, for whoever else reads files between epochs; None where this loader needs none."""
        return self.data.pool if isinstance(self.data, Streaming) else None

    def close(self) -> None:
        """End the workers, which stay from epoch to epoch. An epoch that is begun later starts others."""
        if self.pool is not None:
            self.pool.close()

    def _key(self, epoch: int, number: int) -> Key:
        _, rows, draws = self.sampler.key(epoch, number)
        return Key(epoch, rows[self.own_rows], None if draws is None else draws[self.own_rows])


def evaluation_batches(
    source: Source,
    *,
    batch_size: int,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    canvas: int | None = None,
    crop: Crop | None = None,
    unreadable: dict[str, str] | None = None,
    streamed: Streaming | None = None,
) -> Iterator[Batch]:
    """Every image once, in the order of numbering, for reading out features; the last batch may be smaller.

    Rank r gets the images [r N / W, (r+1) N / W), `batch_size` at a time: here, it counts one process's images. With
    fewer images than processes some get nothing. Unreadable images are left out, so the labels and positions of what
    there is are those in the batches, not `source.labels`; they are entered in `unreadable`, name -> reason, if one is
    given. `crop` is called with epoch 0. The other arguments are Loader's.

    What reads `source` by processes that stay may be given as `streamed`, made with `substitute=False`; it takes the
    place of `crop` and `workers`.

    Raises:
        ValueError, TooManyUnreadable: as Loader, except that one image is enough.
    """
    if batch_size < 1:
        raise ValueError(f"the batch size is {batch_size}; wanted at least 1")
    _check_feeding(workers, canvas, crop)
    data: Resident | Streaming | CanvasStream
    if streamed is not None:
        data = streamed
    elif isinstance(source, ArraySource):
        data = Resident(source, device, substitute=False)
    elif canvas is not None:
        data = CanvasStream(source, device, canvas)
    else:
        data = Streaming(source, _given(crop), WorkerPool(workers, device), substitute=False)
    own = torch.arange(rank * len(source) // world, (rank + 1) * len(source) // world)
    yield from data.batches([Key(0, rows) for rows in own.split(batch_size) if len(rows)])
    if unreadable is not None:
        unreadable.update({source.name(index): reason for index, reason in data.unreadable.items()})


def _check_feeding(workers: int, canvas: int | None, crop: Crop | None) -> None:
    if workers < 0:
        raise ValueError(f"{workers} workers; wanted 0 (decode in this process) or more")
    if canvas is not None and crop is not None:
        raise ValueError("both a canvas and a crop are given; a canvas holds images whole, a crop reads them anew")
    if canvas is not None and canvas < 1:
        raise ValueError(f"the canvas is {canvas} pixels; wanted at least 1")


def _given(crop: Crop | None) -> Crop:
    if crop is None:
        raise ValueError("image files need a canvas (decoded once, held in memory) or a crop (read in every epoch)")
    return crop
