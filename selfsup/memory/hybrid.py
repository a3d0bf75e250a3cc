"""SpCL's memory: centroids of labelled classes, and every unlabelled image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from selfsup.distributed import gather, rank, scatter_sum, world_size
from selfsup.losses.cluster import bounded_nce, class_logits, cluster_nce
from selfsup.losses.contrastive import at_least_float32
from selfsup.memory.bank import move_rows
from selfsup.memory.saved import Saved
from selfsup.memory.sharded import ShardedRows, largest_of_all, log_sum_exp

_SCORES = 2**26  # scores of embeddings against sharded rows that are alive at a time


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
        self.features.copy_(mean_directions(features, rows, self.features))
        self.initialised.fill_(True)

    def fetch(self, rows: Tensor) -> Tensor:
        """(B,) int64 -> (B, D)."""
        return self.features[rows]

    def whole(self) -> Tensor | None:
        """All rows, (L, D)."""
        return self.features

    @torch.no_grad()
    def relabel(self, labels: Tensor) -> None:
        """Write (L,) labels."""
        self.labels.copy_(labels)

    def loss(self, embeddings: Tensor, rows: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """`cluster_nce` of (B, D) embeddings of the memory's rows (B,): losses (B,) and accuracy ()."""
        return cluster_nce(embeddings, self.features, self.labels, self.labels[rows], temperature)

    @torch.no_grad()
    def update(self, features: Tensor, rows: Tensor, momentum: float, repeats: int) -> None:
        """`move_rows` by (n, D) unit features of the rows (n,)."""
        move_rows(self.features, rows, features, momentum, repeats)

    def check_saved(self, saved: Saved) -> None:
        """See `selfsup.memory.saved.Checked`."""
        check_clusters(saved)


