"""Whether this machine has the memory that a run takes, before anything is decoded or trained."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch

from selfsup import distributed
from selfsup.data.free_memory import free_memory, total_memory
from selfsup.data.resident import decoded_bytes
from selfsup.data.sharing import processes_here
from selfsup.data.sources import Source
from selfsup.methods.base import Method
from selfsup.output import message
from selfsup.training.gradient_cache import possible_chunks
from selfsup.training.settings import Training
from selfsup.training.step_memory import StepMemory, Uncountable, free_for_steps

# A network makes of a batch at most so many times its bytes: 100 to 2,000 times in those that are shipped. Where that
# many fit, a step is not counted, which takes a second for a large network.
_AT_MOST = 10_000
GIB = 2**30
Refused = Literal["never", "above total", "above free"]


class Need(NamedTuple):
    """What a run takes of one memory, in bytes, by what for; and what there is of it."""

    where: str
    parts: dict[str, int]
    total: int
    free: int
    held: int = 0  # of the parts, what is there already

    @property
    def bytes(self) -> int:
        return sum(self.parts.values())


def check_memory(
    method: Method,
    training: Training,
    source: Source,
    canvas: int | None,
    shapes: Sequence[tuple[int, ...]],
    device: torch.device,
    refuses: Refused,
) -> None:
    """Refuse a run that takes more memory than there is, or than is free now; or say so.

    Costs nothing where there is plenty. Every process must call it.

    Args:
        method: as it was built, on the CPU.
        training: its precision is settled.
        source: the images, of which nothing is decoded.
        canvas: that they will be squeezed to.
        shapes: (C, H, W) of each view.
        device: of the run.
        refuses: what is refused, and not only said.

    Raises:
        ValueError: names what is needed, what there is, and what can be done.
    """
    memory = StepMemory(method, training, shapes, device)
    too_much = warning = ""
    if not _plenty(memory, decoded_bytes(source, canvas)):
        for need in needs(memory, decoded_bytes(source, canvas)):
            if need.bytes > need.total:
                too_much = too_much or told(need, memory)
            elif need.bytes - need.held > need.free:
                warning = warning or told(need, memory)
    found = distributed.gather_json([too_much, warning])
    too_much = next((text for text, _ in found if text), "")
    warning = next((text for _, text in found if text), "")
    if (too_much and refuses != "never") or (warning and refuses == "above free"):
        raise ValueError(f"{too_much or warning}\nor go on all the same: --no-check-memory")
    if (too_much or warning) and distributed.rank() == 0:
        message(too_much or warning)


def _plenty(memory: StepMemory, decoded: int) -> bool:
    rows = memory.training.batch_size // distributed.world_size()
    at_most = _AT_MOST * memory.views(rows) + 2 * memory.state + memory.trained + memory.beside
    if memory.device.type == "cuda":
        return at_most < torch.cuda.mem_get_info(memory.device)[0] and decoded + memory.state < free_memory()
    return at_most * processes_here() + decoded < free_memory()


def needs(memory: StepMemory, decoded: int) -> Iterator[Need]:
    """Of the device, and of the host, which are one where the run is on a CPU.

    Args:
        memory: of one process.
        decoded: bytes of decoded images on this machine.
    """
    device, training = memory.device, memory.training
    whole = training.batch_size // distributed.world_size()
    chunk = training.grad_cache_chunk
    rows = (possible_chunks(memory.method, whole) or [whole])[-1] if chunk == "auto" else chunk or whole
    step = {f"a step of {rows} images of each view at a time": memory.views_at_once(whole)}
    try:
        step = {what: taken + memory.embedding(rows) for what, taken in step.items()}
    except Uncountable as error:
        if distributed.rank() == 0:
            message(f"what a step takes of the memory cannot be counted: {error}")
    step |= {"weights, memories and the state of the optimizer": memory.state, "copies of these": memory.beside}
    images = {"decoded images": decoded}
    saved = {"what is being saved": memory.saved_from}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        yield Need("the device", step, total, free)
        yield Need("this machine", saved | images, total_memory(), free_memory())
        return
    parts = {what: taken * processes_here() for what, taken in step.items()}
    yield Need("this machine", parts | saved | images, total_memory(), free_memory(), memory.held * processes_here())


def told(need: Need, memory: StepMemory) -> str:
    """What is needed, for what, what there is, and what can be done about it."""
    parts = sorted(need.parts.items(), key=lambda part: -part[1])
    for_what = "; ".join(f"{what} {taken / GIB:.1f} GiB" for what, taken in parts if taken >= 0.05 * need.bytes)
    enough = need.bytes <= need.total
    there = f"{need.free / GIB:.1f} GiB are free now" if enough else f"there are {need.total / GIB:.1f} GiB"
    return (
        f"this run needs about {need.bytes / GIB:.1f} GiB of the memory of {need.where}, and {there}: {for_what}\n"
        f"{_remedy(parts[0][0], memory)}"
    )


def _remedy(most: str, memory: StepMemory) -> str:
    """What can be done where most of the memory is needed for this."""
    if most == "decoded images":
        return (
            "give a smaller --data.canvas, or --data.canvas None to read the images anew in every epoch, or have them "
            "mapped from the disk: selfsup pack"
        )
    if most.startswith("a step"):
        caching = "" if memory.training.grad_cache_chunk is not None else "--grad-cache-chunk auto, "
        return f"give {caching}a smaller --batch-size{_fitting(memory)}, or smaller views by --size"
    return "give a smaller memory of the method (its queue or bank), or a smaller encoder"


def _fitting(memory: StepMemory) -> str:
    """The largest batch that fits, in brackets."""
    try:
        rows = memory.largest_batch(free_for_steps(memory.device))
    except Uncountable:
        return ""
    return f" (about {rows * distributed.world_size():,} fit)" if rows else ""
