"""A first-in-first-out memory of features."""

import torch
from torch import Tensor, nn

from selfsup.memory.saved import Saved
from selfsup.randomness import Stream, uniform

_CHUNK = 4096  # rows drawn at once: the counter-based generator works in int64 and takes several times the room


class FeatureQueue(nn.Module):
    """The last `size` features pushed, with the data set positions of their images (He et al. 2020, section 3.2).

    Until it has been filled, the rest holds random unit rows that belong to no image, as in the published code.

    Buffers:
        features: (K, D) float32 unit rows.
        indices: (K,) int64, -1 where the row belongs to no image.
        labels: (K,) int64 classes, -1 where there is none.
        pointer: () int64, the row to be written next, which is the oldest.
        filled: () int64, how many rows hold pushed features.
    """

    features: Tensor
    indices: Tensor
    labels: Tensor
    pointer: Tensor
    filled: Tensor

    def __init__(self, size: int, dim: int, seed: int) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"queue_size is {size}; give 1 or more")
        self.register_buffer("features", _random_unit_rows(size, dim, seed))
        self.register_buffer("indices", torch.full((size,), -1))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("pointer", torch.tensor(0))
        self.register_buffer("filled", torch.tensor(0))

    @torch.no_grad()
    def push(self, features: Tensor, indices: Tensor, labels: Tensor) -> None:
        """Write (n, D) features, (n,) indices and (n,) labels over the oldest rows; of more than K the last K stay."""
        size, count = len(self.features), len(features)
        kept = min(size, count)
        rows = torch.arange(count - kept, count, device=self.pointer.device)
        rows = (self.pointer + rows) % size  # (kept,), all different
        self.features.index_copy_(0, rows, features[count - kept :].to(self.features.dtype))
        self.indices.index_copy_(0, rows, indices[count - kept :])
        self.labels.index_copy_(0, rows, labels[count - kept :])
        self.pointer.add_(count).remainder_(size)
        self.filled.add_(count).clamp_(max=size)

    def check_saved(self, saved: Saved) -> None:
        """See `selfsup.memory.saved.Checked`."""
        size = len(self.features)
        saved.require("pointer", 0, size - 1, "a row of the queue")
        saved.require("filled", 0, size, "a number of its rows")
        pointer, filled = int(saved["pointer"]), int(saved["filled"])
        if filled < size and pointer != filled:
            name = saved.prefix
            raise ValueError(f"{name}pointer holds {pointer} where {name}filled holds {filled}; wanted the same")
        saved.require("indices", -1, saved.limits.images - 1, "an image of the data, or -1 for none")
        saved.require("labels", -1, saved.limits.classes - 1, "a class of the data, or -1 for none")


def _random_unit_rows(size: int, dim: int, seed: int) -> Tensor:
    """(size, dim) float32 rows, uniform on the sphere; the same for every process and every device."""
    parts = []
    for rows in torch.arange(size).split(_CHUNK):
        u = uniform(seed, Stream.QUEUE, rows, 2 * dim)  # (b, 2 D)
        # Box and Muller 1958; 1 - u lies in (0, 1].
        normal = (1 - u[:, :dim]).log().mul(-2).sqrt() * (2 * torch.pi * u[:, dim:]).cos()
        parts.append(nn.functional.normalize(normal).float())
    return torch.cat(parts)
