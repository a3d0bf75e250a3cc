"""What N processes need to act as one: rank, differentiable gather, sums. Every function also works in one process."""

import atexit
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Alone:
    now = False  # this process computes something that the others know nothing of


@contextmanager
def alone() -> Iterator[None]:
    """Within, this process acts as if there were no others: nothing is gathered or summed, and nobody is waited for."""
    before, _Alone.now = _Alone.now, True
    try:
        yield
    finally:
        _Alone.now = before


def is_distributed() -> bool:
    """Whether more than one process takes part."""
    return not _Alone.now and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def launched() -> int:
    """Number of processes that a launcher started, whether or not they have joined yet."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rejoin(device: torch.device, timeout: timedelta) -> None:
    """Join the process group under keys of its own, where torch's launcher has started the processes again.

    Its store still holds the addresses of those that ended, and one that reads them waits for a connection to nobody
    (pytorch issues #135712 and #167288). On the first start the group is left to accelerate.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0" or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" or dist.is_initialized():
        return
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.PrefixStore(f"attempt_{attempt}", dist.TCPStore(host, port, launched(), False, timeout))
    backend = "nccl" if device.type == "cuda" else "gloo"
    own = int(os.environ["RANK"])
    dist.init_process_group(backend, store=store, rank=own, world_size=launched(), timeout=timeout)


def rank() -> int:
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    return dist.get_world_size() if is_distributed() else 1


def barrier() -> None:
    if is_distributed():
        dist.barrier()


def shut_down() -> None:
    """Leave the process group, so that the end of the program is quiet."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def end_program(code: int) -> None:
    """End a process that a launcher started as one of several, past Python's own end; does nothing in any other.

    Threads of gloo may outlive the process group, where DDP or FSDP still hold it, with tensors they are about to let
    go of. One that does so while Python takes itself apart aborts the process, and the launcher counts a run that is
    over and saved as failed (pytorch pull request #179291). What is registered to be done at the end is done.
    """
    if launched() == 1:
        return
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # the program may have been started without it
            stream.flush()
    os._exit(code)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:  # (B, ...) -> (R B, ...)
        ctx.rows = local.shape[0]
        return _all_gather(local)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # Every rank holds a part of the gradient of every row: sum them, keep the own rows.
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def _all_gather(local: Tensor) -> Tensor:
    local = local.contiguous()
    parts = [torch.empty_like(local) for _ in range(world_size())]
    dist.all_gather(parts, local)
    return torch.cat(parts)


def gather(local: Tensor) -> Tensor:
    """Rows of all processes in the order of ranks: (B, ...) -> (R B, ...), differentiable.

    The gradient of the gathered rows is summed over processes. With a loss that is the local mean over local rows and
    DDP's mean of gradients, the result is the single-process gradient, with no factor anywhere. Every process must
    hold the same number of rows.
    """
    if not is_distributed():
        return local
    return _Gather.apply(local) if local.requires_grad else _all_gather(local)


class _ScatterSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, of_batch: Tensor) -> Tensor:  # (R B, ...) -> (B, ...)
        own = of_batch.new_empty(len(of_batch) // world_size(), *of_batch.shape[1:])
        dist.reduce_scatter_tensor(own, of_batch.contiguous())
        return own

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _all_gather(gradient)


def scatter_sum(of_batch: Tensor) -> Tensor:
    """Sum over processes of rows of the global batch, of which each keeps its own: (R B, ...) -> (B, ...).

    The transpose of `gather`, and differentiable as it is.
    """
    if not is_distributed():
        return of_batch
    own: Tensor = _ScatterSum.apply(of_batch)
    return own


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient


def sum_over_processes(local: Tensor) -> Tensor:
    """Element-wise sum over processes, differentiable."""
    if not is_distributed():
        return local
    total: Tensor = _Sum.apply(local)
    return total


def mean_over_processes(local: Tensor) -> Tensor:
    """Element-wise mean over processes, differentiable."""
    return sum_over_processes(local) / world_size()


def from_first(value: Tensor) -> Tensor:
    """The first process's tensor in every process; all must hold one of the same shape and type. No gradient."""
    if not is_distributed():
        return value
    value = value.detach().clone()
    dist.broadcast(value, src=0)
    return value


def gather_json(value: Any, device: torch.device | None = None) -> list[Any]:
    """One JSON value from each process, by rank; nothing is pickled. It goes by `device`, or what the group goes by."""
    if not is_distributed():
        return [value]
    device = device or _device_of_group()
    content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)
    lengths = gather(torch.tensor([len(content)], device=device)).tolist()
    parts = gather_ragged(content).split(lengths)
    return [json.loads(bytes(part.tolist())) for part in parts]


def json_from_first(value: Any) -> Any:
    """The first process's JSON value in every process; nothing is pickled."""
    if not is_distributed():
        return value
    device = _device_of_group()
    content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)
    length = from_first(torch.tensor([len(content)], device=device))
    content = content if rank() == 0 else torch.zeros(int(length), dtype=torch.uint8, device=device)
    return json.loads(bytes(from_first(content).tolist()))


def _device_of_group() -> torch.device:
    on_gpu = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def gather_ragged(local: Tensor) -> Tensor:
    """Rows of all processes in the order of ranks, where their numbers differ; without gradient."""
    if not is_distributed():
        return local
    lengths = gather(torch.tensor([local.shape[0]], device=local.device)).tolist()
    padded = local.new_zeros(max(lengths), *local.shape[1:])
    padded[: local.shape[0]] = local
    parts = gather(padded.detach()).split(max(lengths))
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
