"""Decoded images once for all processes of a machine: each decodes a part, into memory that they share."""

import math
import mmap
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfsup import distributed
from selfsup.data.base import Source
from selfsup.data.squeezed import squeeze, squeeze_into

_MEMORY = Path("/dev/shm")
_SPARE = 64 << 20  # bytes that are left free there, for the batches of workers


def processes_here() -> int:
    """How many processes of the run are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def shares_memory() -> bool:
    """Whether several processes of this machine have joined one group."""
    count = processes_here()
    return distributed.is_distributed() and 1 < count <= distributed.world_size() and os.name == "posix"


def squeezed_once(source: Source, canvas: int) -> tuple[Tensor, Tensor, dict[int, str]]:
    """All images of a source as `squeeze` makes them. All processes must call it, of the same source.

    The memory is a file in /dev/shm or, where that has no room, in the folder of temporary files. It loses its name as
    soon as all have opened it, so that nothing is left of processes that are killed.

    Raises:
        ValueError: a process failed; all of them raise what went wrong in the first of those.
    """
    if not shares_memory():
        return squeeze(source, torch.arange(len(source)), canvas)
    own, count = int(os.environ["LOCAL_RANK"]), processes_here()
    first = distributed.rank() - own  # of this machine
    shape = (len(source), source.channels, canvas, canvas)
    pixels = math.prod(shape)
    begin = -(-pixels // 8) * 8  # of the sizes
    path = Path(_agreed(lambda: str(_make(begin + 16 * len(source))) if own == 0 else "")[first])
    memory: list[np.ndarray] = []
    try:
        _agreed(lambda: memory.append(_opened(path)))
    finally:
        if own == 0:
            path.unlink()
    images = torch.from_numpy(memory[0][:pixels].reshape(shape))
    sizes = torch.from_numpy(memory[0][begin:].view(np.int64).reshape(-1, 2))
    part = slice(own * len(source) // count, (own + 1) * len(source) // count)
    rows = torch.arange(len(source))[part]
    found = _agreed(lambda: squeeze_into(images[part], sizes[part], source, rows, canvas))
    unreadable = {int(row): str(why) for met in found[first : first + count] for row, why in met.items()}
    return images, sizes, dict(sorted(unreadable.items()))


def _agreed(act: Any) -> list[Any]:
    """What `act` gives in each process, by rank; where one fails all do, and none waits for it."""
    value, failure = None, None
    try:
        value = act()
    except Exception as error:
        failure = error
    parts = distributed.gather_json({"value": value, "failed": str(failure) if failure else ""})
    if failure is not None:
        raise failure
    if failed := [part["failed"] for part in parts if part["failed"]]:
        raise ValueError(failed[0])
    return [part["value"] for part in parts]


def _make(size: int) -> Path:
    """A file of zeros of so many bytes, whose room is taken."""
    memory = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > size + _SPARE
    handle, name = tempfile.mkstemp(prefix="selfsup-", dir=_MEMORY if memory else None)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, size)  # else a disk that is full would end whoever writes
        else:
            os.truncate(handle, size)
    except OSError as error:
        os.unlink(name)
        raise ValueError(
            f"there is no room for {size / 2**30:.1f} GiB of decoded images: neither in {_MEMORY} nor in "
            f"{tempfile.gettempdir()} ({error.strerror}); set TMPDIR to a folder that has it, or choose a smaller "
            "canvas"
        ) from error
    finally:
        os.close(handle)
    return Path(name)


def _opened(path: Path) -> np.ndarray:
    with open(path, "r+b") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0), np.uint8)
