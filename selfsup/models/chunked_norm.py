"""Batch norm when a batch goes through a network in chunks: its running statistics, and statistics that stay fixed."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from selfsup.distributed import mean_over_processes
from selfsup.models.domain_norm import DomainBatchNorm
from selfsup.models.norm import GroupBatchNorm, SplitBatchNorm, is_synchronised

Statistics = tuple[Tensor, Tensor]  # mean and biased variance, (parts, C) each
Collected = dict[_BatchNorm, list[Statistics]]  # of every chunk
Fixed = dict[_BatchNorm, Statistics]


def norms_in_training(module: nn.Module) -> list[_BatchNorm]:
    """The batch norms that use, and are to remember, the statistics of batches."""
    return [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.training]


class OneUpdate:
    """Makes one update of the running statistics of what several chunks would do: the mean of their updates.

    The update of each chunk starts from the statistics before the first one. `num_batches_tracked` counts all chunks
    as one batch.

    Args:
        norms: may include some that the chunks do not pass through, whose statistics stay to the last bit.
    """

    def __init__(self, norms: list[_BatchNorm]) -> None:
        buffers = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        self.statistics = [buffer for buffer in buffers if buffer.is_floating_point()]
        self.buffers = self.statistics + [buffer for buffer in buffers if not buffer.is_floating_point()]
        self.before = [buffer.clone() for buffer in self.buffers]
        self.after: list[Tensor] = []
        self.chunks = 0

    def chunk_done(self) -> None:
        """To be called after each chunk."""
        self.chunks += 1
        if self.chunks == 1:
            self.after = [buffer.clone() for buffer in self.buffers]
        elif self.statistics:
            # As an interpolation: equal statistics then stay equal to the last bit.
            torch._foreach_lerp_(self.after[: len(self.statistics)], self.statistics, 1 / self.chunks)
        self.put_back()

    def put_back(self) -> None:
        """Undo the updates since the last call."""
        _copy(self.buffers, self.before)

    def finish(self) -> None:
        _copy(self.buffers, self.after)


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, sources)


def _parts(norm: _BatchNorm, count: int) -> list[tuple[slice, str]]:
    """Which of `count` rows are normalised together, and what the names of their scale and shift begin with."""
    if isinstance(norm, GroupBatchNorm):
        size = count // norm.groups
        return [(slice(first, first + size), "") for first in range(0, count, size)]
    if isinstance(norm, SplitBatchNorm):
        return [(slice(part, None, norm.splits), "") for part in range(norm.splits)]
    if isinstance(norm, DomainBatchNorm):
        return [(slice(0, None, 2), "source_"), (slice(1, None, 2), "")]
    return [(slice(None), "")]


@contextmanager
def collecting(norms: list[_BatchNorm]) -> Iterator[Collected]:
    """Note the statistics of every batch that comes to one of `norms`, of each of its parts."""
    found: Collected = {}

    def note(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, _BatchNorm)
        x = inputs[0].detach()
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        axes = [0, *range(2, x.ndim)]
        parts = [torch.var_mean(x[rows], axes, correction=0) for rows, _ in _parts(norm, len(x))]
        variances, means = zip(*parts, strict=True)
        found.setdefault(norm, []).append((torch.stack(means), torch.stack(variances)))

    handles = [norm.register_forward_pre_hook(note) for norm in norms]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def pooled(found: Collected) -> Fixed:
    """The statistics of all chunks as of one batch; where batch norm is over all processes, of all processes' chunks.

    The mean of the means, and the mean of the variances plus the variance of the means.
    """
    fixed: Fixed = {}
    for norm, chunks in found.items():
        means, variances = (torch.stack(parts) for parts in zip(*chunks, strict=True))  # (chunks, parts, C)
        mean = means.mean(dim=0)
        if is_synchronised(norm):
            mean = mean_over_processes(mean)
        variance = (variances + (means - mean).square()).mean(dim=0)
        fixed[norm] = (mean, mean_over_processes(variance) if is_synchronised(norm) else variance)
    return fixed


@contextmanager
def with_fixed(fixed: Fixed) -> Iterator[None]:
    """Normalise by these constants and not by the batch; running statistics stay as they are."""
    for norm, statistics in fixed.items():
        norm.forward = partial(_normalise, norm, statistics)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for norm in fixed:
            del norm.forward


def _normalise(norm: _BatchNorm, statistics: Statistics, x: Tensor) -> Tensor:
    def normed(rows: slice, prefix: str, mean: Tensor, variance: Tensor) -> Tensor:
        weight, bias = getattr(norm, f"{prefix}weight"), getattr(norm, f"{prefix}bias")
        return F.batch_norm(x[rows], mean, variance, weight, bias, training=False, eps=norm.eps)

    parts = [(*part, *own) for part, *own in zip(_parts(norm, len(x)), *statistics, strict=True)]
    if len(parts) == 1:
        return normed(*parts[0])
    output = torch.empty_like(x)  # also in its layout
    for part in parts:
        output[part[0]] = normed(*part)
    return output