class ShardedHybridMemory(ShardedRows):
    """A `HybridMemory` whose rows are shared among the processes by cluster, equal to it to rounding.

    A cluster lies in one process, so that its logits are formed there. The shares are as equal as whole clusters allow.
    Every method is collective; the batch is this process's part, except for `update`.

    Buffers:
        features: (own rows, D) float32 unit rows, cluster after cluster.
        labels, initialised: as HybridMemory's, of all rows.
    """

    labels: Tensor
    initialised: Tensor
    own_classes: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__(size, dim, torch.float32)
        self.register_buffer("labels", torch.arange(size))
        self.register_buffer("initialised", torch.tensor(False))
        # Which of the own clusters each own row belongs to: follows from the labels.
        self.register_buffer("own_classes", torch.arange(self.own_count), persistent=False)

    @torch.no_grad()
    def initialise(self, features: Tensor, rows: Tensor) -> None:
        """As `HybridMemory.initialise`; every process gives the same."""
        empty = self.features.new_empty(self.size, self.dim, device="meta")
        self.take(mean_directions(features, rows, empty) if rank() == 0 else None)
        self.initialised.fill_(True)

    @torch.no_grad()
    def relabel(self, labels: Tensor) -> None:
        """Write (L,) labels; the rows move to where their clusters are now."""
        whole = self.whole()
        self.labels.copy_(labels)
        self._arrange()
        self.take(whole)

    def check_saved(self, saved: Saved) -> None:
        """See `selfsup.memory.saved.Checked`."""
        check_clusters(saved)

    def restore(self, saved: dict[str, Tensor]) -> None:
        self.labels.copy_(saved["labels"])
        self._arrange()
        super().restore(saved)

    def _arrange(self) -> None:
        order = self.labels.argsort(stable=True)
        ordered = self.labels[order]
        ideal = torch.arange(1, world_size(), device=order.device) * self.size // world_size()
        # A part begins where the cluster does whose row would be its first.
        inner = torch.searchsorted(ordered, ordered[ideal]).tolist() if len(ideal) else []
        self.arrange(order, [0, *inner, self.size])
        own = ordered[self.first : self.first + self.own_count]
        self.own_classes = torch.searchsorted(own.unique(), own)

    def loss(self, embeddings: Tensor, rows: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """As `HybridMemory.loss`."""
        everyone = gather(at_least_float32(embeddings))  # (N, D)
        places, mine = self.own_places(gather(rows))  # (N,)
        if self.own_count:
            own, log_sum, best = self._scores(everyone, self.own_classes[places], mine, temperature)
        else:  # fewer clusters than processes; the others wait for this one in the backward pass too
            own = 0 * everyone.sum(dim=1)
            log_sum = own - torch.inf
            best = log_sum.detach()
        score = scatter_sum(own)  # (B,)
        return bounded_nce(score, log_sum_exp(log_sum)), (score > largest_of_all(best)).float().mean()

    def _scores(
        self, everyone: Tensor, targets: Tensor, mine: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, D) embeddings against the own clusters, some of them at a time.

        Args:
            targets: (N,) the own cluster that each belongs to, where `mine` (N,) says so.

        Returns:
            The score of that cluster, 0 where there is none; the log of the sum of exponentials; the highest score of
            the others, without gradient: (N,) each.
        """

        def tile(everyone: Tensor, first: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
            classes = self.own_classes[first:end] - self.own_classes[first]
            logits = class_logits(everyone, self.features[first:end], classes, temperature)  # (end - first, N)
            here = (targets - self.own_classes[first])[None]  # (1, N)
            inside = mine & (here >= 0) & (here <= classes[-1])
            here = here.masked_fill(~inside, 0)
            own = logits.gather(0, here)
            left_out = own.detach().masked_fill(inside, -torch.inf)
            best = logits.detach().scatter(0, here, left_out).amax(dim=0)
            return own.masked_fill(~inside, 0)[0], logits.logsumexp(dim=0), best

        rows = max(1, _SCORES // len(everyone))
        starts = torch.arange(0, self.own_count, rows, device=everyone.device)
        # A tile begins where a cluster does; one larger than a tile is a tile of its own.
        cuts = torch.searchsorted(self.own_classes, self.own_classes[starts]).unique().tolist()
        ends = [*cuts[1:], self.own_count]
        if len(cuts) == 1:
            return tile(everyone, 0, self.own_count)
        # The scores of a tile are formed again in the backward pass, so that those of one tile are alive at a time.
        tiles = [
            checkpoint(tile, everyone, first, end, use_reentrant=False, preserve_rng_state=False)
            for first, end in zip(cuts, ends, strict=True)
        ]
        own, log_sum, best = (torch.stack(part) for part in zip(*tiles, strict=True))
        return own.sum(dim=0), log_sum.logsumexp(dim=0), best.amax(dim=0)

    @torch.no_grad()
    def update(self, features: Tensor, rows: Tensor, momentum: float, repeats: int) -> None:
        """`move_rows` by (n, D) unit features of the rows (n,), of the global batch."""
        places, mine = self.own_places(rows)
        move_rows(self.features, places[mine], features[mine], momentum, repeats)


def check_clusters(saved: Saved) -> None:
    """Raise ValueError for clusters that the saved state of a hybrid memory cannot have."""
    saved.require("labels", 0, len(saved["labels"]) - 1, "one of as many clusters as there are rows")
    if saved.limits.steps and not saved["initialised"]:
        raise ValueError(
            f"{saved.prefix}initialised is false after {saved.limits.steps} steps; no cluster was ever found"
        )


def mean_directions(features: Tensor, rows: Tensor, like: Tensor) -> Tensor:
    """(L, D) unit rows of the size and type of `like`, each of the mean of its images' (n, D) features.

    On the CPU, where sums have one order: all processes must begin with the same bits.
    """
    sums = torch.zeros(like.shape, dtype=like.dtype)
    return F.normalize(sums.index_add_(0, rows.cpu(), features.to(sums)))


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
