"""How loops for a CPU are compiled by numba: once, and then they are kept on the disk."""

from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any, TypeVar, cast

from numba import njit

inlined: Any = njit(nogil=True, error_model="numpy")  # a part of what calls it
Function = TypeVar("Function", bound=Callable[..., Any])


def kept(signature: Any, sums_in_any_order: bool = False) -> Callable[[Function], Function]:
    """A decorator: compiled for these types as the module is imported, or read from disk, where it is kept.

    Where no folder for it can be written, or what lies there is damaged, it is compiled each time.

    Args:
        signature: of the function, as numba writes it.
        sums_in_any_order: whether a sum may be taken in several parts at once, in an order that depends on the number
            of its terms and on the processor, and on nothing else.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    if sums_in_any_order:
        options["fastmath"] = {"reassoc", "contract"}

    def decorate(function: Function) -> Function:
        try:
            made: Any = njit(signature, cache=True, **options)(function)
        except (RuntimeError, OSError, EOFError, UnpicklingError):
            made = njit(signature, **options)(function)
        return cast(Function, made)

    return decorate
