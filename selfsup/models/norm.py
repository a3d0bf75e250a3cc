"""Batch norm over parts of a batch and over all processes, with the state keys of the ordinary one."""

from typing import Literal, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm as _Synchronised
from torch.nn.modules.batchnorm import _BatchNorm

from selfsup.distributed import is_distributed, mean_over_processes, sum_over_processes, world_size

Kind = Literal["plain", "sync", "split", "groups"]
Network = TypeVar("Network", bound=nn.Module)


class AnyBatchNorm(_BatchNorm):
    """Batch norm of (N, C) and (N, C, H, W) alike."""

    synchronised = False  # whether statistics are those of all processes

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim not in (2, 4):
            raise ValueError(f"batch norm got an input of {input.ndim} dimensions; it takes (N, C) or (N, C, H, W)")

    def _count_batch(self) -> tuple[Tensor, Tensor, float]:
        """Running mean and variance and their momentum, for a batch that is counted with this."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        return self.running_mean, self.running_var, self.momentum


class SplitBatchNorm(AnyBatchNorm):
    """Batch norm over `splits` interleaved parts of the batch: sample n belongs to part n mod splits.

    What several GPUs with a batch norm each would do, on one (the CIFAR demo of He et al. 2020). Running statistics
    become the mean of the parts' updates; evaluation is ordinary. Input (N, C) or (N, C, H, W).
    """

    def __init__(self, num_features: int, splits: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.splits = splits

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        if len(input) % self.splits:
            raise ValueError(
                f"a batch of {len(input)} cannot be split into {self.splits} equal parts for batch norm; "
                f"use a batch size divisible by {self.splits}, or another number of splits"
            )
        running_mean, running_var, momentum = self._count_batch()
        mean, variance = running_mean.repeat(self.splits), running_var.repeat(self.splits)
        parts = input.reshape(len(input) // self.splits, self.splits * self.num_features, *input.shape[2:])
        output = F.batch_norm(
            parts,
            mean,
            variance,
            self.weight.repeat(self.splits),
            self.bias.repeat(self.splits),
            training=True,
            momentum=momentum,
            eps=self.eps,
        )
        running_mean.copy_(mean.view(self.splits, -1).mean(dim=0))
        running_var.copy_(variance.view(self.splits, -1).mean(dim=0))
        output = output.reshape(input.shape)
        if input.ndim == 4 and input.is_contiguous(memory_format=torch.channels_last):
            # The parts had to be formed in the other layout; the layers that follow want this one.
            output = output.contiguous(memory_format=torch.channels_last)
        return output


class GroupBatchNorm(AnyBatchNorm):
    """Batch norm over each of `groups` parts of the batch, of consecutive rows.

    What several GPUs with a batch norm each would do, and what several processes do where each has some of the groups:
    they hold consecutive rows of the global batch, so which rows share a group is the same for any number of processes
    that divides the groups. Running statistics become the mean of the groups' updates; evaluation is ordinary. Input
    (N, C) or (N, C, H, W).
    """

    def __init__(self, num_features: int, groups: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.groups = groups

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        if len(input) % self.groups:
            raise ValueError(
                f"a batch of {len(input)} cannot be divided into {self.groups} equal groups for batch norm; "
                f"use a batch size divisible by {self.groups}, or another number of groups"
            )
        running_mean, running_var, momentum = self._count_batch()
        means, variances = (buffer.repeat(self.groups, 1) for buffer in (running_mean, running_var))  # (groups, C)
        parts = zip(input.chunk(self.groups), means, variances, strict=True)
        outputs = [
            F.batch_norm(part, mean, variance, self.weight, self.bias, training=True, momentum=momentum, eps=self.eps)
            for part, mean, variance in parts
        ]
        running_mean.copy_(means.mean(dim=0))
        running_var.copy_(variances.mean(dim=0))
        return torch.cat(outputs) if self.groups > 1 else outputs[0]


class SyncBatchNorm(AnyBatchNorm):
    """Batch norm over the samples of all processes, on any device.

    Running variance is the unbiased one of the global batch.
    """

    synchronised = True

    def forward(self, input: Tensor) -> Tensor:
        if not (self.training and is_distributed()):
            return super().forward(input)
        self._check_input_dim(input)
        running_mean, running_var, momentum = self._count_batch()
        return over_processes(input, running_mean, running_var, self.weight, self.bias, momentum, self.eps)


def over_processes(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    momentum: float,
    eps: float,
) -> Tensor:
    """Batch norm in training over the samples of all processes, as `F.batch_norm` is over those of one.

    Not torch's own class, which DDP refuses on the CPU; but on an accelerator its kernels do the work. On the CPU, for
    which there are none, differentiable collectives sum the statistics.
    """
    if not is_distributed():
        return F.batch_norm(input, running_mean, running_var, weight, bias, training=True, momentum=momentum, eps=eps)
    if input.device.type != "cpu":
        output: Tensor = _Synchronised.apply(
            input, weight, bias, running_mean, running_var, eps, momentum, dist.group.WORLD, world_size()
        )
        return output
    x = input.to(torch.promote_types(input.dtype, torch.float32))
    axes = [0, *range(2, x.ndim)]
    shape = [1, -1] + [1] * (x.ndim - 2)
    count = sum_over_processes(x.new_tensor(x.numel() // x.shape[1]))
    mean = sum_over_processes(x.sum(axes)) / count  # (C,)
    centered = x - mean.view(shape)
    variance = sum_over_processes(centered.square().sum(axes)) / count
    normed = centered * ((variance + eps).rsqrt() * weight).view(shape) + bias.view(shape)
    with torch.no_grad():
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * (count / (count - 1)), momentum)
    return normed.to(input.dtype)


def convert(module: Network, kind: Kind, splits: int = 8) -> Network:
    """Replace every BatchNorm1d and BatchNorm2d, or what this made of it, in `module` by one with the same tensors.

    Args:
        kind: "plain" leaves all as it is, "sync" takes `SyncBatchNorm`, "split" takes `SplitBatchNorm`, "groups" takes
            `GroupBatchNorm`.
        splits: parts of this process's batch, for "split" and "groups".

    Returns:
        `module`, or its replacement where it is a batch norm itself.

    Raises:
        ValueError: for a batch norm of another class, which may do more than normalise.
    """
    if kind == "plain":
        return module
    if isinstance(module, _BatchNorm):
        return _replacement(module, kind, splits)  # type: ignore[return-value]  # a batch norm too
    for name, child in module.named_children():
        setattr(module, name, convert(child, kind, splits))
    return module


def _replacement(old: _BatchNorm, kind: Kind, splits: int) -> nn.Module:
    if type(old) not in (nn.BatchNorm1d, nn.BatchNorm2d, SplitBatchNorm, GroupBatchNorm, SyncBatchNorm):
        raise ValueError(
            f'{type(old).__name__} cannot be converted to batch_norm="{kind}", only BatchNorm1d and BatchNorm2d can; '
            f'use batch_norm="plain"'
        )
    new: _BatchNorm
    if kind == "sync":
        new = SyncBatchNorm(old.num_features, eps=old.eps, momentum=old.momentum)
    elif kind == "split":
        new = SplitBatchNorm(old.num_features, splits, eps=old.eps, momentum=old.momentum)
    else:
        new = GroupBatchNorm(old.num_features, splits, eps=old.eps, momentum=old.momentum)
    new.weight, new.bias = old.weight, old.bias
    new.running_mean, new.running_var = old.running_mean, old.running_var
    new.num_batches_tracked = old.num_batches_tracked
    return new.train(old.training)


def is_synchronised(norm: _BatchNorm) -> bool:
    """Whether its statistics are those of all processes, where there are several."""
    return isinstance(norm, nn.SyncBatchNorm) or (isinstance(norm, AnyBatchNorm) and norm.synchronised)


def depends_on_processes(module: nn.Module) -> bool:
    """Whether a batch norm is over each process's own images: another number of processes then computes other things.

    One that is in evaluation mode already, since its statistics are to stay, does not count.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    return any(not is_synchronised(norm) and not isinstance(norm, GroupBatchNorm) for norm in norms)


@torch.no_grad()
def average_running_statistics(module: nn.Module) -> None:
    """Make the running statistics of all local batch norms the mean over processes, in place.

    Without it each process would keep those of its own part of the batch, and a checkpoint those of one process. The
    running statistics are linear in the batches' statistics, so averaging at every step loses nothing. Batch norm over
    all processes has equal statistics everywhere already, and those of a frozen encoder must not change.
    """
    if not is_distributed():
        return
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    norms = [m for m in norms if not is_synchronised(m)]
    # By their names: a norm may keep several sets of them, as that of two domains does.
    named = [(name, buffer) for norm in norms for name, buffer in norm.named_buffers(recurse=False)]
    buffers = [buffer for name, buffer in named if name.endswith(("running_mean", "running_var"))]
    if buffers:
        flat = torch.cat([buffer.flatten() for buffer in buffers])  # one message for all of them
        parts = mean_over_processes(flat).split([buffer.numel() for buffer in buffers])
        for buffer, part in zip(buffers, parts, strict=True):
            buffer.copy_(part.view_as(buffer))
