"""Files that the code of other projects writes: what a trial is, and where that code is found."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass
class Trial:
    """A file that was written, and what its own network computes."""

    path: Path
    forward: Callable[[Tensor], Tensor]
    size: int = 64
    options: dict[str, Any] = field(default_factory=dict)
    images: Tensor | None = None


class Absent(Exception):
    """The package or the code is not here."""


class _Place:
    """Where the checkouts lie."""

    code: Path | None = None


def look_in(folder: Path | None) -> None:
    """Name the folder of checkouts, OWNER+NAME each."""
    _Place.code = folder


def code(name: str, *modules: str) -> list[Any]:
    """Modules of a checkout; those of another checkout that have the same names are forgotten."""
    folder = _Place.code / name if _Place.code else None
    if folder is None or not folder.is_dir():
        raise Absent(name)
    for top in {word.partition(".")[0] for word in modules} | {"models", "lib", "networks", "moco", "resnet", "utils"}:
        for known in [word for word in sys.modules if word == top or word.startswith(f"{top}.")]:
            del sys.modules[known]
    sys.path.insert(0, str(folder))
    try:
        return [import_module(word) for word in modules]
    except ImportError as error:
        raise Absent(f"{name} ({error})") from error
    finally:
        sys.path.remove(str(folder))


def package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise Absent(name) from error


def saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "weights.pth")
    return folder / "weights.pth"
