"""Tensors of which each process holds a part: weights, gradients and optimiser state of a sharded encoder."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from selfsup import distributed
from selfsup.devices.double import back, to_double

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def is_part(tensor: Tensor) -> "TypeGuard[DTensor]":
    """Whether a tensor is divided. torch's module for them takes a second to import; without it there are none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local_tensors(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This process's parts, which share memory with the tensors; of whole tensors the tensors themselves."""
    return [tensor.to_local() if is_part(tensor) else tensor for tensor in tensors]


def full_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """With all parts of those that are divided, on the CPU, in the first process; the others keep parts.

    Collective where there are any.
    """
    return {name: _together(tensor) if is_part(tensor) else tensor for name, tensor in tensors.items()}


def _together(tensor: "DTensor") -> Tensor:
    together: Tensor = tensor.full_tensor().detach()
    return together.cpu() if distributed.rank() == 0 else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every process has, as `like` is: divided, or just as it is."""
    if not is_part(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """(P,) Euclidean norm of each tensor, over all its parts; collective where there are any parts."""
    found = torch._foreach_norm(local_tensors(tensors))
    divided = [norm for norm, tensor in zip(found, tensors, strict=True) if is_part(tensor)]
    if not divided:
        return torch.stack(found)
    # Squares in double precision: those of large and of small norms are none in single.
    joined = back(distributed.sum_over_processes(to_double(torch.stack(divided)).square()).sqrt(), like=divided[0])
    whole = iter(joined.unbind())
    return torch.stack([next(whole) if is_part(t) else norm for norm, t in zip(found, tensors, strict=True)])


def clip_grad_norm_(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """As torch's, over all parts of the gradients; the same in all processes. Collective."""
    gradients: list[Tensor] = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = get_total_norm([norms(gradients)])
    torch._foreach_mul_(local_tensors(gradients), (max_norm / (norm + 1e-6)).clamp(max=1.0))
    return norm
