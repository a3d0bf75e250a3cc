"""Which images make up which batch: a pure function of the seed, the epoch and the batch's number."""

from torch import Tensor

from selfsup import randomness
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
        self._order: tuple[int, Tensor] | None = None  # of the epoch asked for last

    def batch(self, epoch: int, number: int) -> Tensor:
        """(batch_size,) int64 positions in the data set of global batch `number` of `epoch`."""
        if not 0 <= number < self.steps_per_epoch:
            raise ValueError(f"batch {number} of epoch {epoch}: an epoch has {self.steps_per_epoch} batches")
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self.draw(epoch))
        return self._order[1][number * self.batch_size : (number + 1) * self.batch_size]

    def draw(self, epoch: int) -> Tensor:
        """Positions in the data set, the epoch's batches one after the other."""
        return randomness.permutation(self.seed, Stream.ORDER, self.length, epoch)

    def use(self, labels: Tensor | None) -> None:
        """Form batches from these (N,) labels from now on, where labels play a part; None: from those of the data."""
