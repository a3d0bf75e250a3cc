"""Dataclasses to JSON and back: the only place that knows the JSON form of a configuration.

A configuration is a frozen dataclass, possibly of others. It is written in Python (a recipe), changed by flags (any
field: `--method.temperature 0.2`), saved as JSON with the names of its classes (`config.stored_names`), and restored
from there. Restoring never imports anything by name.
"""

import dataclasses
import json
import math
import os
import types
import typing
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from selfsup.config.stored_names import class_named, descendants, stored_name, without_gone
from selfsup.storage.untrusted import plain_name


def require_finite(config: Any, where: str = "") -> None:
    """Raise ValueError where a number of a configuration, or of what it nests, is not finite."""
    for field in fields(config):
        name, value = f"{where}{field.name}", getattr(config, field.name)
        for number, item in enumerate(value if isinstance(value, tuple) else (value,)):
            place = f"{name}.{number}" if isinstance(value, tuple) else name
            if is_dataclass(item):
                require_finite(item, f"{place}.")
            elif isinstance(item, float) and not math.isfinite(item):
                raise ValueError(f"{place} is {item}; wanted a finite number")


# JSON


def dump(config: Any) -> Any:
    """JSON-ready form: a dataclass becomes a dictionary with the name of its class under "class"."""
    if is_dataclass(config) and not isinstance(config, type):
        return {"class": stored_name(type(config))} | {f.name: dump(getattr(config, f.name)) for f in fields(config)}
    if isinstance(config, tuple | list):
        return [dump(item) for item in config]
    return config


def flat(value: Any, name: str = "") -> dict[str, int | float | str | bool]:
    """What `dump` gave, in one level: "method.temperature": 0.2. A class stands under the name of its field.

    Where it has no name it is the "kind". Numbers in a row are one word, "0.2 1.0", and nothing is "None".
    """
    if isinstance(value, dict):
        places = {key: f"{name}.{key}".lstrip(".") if key != "class" else name or "kind" for key in value}
        return {place: found for key in value for place, found in flat(value[key], places[key]).items()}
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return {place: found for n, item in enumerate(value) for place, found in flat(item, f"{name}.{n}").items()}
    if isinstance(value, list):
        return {name: " ".join(map(str, value))}
    return {name: value if isinstance(value, int | float | str) else str(value)}


def _alternatives(kind: Any) -> list[Any]:
    """The parts of a union, or the type itself."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [c for part in typing.get_args(kind) for c in _alternatives(part)]
    return [kind]


def restore(value: Any, kind: Any, where: str = "") -> Any:
    """The configuration that `dump` wrote, as an instance of the declared type `kind` or of a subclass of it.

    Fields that the file lacks take the first defaults they had, so that older files load. Nothing but the declared
    types can come out, whatever the file says: numbers, words, tuples of them, and dataclasses.

    Args:
        value: what JSON gave.
        kind: a dataclass, or the declared type of one of its fields.
        where: the field, for messages.

    Raises:
        ValueError: a class that the declared type does not allow, a field that the class does not have, a value of
            another type than the field's, or no value where there is no default.
    """
    if isinstance(value, dict) and ("class" in value or any(descendants(part) for part in _alternatives(kind))):
        return _restore_dataclass(value, kind, where)
    if isinstance(value, list):
        for part in _alternatives(kind):
            items = typing.get_args(part)
            if typing.get_origin(part) is tuple and items[1:] == (Ellipsis,):
                return tuple(restore(item, items[0], f"{where}.{n}") for n, item in enumerate(value))
            if typing.get_origin(part) is tuple and len(items) == len(value):
                pairs = zip(value, items, strict=True)
                return tuple(restore(item, of, f"{where}.{n}") for n, (item, of) in enumerate(pairs))
    elif any(_fits(value, part) for part in _alternatives(kind)):
        return value
    named = kind.__name__ if isinstance(kind, type) else str(kind)
    raise ValueError(f"configuration has {where or 'itself'} = {_shown(value)}; wanted {named}")


def _restore_dataclass(value: dict[str, Any], kind: Any, where: str) -> Any:
    chosen = class_named(value.get("class", ""), [c for part in _alternatives(kind) for c in descendants(part)])
    name, hints = value["class"], typing.get_type_hints(chosen)
    value = without_gone(value, chosen)
    unknown = set(value) - {field.name for field in fields(chosen)} - {"class"}
    if unknown:
        raise ValueError(f"configuration of {name} has unknown fields: {', '.join(sorted(unknown))}")
    for field in fields(chosen):
        absent = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if absent and field.name not in value:
            raise ValueError(f"configuration of {name} lacks the field {field.name}")
    path = f"{where}." if where else ""
    value = {f.name: f.metadata["before"] for f in fields(chosen) if "before" in f.metadata} | value
    restored = {key: restore(item, hints[key], path + key) for key, item in value.items() if key != "class"}
    try:
        made = chosen(**restored)
        require_finite(made, path)
        return made
    except ArithmeticError as error:  # what checks of a number make of infinity
        raise ValueError(f"configuration of {name} has a number that makes no sense: {error}") from error


def _fits(value: Any, kind: Any) -> bool:
    """Whether a single JSON value is of this type. JSON and users write 1 for 1.0, but neither 1 for true."""
    if typing.get_origin(kind) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in typing.get_args(kind))
    if kind is float:
        return type(value) in (float, int)
    return (kind is Any and not isinstance(value, dict | list)) or (isinstance(kind, type) and type(value) is kind)


def _shown(value: Any) -> str:
    return plain_name(repr(value), longest=80)


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """What differs between two dumped configurations, one line per field: "method.temperature: 0.1 -> 0.2"."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        absent = "(not there)"
        return [
            line
            for key in keys
            for line in differences(old.get(key, absent), new.get(key, absent), f"{path}.{key}" if path else key)
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            line for n, (a, b) in enumerate(zip(old, new, strict=True)) for line in differences(a, b, f"{path}.{n}")
        ]
    return [] if old == new else [f"{path}: {json.dumps(old)} -> {json.dumps(new)}"]


