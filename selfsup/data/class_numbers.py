"""Labels of samples and of rows of tables: which column they are in, and the numbers of the classes."""

import re
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from selfsup.data.base import Source
from selfsup.storage.untrusted import plain_name

_MOST = 1_000_000  # classes
_NUMBER = re.compile(r"-?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{0,18})?(e[+-]?[0-9]{1,2})?")

S = TypeVar("S", bound=Source)


def numbered(values: Sequence[str | int | None], where: str) -> tuple[Tensor, tuple[str, ...]]:
    """(N,) labels and the names of the classes.

    Whole numbers are labels as they stand, so that all parts of the data agree; words are numbered in their order.

    Args:
        values: of each image; None where it has none.
        where: they stand, for messages.

    Raises:
        ValueError: a negative number other than -1, which is none, or one of a million or more.
    """
    present = {value for value in values if value is not None}
    if not present:
        return torch.full((len(values),), -1), ()
    if not all(_whole(value) for value in present):
        names = tuple(sorted({str(value) for value in present}))
        number = {name: label for label, name in enumerate(names)}
        return torch.tensor([-1 if value is None else number[str(value)] for value in values]), names
    labels = torch.tensor([-1 if value is None else int(value) for value in values])
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < -1 or highest >= _MOST:
        wrong = lowest if lowest < -1 else highest
        raise ValueError(
            f"{where}: a label is {wrong}; wanted class numbers from 0 to {_MOST - 1:,}, -1 for none, or names"
        )
    return labels, tuple(map(str, range(highest + 1)))


def _whole(value: str | int) -> bool:
    return isinstance(value, int) or _NUMBER.fullmatch(value) is not None


def renumbered(source: S, known: Sequence[str]) -> S:
    """A test part with the numbers that the classes have in the training part, where any of these turns up."""
    if source.classes == tuple(known) or not set(known) & set(source.classes):
        return source
    names = (*known, *(name for name in source.classes if name not in known))
    number = torch.tensor([*(names.index(name) for name in source.classes), -1])  # [-1]: no label
    source.labels, source.classes = number[source.labels], names
    return source


def chosen(candidates: Sequence[str], wanted: str, setting: str, where: str) -> str:
    """The one of several columns that is meant; "" where there is none and none is asked for.

    Raises:
        ValueError: the one asked for is not there, or there are several.
    """
    listed = ", ".join(plain_name(name, 80) for name in candidates[:8]) or "none"
    if wanted:
        if wanted not in candidates:
            raise ValueError(f"{where}: {setting} is {plain_name(wanted, 80)}; there are: {listed}")
        return wanted
    if len(candidates) > 1:
        raise ValueError(f"{where}: {setting} could be one of several: {listed}; give --{setting.replace('_', '-')}")
    return candidates[0] if candidates else ""


def doubts(names: Sequence[str]) -> list[str]:
    """What could be meant otherwise in the names of classes: twins by case or spaces, and numbers with fractions."""
    told, seen = [], dict[str, str]()
    for name in names:
        if (twin := seen.setdefault(name.strip().casefold(), name)) != name:
            told.append(f"the classes {plain_name(twin, 80)} and {plain_name(name, 80)} differ by case or spaces alone")
            break
    if len(names) > 1 and all(_DECIMAL.fullmatch(name) for name in names) and not all(map(_equals_whole, names)):
        shown = ", ".join(names[:3]) + (", ..." if names[3:] else "")
        told.append(f"the labels are numbers with fractions ({plain_name(shown, 80)}), and each is a class of its own")
    return told


def _equals_whole(number: str) -> bool:
    return float(number).is_integer()
