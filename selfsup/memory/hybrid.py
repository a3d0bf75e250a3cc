"""SpCL's memory: centroids of labelled classes, and every unlabelled image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HybridMemory(nn.Module):
    """One unit row per labelled class and per unlabelled image, and the cluster of each (Ge et al. 2020, section 3.2).

    Buffers:
        features: (L, D) float32 unit rows, classes first; 0 until `initialise`.
        labels: (L,) int64 in [0, L): rows of one label are one class of the loss. At first each is its own.
        initialised: () bool.
    """

    features: Tensor
    labels: Tensor
    initialised: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.zeros(size, dim))
        self.register_buffer("labels", torch.arange(size))
        self.register_buffer("initialised", torch.tensor(False))

    @torch.no_grad()
    def initialise(self, features: Tensor, rows: Tensor) -> None:
        """Each row becomes the mean direction of its images: (n, D) unit features, (n,) int64 rows they belong to."""
        # On the CPU, where sums have one order: all processes must begin with the same bits.
        sums = torch.zeros(self.features.shape, dtype=self.features.dtype)
        sums.index_add_(0, rows.cpu(), features.to(sums))
        self.features.copy_(F.normalize(sums))
        self.initialised.fill_(True)

    @torch.no_grad()
    def update(self, features: Tensor, rows: Tensor, momentum: float, repeats: int) -> None:
        """row <- norm(momentum row + (1 - momentum) feature), for one feature after the other.

        A row that occurs several times moves several times, in the order of the batch; different rows move together,
        so that there are as many rounds as the most frequent row has features.

        Args:
            features: (n, D) unit rows.
            rows: (n,) int64.
            momentum: share of the old row.
            repeats: how often a row occurs at most, known without asking the device; n is always enough.
        """
        count = len(rows)
        numbers = torch.arange(count, device=rows.device)
        same = rows[:, None] == rows  # (n, n)
        earlier = same.tril(-1).sum(dim=1)  # (n,), features of the same row before this one
        first = torch.where(same, numbers, count).amin(dim=1)  # (n,), the first of them stands for the row
        turns = torch.full((repeats, count), count, device=rows.device)
        turns = turns.index_put((earlier, first), numbers)  # whose turn it is in each round, `count` for nobody's
        features = features.to(self.features.dtype)
        state = self.features[rows]
        for turn in turns:
            moved = F.normalize(momentum * state + (1 - momentum) * features[turn.clamp(max=count - 1)])
            state = torch.where((turn < count)[:, None], moved, state)
        self.features.index_copy_(0, rows, state[first])  # rows that occur again are written again, as the same


def memory_rows(labels: Tensor) -> tuple[Tensor, int]:
    """Memory row of each image: first one for each class that has images, then one for each image without a label.

    Args:
        labels: (num_images,) int64, -1 where there is none.

    Returns:
        (num_images,) int64 rows, and the number of classes.
    """
    alone = labels < 0
    classes, numbers = labels[~alone].unique(return_inverse=True)
    rows = len(classes) + alone.cumsum(0) - 1
    rows[~alone] = numbers
    return rows, len(classes)
