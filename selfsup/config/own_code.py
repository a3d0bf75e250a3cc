"""The files in which a run's own classes are defined: settings are stored with a run, classes are not."""

import inspect
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any


def is_shipped(kind: type) -> bool:
    """Whether a class is selfsup's."""
    return kind.__module__.partition(".")[0] == "selfsup"


def own_files(config: Any) -> list[Path]:
    """The Python files that define the classes of a configuration which are not selfsup's, in order of their names.

    Nothing is run to find them. A class that was typed into a session has no file.

    Args:
        config: a dataclass; those in its fields are looked at too.
    """
    found = {path.resolve() for kind in _kinds(config) for path in _files(kind)}
    return sorted(path for path in found if path.is_file())


def _kinds(config: Any) -> Iterator[type]:
    if is_dataclass(config) and not isinstance(config, type):
        yield from (kind for kind in type(config).__mro__ if kind is not object and not is_shipped(kind))
        for field in fields(config):
            yield from _kinds(getattr(config, field.name))
    elif isinstance(config, tuple):
        for item in config:
            yield from _kinds(item)


def _files(kind: type) -> Iterator[Path]:
    """Of a class: its functions know where they were read, also those of a recipe, which is no module."""
    if kind.__module__ in sys.builtin_module_names:
        return
    for value in vars(kind).values():
        function = inspect.unwrap(value) if isinstance(value, FunctionType) else None
        if function is not None and (name := function.__code__.co_filename).endswith(".py"):
            yield Path(name)
