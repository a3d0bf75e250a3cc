"""A memory of one feature for every image of the data set."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsup.losses.contrastive import full
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
        self.register_buffer("features", _random_rows(num_images, dim, seed, dtype))

    def rows(self, indices: Tensor) -> Tensor:
        """(...,) int64 positions in the data set -> (..., D) rows in float32 or better."""
        return full(self.features[indices])

    @torch.no_grad()
    def update(self, indices: Tensor, features: Tensor, momentum: float, repeats: int = 1) -> None:
        """M[y] <- norm(m M[y] + (1 - m) x) for each pair (y, x) in their order.

        Args:
            indices: (N,) int64 positions in the data set.
            features: (N, D).
            momentum: m, the share of the old row.
            repeats: how often an index may occur; each occurrence starts from what the one before has left, and further
                ones have no effect. It is not counted here, because that would be to wait for the device.
        """
        order = indices.argsort(stable=True)
        y, x = indices[order], full(features[order])
        # Where the run of equal indices that a place belongs to begins, and where it has ended.
        first, end = torch.searchsorted(y, y), torch.searchsorted(y, y, right=True)  # (N,)
        rows = self.rows(y).to(x.dtype)  # (N, D), equal within a run, and kept so
        for occurrence in range(repeats):
            place = first + occurrence
            moved = F.normalize(momentum * rows + (1 - momentum) * x[place.clamp(max=len(y) - 1)], dim=1)
            rows = torch.where((place < end)[:, None], moved, rows)
        # Rows that are written several times are written with the same values.
        self.features.index_copy_(0, y, rows.to(self.features.dtype))


def _random_rows(num_images: int, dim: int, seed: int, dtype: torch.dtype) -> Tensor:
    """(num_images, dim) rows; the same for every process and every device."""
    rows = torch.empty(num_images, dim, dtype=dtype)
    bound = (3 / dim) ** 0.5
    for part in torch.arange(num_images).split(_CHUNK):
        rows[part[0] : part[-1] + 1] = (2 * uniform(seed, Stream.BANK, part, dim) - 1) * bound
    return rows
