"""How loops are compiled by numba: once, and then they are kept on the disk."""

from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any, TypeVar, cast

from numba import njit

inlined: Any = njit(nogil=True, error_model="numpy")  # a part of what calls it
Function = TypeVar("Function", bound=Callable[..., Any])


def kept(signature: Any) -> Callable[[Function], Function]:
    """A decorator: compiled for these types as the module is imported, or read from disk, where it is kept.

    Where no folder for it can be written, or what lies there is damaged, it is compiled each time.
    """

    def decorate(function: Function) -> Function:
        try:
            made: Any = njit(signature, cache=True, nogil=True, error_model="numpy")(function)
        except (RuntimeError, OSError, EOFError, UnpicklingError):
            made = njit(signature, nogil=True, error_model="numpy")(function)
        return cast(Function, made)

    return decorate
