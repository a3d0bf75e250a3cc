"""Networks that are built as a file says: numbers that no network can have are refused by name."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch import nn

from selfsup.config.settings import dump
from selfsup.storage.untrusted import plain_name

Built = TypeVar("Built", bound=nn.Module)


def built(build: Callable[[], Built], settings: Any, where: str) -> Built:
    """What `build` makes of settings that were read from a file.

    Args:
        build: makes a network of them.
        settings: the dataclass that holds them, or what it was dumped to.
        where: the file they are from, for the message.

    Raises:
        ValueError: they describe no network; torch fails in many ways where a number is too large.
    """
    try:
        return build()
    except (RuntimeError, OverflowError, MemoryError, TypeError, ValueError) as error:
        reason = str(error).partition("\nException raised from")[0]  # torch adds the whole stack of its C++
        numbers = list(_numbers(dump(settings), ""))
        name, number = max(numbers, key=lambda pair: abs(pair[1]), default=("", 0.0))
        largest = f"; their largest number is {name} = {plain_name(number, 80)}" if numbers else ""
        raise ValueError(
            f"the settings {where} describe no network that can be built{largest}: {plain_name(reason)}"
        ) from error


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """Those in a dumped configuration, by the names of their fields."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, f"{name}.{key}" if name else key)
    elif isinstance(value, (int, float)):
        yield name, value
