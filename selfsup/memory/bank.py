"""A memory of one feature for every image of the data set."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsup.distributed import gather, scatter_sum
from selfsup.losses.contrastive import at_least_float32
from selfsup.losses.nce import sampled_scores, softmax_over_bank
from selfsup.losses.pairing import Pairing, Same
from selfsup.losses.tiles import log_sums
from selfsup.memory.sharded import ShardedRows, largest_of_all, log_sum_exp
from selfsup.randomness import Stream, uniform

_CHUNK = 4096  # rows drawn at once: the counter-based generator works in int64 and takes several times the room


class FeatureBank(nn.Module):
    """Row i is the moving average of the features of image i (Wu et al. 2018, section 3.2).

    It starts uniform in [-sqrt(3 / D), sqrt(3 / D)], as in the published code: the rows' norms are near 1, not 1. Rows
    may be stored in half precision; all arithmetic is in the precision of the features that come in, float32 or better.

    Buffers:
        features: (n, D) in `dtype`; of unit norm once written.
    """

    features: Tensor

    def __init__(self, num_images: int, dim: int, seed: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if num_images < 1 or dim < 1:
            raise ValueError(f"a bank of {num_images} images with {dim} dimensions is empty; give at least 1 of each")
        self.register_buffer("features", random_rows(0, num_images, dim, seed, dtype))

    def rows(self, indices: Tensor) -> Tensor:
        """(...,) int64 positions in the data set -> (..., D) rows in float32 or better."""
        return at_least_float32(self.features[indices])

    def scores(self, features: Tensor, rows: Tensor) -> Tensor:
        """Inner products of (B, D) features with `rows` (B, K) of the bank, others for each: (B, K)."""
        return sampled_scores(features, self.features, rows)

    def softmax(self, features: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """`softmax_over_bank` of (B, D) features over the temperature, of the images (B,): loss and accuracy."""
        return softmax_over_bank(features, self.features, indices)

    @torch.no_grad()
    def update(self, indices: Tensor, features: Tensor, momentum: float, repeats: int = 1) -> None:
        """`move_rows` of the bank."""
        move_rows(self.features, indices, features, momentum, repeats)


class ShardedBank(ShardedRows):
    """A `FeatureBank` whose rows are shared among the processes in blocks, equal to it to rounding.

    Every method is collective; the batch is this process's part, except for `update`.
    """

    def __init__(self, num_images: int, dim: int, seed: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(num_images, dim, dtype)
        self.features.copy_(random_rows(self.first, self.own_count, dim, seed, dtype))

    def rows(self, indices: Tensor) -> Tensor:
        """(B,) int64 positions in the data set -> (B, D) rows in float32 or better."""
        return at_least_float32(self.fetch(indices))

    def scores(self, features: Tensor, rows: Tensor) -> Tensor:
        """As `FeatureBank.scores`."""
        places, mine = self.own_places(gather(rows))  # (N, K)
        # Each process scores what it holds, and no more columns than its fullest row needs.
        width = int(mine.sum(dim=1).max())
        columns = mine.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
        found = sampled_scores(gather(at_least_float32(features)), self.features, places.gather(1, columns))
        found = found.masked_fill(~mine.gather(1, columns), 0)
        return scatter_sum(found.new_zeros(mine.shape).scatter(1, columns, found))

    def softmax(self, features: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """As `FeatureBank.softmax`."""
        everyone = gather(at_least_float32(features))  # (N, D)
        places, mine = self.own_places(gather(indices))  # (N,)
        own = (everyone * self.features[places]).sum(dim=1)  # (N,), right where the own image is held here
        positive = scatter_sum(own.masked_fill(~mine, 0))  # (B,)
        columns = torch.arange(len(self.features), device=places.device)
        pairing = Pairing(left_out=Same(places.masked_fill(~mine, -1), columns))
        others, figures = log_sums(everyone, self.features, pairing)  # (N,), of what is held here
        loss = torch.logaddexp(log_sum_exp(others), positive) - positive
        return loss.mean(), (positive > largest_of_all(figures.rival)).float().mean()

    @torch.no_grad()
    def update(self, indices: Tensor, features: Tensor, momentum: float, repeats: int = 1) -> None:
        """`move_rows` of the bank: (N,) indices and (N, D) features of the global batch."""
        places, mine = self.own_places(indices)
        move_rows(self.features, places[mine], features[mine], momentum, repeats)


def most_repeated(rows: Tensor) -> int:
    """How often the most frequent of (N,) int64 rows comes; waits for the device that they are on."""
    return int(rows.unique(return_counts=True)[1].max())


@torch.no_grad()
def move_rows(memory: Tensor, rows: Tensor, features: Tensor, momentum: float, repeats: int) -> None:
    """M[y] <- norm(m M[y] + (1 - m) x) for each pair (y, x) in their order, in place.

    Args:
        memory: M, (n, D) of any precision; all arithmetic is in float32 or better.
        rows: (N,) int64 in [0, n).
        features: (N, D).
        momentum: m, the share of the old row.
        repeats: how often a row may occur; each occurrence starts from what the one before has left, and further ones
            have no effect. It is not counted here, because that would be to wait for the device. The number of
            operations grows with it and with nothing else.
    """
    order = rows.argsort(stable=True)
    y, x = rows[order], at_least_float32(features[order])
    # Where the run of equal rows that a place belongs to begins, and where it has ended.
    first, end = torch.searchsorted(y, y), torch.searchsorted(y, y, right=True)  # (N,)
    state = at_least_float32(memory[y]).to(x.dtype)  # (N, D), equal within a run, and kept so
    for occurrence in range(repeats):
        place = first + occurrence
        moved = F.normalize(momentum * state + (1 - momentum) * x[place.clamp(max=len(y) - 1)], dim=1)
        state = torch.where((place < end)[:, None], moved, state)
    # Rows that are written several times are written with the same values.
    memory.index_copy_(0, y, state.to(memory.dtype))


def random_rows(first: int, count: int, dim: int, seed: int, dtype: torch.dtype) -> Tensor:
    """(count, dim) rows from number `first` on; the same for every process and every device."""
    rows = torch.empty(count, dim, dtype=dtype)
    bound = (3 / dim) ** 0.5
    for part in torch.arange(count).split(_CHUNK):
        rows[part[0] : part[-1] + 1] = (2 * uniform(seed, Stream.BANK, first + part, dim) - 1) * bound
    return rows
