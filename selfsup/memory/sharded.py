"""Memories too large for one device: every process holds a part of the rows, and all compute as if each held all.

What goes between processes in a step are the batch's features, its row numbers and its scores, never the memory. What
is computed is what the unsharded memories compute, to rounding; what is saved is the whole memory in the order of its
rows, so that a run may go on with another number of processes.
"""

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from selfsup.distributed import gather, is_distributed, rank, scatter_sum, world_size

_CHUNK = 2**26  # numbers that are brought to one process, or taken from it, at a time


class ShardedRows(nn.Module):
    """(n, D) rows, of which this process holds those of the places [cuts[rank], cuts[rank + 1]).

    A row's place is its number, unless `arrange` has put the rows in another order.

    Buffers:
        features: (own rows, D) in `dtype`, by place.
        place_of_row: (n,) int64; empty where it is the row's number.
    """

    features: Tensor
    place_of_row: Tensor

    def __init__(self, size: int, dim: int, dtype: torch.dtype) -> None:
        super().__init__()
        if size < world_size():
            raise ValueError(f"a memory of {size} rows cannot be shared by {world_size()} processes; do not shard it")
        self.size, self.dim = size, dim
        self.cuts = [size * part // world_size() for part in range(world_size() + 1)]
        self.register_buffer("features", torch.zeros(self.own_count, dim, dtype=dtype))
        self.register_buffer("place_of_row", torch.empty(0, dtype=torch.int64), persistent=False)

    @property
    def first(self) -> int:
        """The first place of this process."""
        return self.cuts[rank()]

    @property
    def own_count(self) -> int:
        return self.cuts[rank() + 1] - self.first

    def own_places(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(...,) rows -> (...,) positions in `features`, and bool whether they are there; 0 where another has them."""
        places = rows if len(self.place_of_row) == 0 else self.place_of_row[rows]
        places = places - self.first
        mine = (places >= 0) & (places < self.own_count)
        return places.masked_fill(~mine, 0), mine

    def arrange(self, order: Tensor, cuts: list[int]) -> None:
        """From now on row order[p] has place p, and the parts are cut there; the features are to be `take`n anew.

        Args:
            order: (n,) int64, a permutation.
            cuts: processes + 1 places, from 0 to n.
        """
        self.cuts = cuts
        self.place_of_row = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        self.features = self.features.new_zeros(self.own_count, self.dim)

    def fetch(self, rows: Tensor) -> Tensor:
        """(B,) rows that this process asks for, as many as every other -> (B, D), without gradient. Collective."""
        places, mine = self.own_places(gather(rows))
        found = self.features.new_zeros(len(mine), self.dim)
        if self.own_count:
            found = torch.where(mine[:, None], self.features[places], found)
        return scatter_sum(found)

    def whole(self) -> Tensor | None:
        """All rows by number, (n, D) on the CPU, in the first process; None in the others. Collective."""
        whole = torch.empty(self.size, self.dim, dtype=self.features.dtype) if rank() == 0 else None
        for rows in self._chunks():
            places, mine = self.own_places(rows)
            part = self.features.new_zeros(len(rows), self.dim)
            if self.own_count:
                part = torch.where(mine[:, None], self.features[places], part)
            if is_distributed():
                dist.reduce(part, dst=0)  # one process gives what is not zero
            if whole is not None:
                whole[rows.cpu()] = part.cpu()
        return whole

    def take(self, whole: Tensor | None) -> None:
        """Hold this process's part of all rows, (n, D) by number, that the first process has; others give None.

        Collective.
        """
        for rows in self._chunks():
            if whole is not None:
                part = whole[rows.to(whole.device)].to(self.features)
            else:
                part = self.features.new_empty(len(rows), self.dim)
            if is_distributed():
                dist.broadcast(part, src=0)
            places, mine = self.own_places(rows)
            self.features[places[mine]] = part[mine]

    def restore(self, saved: dict[str, Tensor]) -> None:
        """Take this process's part of what `whole_state` gave: the tensors of this memory, by their names in it."""
        self.take(saved["features"] if rank() == 0 else None)

    def _chunks(self) -> Iterator[Tensor]:
        rows = max(1, _CHUNK // self.dim)
        device = self.features.device
        for first in range(0, self.size, rows):
            yield torch.arange(first, min(first + rows, self.size), device=device)


def sharded(module: nn.Module) -> dict[str, ShardedRows]:
    """The sharded memories in a module, by name."""
    return {name: part for name, part in module.named_modules() if isinstance(part, ShardedRows)}


def keep_apart(module: nn.Module) -> None:
    """Have DistributedDataParallel leave what differs between processes alone, where it makes all else equal."""
    names = [f"{name}.{buffer}" for name, part in sharded(module).items() for buffer, _ in part.named_buffers()]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)


def log_sum_exp(local: Tensor) -> Tensor:
    """Log of the sum of exponentials over the parts of all processes, differentiable.

    Args:
        local: (N,) of this process's part, for each row of the global batch; -inf where the part is empty.

    Returns:
        (B,), of this process's rows.
    """
    largest = local.detach().clone()
    if is_distributed():
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    total = scatter_sum((local - largest).exp())  # (B,)
    return total.log() + own_rows(largest)


def largest_of_all(local: Tensor) -> Tensor:
    """(N,) of this process's part, without gradient -> (B,) largest over the parts, of this process's rows."""
    local = local.clone()
    if is_distributed():
        dist.all_reduce(local, op=dist.ReduceOp.MAX)
    return own_rows(local)


def own_rows(of_batch: Tensor) -> Tensor:
    """(N, ...) of the global batch -> (B, ...) of this process."""
    count = len(of_batch) // world_size()
    return of_batch[rank() * count : (rank() + 1) * count]
