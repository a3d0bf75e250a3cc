"""The names under which classes of settings are stored. They do not depend on where the code lies.

A class declares its own: `stored_as: ClassVar[str] = "sgd"`. A name is looked up among the classes that a field may
hold, never in a register of all, and nothing is imported because a file names it.
"""

import difflib
import re
from dataclasses import is_dataclass
from typing import Any

from selfsup.config.schema import GONE, PLACES
from selfsup.storage.untrusted import plain_name

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # between the words of TwoDomains


def nearest(name: str, known: list[str]) -> str:
    """A sentence part that suggests the nearest known name, or nothing."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else ""


def name_of(kind: type) -> str:
    """What a class calls itself in files: its own `stored_as`, which is not inherited, or else one of its class's name.

    Without one, words are parted (TwoDomains: two_domains), and a `Config` goes by the class around it.

    Raises:
        ValueError: `stored_as` is no such name.
    """
    if (declared := vars(kind).get("stored_as")) is None:
        around, _, name = kind.__qualname__.rpartition(".")
        if name == "Config" and around and not around.endswith("<locals>"):
            name = around.rpartition(".")[2]
        return _WORDS.sub("_", name).lower()
    if not isinstance(declared, str) or not _NAME.fullmatch(declared):
        raise ValueError(
            f"{place_of(kind)} has stored_as = {declared!r}; wanted a word of small letters, digits and _, as 'sgd'"
        )
    return declared


def place_of(kind: type) -> str:
    """Where a class lies."""
    return f"{kind.__module__}.{kind.__qualname__}"


def answers_to(kind: type, name: object) -> bool:
    """Whether a file means this class: by its name, or as in schema 1 by where it lay, be it one of the user's own."""
    shipped = PLACES.get(name) if isinstance(name, str) else None
    return name_of(kind) == (shipped or name) or (shipped is None and place_of(kind) == name)


def stored_name(kind: type) -> str:
    """`name_of` a class whose settings are to be stored.

    Raises:
        ValueError: another class that may stand in its place has the same name, so that it could not be read again.
    """
    name = name_of(kind)
    family = next(base for base in reversed(kind.__mro__) if is_dataclass(base))
    _require_one(name, [other for other in descendants(family) if name_of(other) == name])
    return name


def without_gone(value: dict[str, Any], kind: type) -> dict[str, Any]:
    """What a file holds of this class, or of one made from it, without settings that are `GONE` and were None."""
    gone = {name for base in kind.__mro__ if is_dataclass(base) for name in GONE.get(name_of(base), {})}
    return {key: item for key, item in value.items() if key not in gone or item is not None}


def descendants(kind: Any) -> list[type]:
    """A dataclass and all that are made from it: what a field of this declared type may hold."""
    if isinstance(kind, type) and is_dataclass(kind):
        return [kind] + [other for child in kind.__subclasses__() for other in descendants(child)]
    return []


def class_named(name: object, allowed: list[type]) -> type:
    """The class that a file names, of those that are allowed.

    Raises:
        ValueError: none of them has this name, or two have.
    """
    found = [kind for kind in allowed if answers_to(kind, name)]
    if not found:
        names = sorted({name_of(kind) for kind in allowed})
        meant = nearest(name, names) if isinstance(name, str) else ""
        shown = plain_name(repr(name), longest=80)
        raise ValueError(f"configuration names class {shown}{meant}; allowed here: {', '.join(names) or 'none'}")
    _require_one(name, found)
    return found[-1]  # a recipe that is run again makes its classes again


def _require_one(name: object, kinds: list[type]) -> None:
    places = list(dict.fromkeys(map(place_of, kinds)))
    if places[1:]:
        raise ValueError(
            f"two classes are stored as {name!r}: {places[0]} and {places[1]}\n"
            'give yours another name, in its body: stored_as: ClassVar[str] = "my_name"'
        )
