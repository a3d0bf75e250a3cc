"""Which images make up which batch: a pure function of the seed, the epoch and the batch's number."""

import torch
from torch import Tensor

from selfsup import randomness
from selfsup.batch import Key
from selfsup.randomness import Stream


class Sampler:
    """Cuts a random order of the data, new in every epoch, into global batches; an incomplete last one is dropped.

    `selfsup.data.sampling` has others, which go by class.

    Neither the number of processes nor that of workers enters, so a run may go on with other numbers of both, in the
    middle of an epoch, without losing or repeating an image.

    Args:
        length: images in the data set.
        batch_size: of the global batch.
        seed: of the run.

    Raises:
        ValueError: fewer than 2 images, a batch of less than 1 or of more than the data.
    """

    repeating = False  # whether an image may come several times in an epoch
    remark = ""  # what a user should know about the data and this sampling

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        if length < 2:
            raise ValueError(f"the data set has {length} image(s); contrastive learning needs at least 2")
        if batch_size < 1:
            raise ValueError(f"the batch size is {batch_size}; wanted at least 1")
        if batch_size > length:
            raise ValueError(
                f"the batch size {batch_size} is larger than the data set, {length} images; "
                f"lower it to {length} or less, or add data"
            )
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = length // batch_size
        self._order: tuple[int, Tensor, Tensor | None] | None = None  # of the epoch asked for last

    def batch(self, epoch: int, number: int) -> Tensor:
        """(batch_size,) int64 positions in the data set of global batch `number` of `epoch`."""
        return self.key(epoch, number).rows

    def key(self, epoch: int, number: int) -> Key:
        """The same positions, with how often each has come before in the epoch, where images come several times.

        That is counted over the global batches, so it too is the same for any number of processes and any start.
        """
        if not 0 <= number < self.steps_per_epoch:
            raise ValueError(f"batch {number} of epoch {epoch}: an epoch has {self.steps_per_epoch} batches")
        if self._order is None or self._order[0] != epoch:
            rows = self.draw(epoch)
            self._order = (epoch, rows, occurrences(rows) if self.repeating else None)
        _, rows, draws = self._order
        part = slice(number * self.batch_size, (number + 1) * self.batch_size)
        return Key(epoch, rows[part], None if draws is None else draws[part])

    def draw(self, epoch: int) -> Tensor:
        """Positions in the data set, the epoch's batches one after the other."""
        return randomness.permutation(self.seed, Stream.ORDER, self.length, epoch)

    def use(self, labels: Tensor | None) -> None:
        """Form batches from these (N,) labels from now on, where labels play a part; None: from those of the data."""


def occurrences(values: Tensor) -> Tensor:
    """(n,) int64 -> (n,) int64: how often each value stands before in the row."""
    ordered, where = values.sort(stable=True)
    place = torch.arange(len(values)) - torch.searchsorted(ordered, ordered)  # 0, 1, .. within each run of equal values
    return torch.empty_like(values).index_copy_(0, where, place)
