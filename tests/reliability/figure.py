"""One figure of the record of reliability: what is claimed, and the function that measures it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Measured:
    """What came out."""

    figure: str  # one line for the table, such as "0 of 96 resumes inexact"
    good: bool | None  # whether the goal is reached; None: it could not be measured here
    reason: str = ""  # why it is not, or could not be
    details: dict[str, Any] = field(default_factory=dict)  # all that stands behind it, as JSON
    table: str = ""  # Markdown that is shown below the table of all figures; empty: nothing


@dataclass(frozen=True)
class Figure:
    """Something that a module in this folder lists in its FIGURES."""

    name: str  # "R3", or a word: `python -m tools.reliability R3` measures it alone
    goal: str  # in words, with its number
    minutes: float  # about, on two CPU cores; long ones are begun first
    measure: Callable[[Path, bool], Measured]  # of a folder of its own, empty, and whether a quick look is enough
