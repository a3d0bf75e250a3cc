"""Memory that tensors on a CPU give back stays with the process while it computes, to be used again.

glibc asks the system for every block of more than 32 MB, such as the activations of a large batch, and hands it back
when it is freed. The next one comes as pages of zeros, one fault for each 4 KB: a tenth to a fifth of a training step.
"""

import ctypes
import functools
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from selfsup import distributed

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # as malloc.h numbers them
_MB = 2**20
# Nothing is asked for block by block, nothing is handed back.
_KEPT = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
# What glibc comes to by itself, once a block of 32 MB was freed.
_USUAL = {_MMAP_MAX: 65_536, _MMAP_THRESHOLD: 32 * _MB, _TRIM_THRESHOLD: 64 * _MB}
_OWN_CHOICE = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")

_within = 0


@contextmanager
def reused(device: torch.device) -> Iterator[None]:
    """Within it, what is freed is kept for what comes next; at the end of the outermost it is handed back.

    The process's peak is at most a few percent higher: a block does not always fit where one of its size was. On
    another device than a CPU, with another allocator than glibc's, where the environment sets glibc's (MALLOC_MMAP_MAX_
    and the like, GLIBC_TUNABLES), or where several processes compute together, nothing is changed. No result depends on
    it.
    """
    global _within
    # Of several processes with a sharded encoder one was once aborted by glibc, which found its lists of free blocks
    # damaged; it is not known by what.
    several = distributed.world_size() > 1
    if device.type != "cpu" or several or _glibc() is None or _set_by_user():
        yield
        return
    _within += 1
    if _within == 1:
        _prepare_forks()
        _set(_KEPT)
    try:
        yield
    finally:
        _within -= 1
        if _within == 0:
            _set(_USUAL)
            _hand_back()


@functools.cache
def _prepare_forks() -> None:
    """Pages that are kept would be held once more by a process that is forked and never reads them."""
    os.register_at_fork(before=_before_fork, after_in_child=_in_child)


def _before_fork() -> None:
    if _within:
        _hand_back()


def _in_child() -> None:
    """It decodes images, say: what a large one took is not kept."""
    global _within
    if _within:
        _within = 0
        _set(_USUAL)


def _hand_back() -> None:
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


def _set(values: dict[int, int]) -> None:
    library = _glibc()
    for name, value in values.items():
        if library is not None:
            library.mallopt(name, value)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def _set_by_user() -> bool:
    return any(os.environ.get(name) for name in _OWN_CHOICE) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
