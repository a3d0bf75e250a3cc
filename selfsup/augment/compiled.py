"""Functions compiled for the processor, by numba."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """The function, compiled when it is first called with arguments of some types, and kept on the disk for the next.

    It lets go of the interpreter's lock, computes every operation as it is written (no products and sums in one
    rounding), and does not look at whether indices are within their arrays.
    """
    njit: Any = functools.partial(numba.njit, nogil=True, fastmath=False, boundscheck=False, error_model="numpy")
    try:
        made: Function = njit(cache=True)(function)
    except RuntimeError:  # no folder that could be written to: compiled anew by each process
        made = njit()(function)
    return made
