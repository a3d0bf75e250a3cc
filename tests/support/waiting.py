"""Code that must not wait for the device, for tests that need one."""

import contextlib
import warnings
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def no_waits(forbidden: bool = True) -> Iterator[None]:
    """Raise where the device is waited for; with `forbidden` false do not: the first step starts libraries.

    torch warns, once in a process, that its check is a prototype, and warnings are errors here.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Ss]ynchronization debug mode is a prototype.*")
        torch.cuda.set_sync_debug_mode("error" if forbidden else "default")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
