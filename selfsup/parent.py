"""Processes that must not outlive the one that started them."""

import ctypes
import sys


def end_with_parent(number: int) -> None:
    """Have the system send this signal to this process, and to what replaces it, when its parent ends (Linux only)."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG, see prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, number)