# Fields that change how a run is executed, not what it computes


def execution(default: Any, path: bool = False) -> Any:
    """A dataclass field that may change when a run is resumed, because it does not change the result.

    Args:
        default: of the field.
        path: whether it names a file or folder, which `placed` makes absolute.
    """
    return dataclasses.field(default=default, metadata={"execution": True, "path": path})


def word_or_path(default: str, *words: str) -> Any:
    """A dataclass field that is one of some words, which belong to the result, or else names a file.

    Which file it is may change when a run is resumed, because what it says of the data is known by content.
    """
    return dataclasses.field(default=default, metadata={"path": True, "words": words})


def placed(config: Any) -> Any:
    """The same configuration with absolute paths, to be stored: it may be read from another current folder."""
    if is_dataclass(config) and not isinstance(config, type):
        return dataclasses.replace(
            config,
            **{
                f.name: _absolute(getattr(config, f.name), f.metadata.get("words", ()))
                if f.metadata.get("path")
                else placed(getattr(config, f.name))
                for f in fields(config)
                if f.init
            },
        )
    return tuple(placed(item) for item in config) if isinstance(config, tuple) else config


def is_no_path(root: str) -> bool:
    """Whether a name is empty, or a word for what is generated or fetched: `shapes`, `hf:NAME`, `s3://bucket/a.tar`."""
    return "://" in root or root.partition(":")[0] in ("", "shapes", "hub", "hf", "torchvision")


def _absolute(path: Any, words: tuple[str, ...]) -> Any:
    """Empty, and the words for generated data and for what is downloaded, stay as they are."""
    if isinstance(path, tuple):
        return tuple(_absolute(one, words) for one in path)
    known = path in words or is_no_path(path)
    return path if known else os.path.abspath(os.path.expanduser(path))


# Runs are stored with the number of the newest change of a default that they know.
CHANGED_DEFAULTS = 3


def changed_default(default: Any, *, before: Any, in_number: int, relevant: bool = True) -> Any:
    """A dataclass field whose default has changed: runs that were begun with the one before go on with it.

    Args:
        before: the first default; what a stored run lacks had this value.
        in_number: of the change, at most `CHANGED_DEFAULTS`, which is raised by 1 with every change.
        relevant: for the result; else it is a field as `execution` declares them.
    """
    metadata = {"before": before, "in_number": in_number} | ({} if relevant else {"execution": True})
    return dataclasses.field(default=default, metadata=metadata)


def result_relevant(config: Any) -> Any:
    """`dump` without the fields declared with `execution`: two runs with equal ones have equal results."""
    if is_dataclass(config) and not isinstance(config, type):
        kept = [f for f in fields(config) if not f.metadata.get("execution")]
        return {"class": stored_name(type(config))} | {f.name: _relevant(config, f) for f in kept}
    if isinstance(config, tuple | list):
        return [result_relevant(item) for item in config]
    return config


def _relevant(config: Any, field: "dataclasses.Field[Any]") -> Any:
    value, words = getattr(config, field.name), field.metadata.get("words")
    return result_relevant(value if words is None or value in words else "file")
