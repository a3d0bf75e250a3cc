"""The largest chunk of gradient caching that fits: what `grad_cache_chunk` "auto" stands for.

On a CUDA device by trying: a copy of the method embeds so many images, back-propagates and takes a step of the
optimizer, and where the memory runs out, fewer are tried. Where trying would end the program, or leave other processes
waiting, what a step takes is counted beforehand (`step_memory`), and compared with what is free.
"""

import copy
import gc
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from accelerate.utils.memory import should_reduce_batch_size

from selfsup import distributed
from selfsup.devices.moving import image_format
from selfsup.methods.base import Method
from selfsup.output import message
from selfsup.training.gradient_cache import check_chunks, possible_chunks
from selfsup.training.settings import Training
from selfsup.training.sharding import sharding_requested
from selfsup.training.step_memory import StepMemory, Uncountable, embed_and_back, free_for_steps, has_keys

T = TypeVar("T", bound=Training)
SPARE = 0.1  # share of a device's memory that is left free where a step is tried


def chosen(method: Method, training: T, shapes: Sequence[tuple[int, ...]], device: torch.device) -> T:
    """The settings with the chunk that fits in place of "auto"; None where the whole batch does.

    Every process must call it, when the images are where they will be. All take the smallest choice of any.

    Args:
        method: as it was built, on the CPU; nothing of it changes.
        training: its precision is settled.
        shapes: (C, H, W) of each view.
        device: of the run.

    Raises:
        ValueError: not even the smallest chunk fits, or the method cannot be divided.
    """
    if training.grad_cache_chunk != "auto":
        return training
    check_chunks(method, training)
    whole = training.batch_size // distributed.world_size()
    sizes = [whole, *possible_chunks(method, whole)]
    memory = StepMemory(method, training, shapes, device)
    if by_trying(device, training):
        found = next((rows for rows in sizes if _succeeds(memory, rows, whole)), 0)
    else:
        most = _countable(memory, whole)
        found = next((rows for rows in sizes if rows <= most), 0)
    agreed: int = min(distributed.gather_json(found))
    if not agreed:
        raise ValueError(
            f"not even chunks of {sizes[-1]} images fit into the memory that is free; give smaller views (--size), "
            "a smaller encoder, a smaller --batch-size, or a number to try: --grad-cache-chunk N"
        )
    if distributed.rank() == 0:
        message(_told(agreed, whole, training))
    if agreed == whole:
        return replace(training, grad_cache_chunk=None, grad_cache_batch_norm="chunk")
    return replace(training, grad_cache_chunk=agreed)


def by_trying(device: torch.device, training: Training) -> bool:
    """Whether memory that runs out can be caught, and no other process waits for this one meanwhile."""
    return device.type == "cuda" and not sharding_requested(training)


def _told(chunk: int, whole: int, training: Training) -> str:
    if chunk == whole:
        return f"gradient caching: not needed, {whole} images at a time fit into memory"
    over = "over each chunk" if training.grad_cache_batch_norm == "chunk" else "by constants of the whole batch"
    return (
        f"gradient caching: chunks of {chunk} images, of {whole} in a process; batch norm is {over}; the run keeps it"
    )


def _countable(memory: StepMemory, whole: int) -> int:
    """How many images of each view can be embedded at a time in the memory that is free, less the margin."""
    try:
        return memory.line.rows(memory.room(free_for_steps(memory.device)) - memory.views_at_once(whole))
    except Uncountable as error:
        raise ValueError(
            f"grad_cache_chunk auto cannot find out what this encoder takes ({error}); give a number, such as 64"
        ) from error


def _succeeds(memory: StepMemory, rows: int, whole: int) -> bool:
    """Whether a step of so many images at a time ends before the memory does."""
    try:
        _rehearse(memory, rows, whole)
        return True
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)):
            raise
        return False
    finally:
        gc.collect()
        if memory.device.type == "cuda":
            torch.cuda.empty_cache()


def _left_free(memory: StepMemory, whole: int) -> int:
    """Bytes of what a run holds beside a step that is tried: copies, other views; and what is spared, on a GPU."""
    other_views = memory.views_at_once(whole) - memory.views(whole)
    on_gpu = memory.device.type == "cuda"
    spare = SPARE * torch.cuda.get_device_properties(memory.device).total_memory if on_gpu else 0
    return memory.beside + other_views + int(spare)


def _rehearse(memory: StepMemory, rows: int, whole: int) -> None:
    """Two steps of a copy on images of noise, without the loss; it is gone afterwards, and so is all it took."""
    training, device = memory.training, memory.device
    on_gpu = device.type == "cuda"
    with distributed.alone(), torch.random.fork_rng([device] if on_gpu else []):
        method = copy.deepcopy(memory.method).to(device).to(memory_format=image_format(device)).train()
        optimizer = training.optimizer.build(method.named_parameters(), training.batch_size, method.rates())
        left_free = torch.empty(_left_free(memory, whole), dtype=torch.uint8, device=device)
        views = [torch.randn(whole, *shape, device=device) for shape in memory.shapes]
        parts = [view[:rows].contiguous(memory_format=image_format(device)) for view in views]
        for _ in range(2):
            embed_and_back(
                lambda: method.embedded(method.embed, method.queries(parts)),
                has_keys(method),
                training.precision,
                device,
            )
            optimizer.step()
            optimizer.zero_grad()
        del left_free
