"""Recipes to dataclasses to flags, and back: the only place that knows tyro or the JSON form of a configuration.

A configuration is a frozen dataclass, possibly of others. It is written in Python (a recipe), changed by flags (any
field: `--method.temperature 0.2`), saved as JSON with the names of its classes, and restored from there. Restoring
never imports anything by name: a class name is only looked up among the subclasses of the type that the field declares.
"""

import ast
import contextlib
import dataclasses
import difflib
import io
import json
import math
import os
import re
import runpy
import types
import typing
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from selfsup.data.levels import parse_levels
from selfsup.packages import optional
from selfsup.untrusted import plain_name

Config = TypeVar("Config")


def nearest(name: str, known: list[str]) -> str:
    """A sentence part that suggests the nearest known name, or nothing."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]}?" if matches else ""


# Recipes


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in recipes_folder().glob("*.py") if path.stem != "__init__")


def recipes_folder() -> Path:
    """Where the shipped recipes are: inside an installed package, beside the package in a checkout.

    Looked for from this file on, never by name: an installation elsewhere on this machine has recipes of its own.

    Raises:
        ValueError: they are in neither place.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "recipes", package.parent / "recipes"):
        if (folder / "__init__.py").is_file():
            return folder
    raise ValueError(f"the recipes are neither in {package} nor beside it; install selfsup again")


def load_recipe(name_or_path: str) -> Any:
    """The object called `recipe` in a shipped recipe or in a Python file of the user's own.

    Raises:
        ValueError: there is no such recipe or file, or the file defines no `recipe`.
    """
    if name_or_path.endswith(".py") or os.sep in name_or_path:
        return _recipe_in(Path(name_or_path))
    known = recipe_names()
    if name_or_path not in known:
        raise ValueError(
            f"there is no recipe {name_or_path!r}{nearest(name_or_path, known)}\n"
            f"shipped: {', '.join(known)}; or give the path of a .py file"
        )
    return _recipe_in(recipes_folder() / f"{name_or_path}.py")


def _recipe_in(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"there is no recipe file {path}")
    try:
        namespace = runpy.run_path(str(path))
    except SyntaxError as error:
        raise ValueError(f"recipe {path} is not valid Python: {error.msg}, line {error.lineno}") from error
    if not is_dataclass(namespace.get("recipe")):
        raise ValueError(f"recipe {path} must define `recipe = Run(...)`; see the shipped ones with: selfsup recipes")
    return namespace["recipe"]


def recipe_summary(name: str) -> str:
    """First line of a shipped recipe's docstring, read without running the recipe."""
    source = (recipes_folder() / f"{name}.py").read_text()
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


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


# Flags


def flag_names(config: Any, prefix: str = "") -> list[str]:
    """The flags that `parse` accepts for this configuration, as --a.b-c."""
    names = []
    for field in fields(config):
        name, value = f"{prefix}{field.name.replace('_', '-')}", getattr(config, field.name)
        if is_dataclass(value):
            names += flag_names(value, f"{name}.")
        elif isinstance(value, tuple) and value and all(is_dataclass(item) for item in value):
            for number, item in enumerate(value):
                names += flag_names(item, f"{name}.{number}.")
        else:
            names.append(f"--{name}")
            if isinstance(value, bool):
                head, _, last = name.rpartition(".")
                names.append(f"--{head}.no-{last}" if head else f"--no-{last}")
    return names


# What people call some flags; of several the first that there is.
_SHORT = {
    **dict.fromkeys(("--lr", "--learning-rate", "--rate"), ("--optimizer.learning-rate",)),
    **dict.fromkeys(("--wd", "--weight-decay"), ("--optimizer.weight-decay",)),
    **dict.fromkeys(("--bs", "--batch"), ("--batch-size",)),
    **dict.fromkeys(("--data", "--data-dir", "--dataset", "--root", "--path"), ("--data.root",)),
    **dict.fromkeys(("--out-dir", "--output", "--output-dir", "--run"), ("--folder", "--out")),
    **dict.fromkeys(("--size", "--image-size"), ("--augment.views.0.size",)),
    **dict.fromkeys(("--tau", "--temp", "--temperature", "-t"), ("--method.temperature", "--temperature")),
    **dict.fromkeys(("--epoch", "--num-epochs", "--max-epochs"), ("--epochs",)),
    **dict.fromkeys(("--num-workers", "--jobs"), ("--workers",)),
    **dict.fromkeys(("--amp", "--fp16", "--bf16"), ("--precision",)),
    **dict.fromkeys(("--warmup", "--warmup-epochs"), ("--schedule.warmup-epochs",)),
}
_PROCESSES = ("--gpus", "--gpu", "--ngpus", "--num-gpus", "--devices", "--nproc", "--num-processes", "--world-size")


def _meant(name: str, known: list[str]) -> str:
    """A sentence part that says which flag an unknown one stands for, or nothing."""
    if name in _PROCESSES:
        return "; several GPUs are named to the launcher: accelerate launch --num_processes N -m selfsup ..."
    meant = [flag for flag in _SHORT.get(name, ()) if flag in known]
    return f"; did you mean {meant[0]}?" if meant else nearest(name, known)


def taken(flags: list[str], name: str, default: str) -> tuple[str, list[str]]:
    """The value of one flag that has to be known before the others, and the flags without it."""
    for position, flag in enumerate(flags):
        if flag == name and position + 1 < len(flags):
            return flags[position + 1], flags[:position] + flags[position + 2 :]
        if flag.startswith(f"{name}="):
            return flag.partition("=")[2], flags[:position] + flags[position + 1 :]
    return default, flags


def parse(default: Config, flags: list[str], command: str) -> Config:
    """The configuration `default` with the changes that the command line asks for.

    Args:
        default: a frozen dataclass instance; every field of it and of what it nests is a flag.
        flags: the command line after the command's own words. --help prints all flags and exits.
        command: how the command is called, for messages.

    Raises:
        ValueError: an unknown flag (with the nearest known one), a missing or a wrong value; or tyro is missing.
    """
    if not flags:
        return default
    known = flag_names(default)
    if flags and not flags[0].startswith("-"):
        hint = f"; to name the images give --data.root {flags[0]}" if "--data.root" in known else ""
        raise ValueError(f"{plain_name(flags[0])} is no flag{hint}\nall flags: {command} --help")
    for flag in flags:
        name = flag.split("=")[0]
        if name.startswith("--") and name.replace("_", "-") not in known and name != "--help":
            raise ValueError(f"unknown flag {name}{_meant(name.replace('_', '-'), known)}\nall flags: {command} --help")
    tyro = optional("tyro", "a command line with flags")
    text = io.StringIO()
    try:
        with contextlib.redirect_stderr(text):
            parsed: Config = tyro.cli(
                type(default), default=default, args=flags, prog=command, config=(tyro.conf.AvoidSubcommands,)
            )
        require_finite(parsed)
        return parsed
    except SystemExit as stop:
        if not stop.code:
            raise
    # What a class refuses names its field; tyro puts the name of the class before it.
    told = re.sub(r"^Error parsing (?!-)[\w.]+: ", "", _told(text.getvalue()))
    if "--device" in told:
        told += '; "auto" takes the GPU where there is one'
    raise ValueError(f"{told}\nall flags: {command} --help")


def _told(box: str) -> str:
    """What tyro says inside its frame, on one line: the first section; in plain terminals that below the title."""
    sections: list[list[str]] = [[]]
    for line in box.splitlines():
        text = line.strip(" │")
        if text and set(text) <= {"-", "─"}:
            sections.append([])
        elif text and text[0] not in "╭╰":
            sections[-1].append(text)
    body = sections[0] if "╭" in box or len(sections) == 1 else sections[1]
    return " ".join(body) or "wrong arguments"


# JSON


def class_name(kind: type) -> str:
    """The name under which `dump` and `restore` know a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def dump(config: Any) -> Any:
    """JSON-ready form: a dataclass becomes a dictionary with its class name under "class"."""
    if is_dataclass(config) and not isinstance(config, type):
        return {"class": class_name(type(config))} | {f.name: dump(getattr(config, f.name)) for f in fields(config)}
    if isinstance(config, tuple | list):
        return [dump(item) for item in config]
    return config


def _alternatives(kind: Any) -> list[Any]:
    """The parts of a union, or the type itself."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [c for part in typing.get_args(kind) for c in _alternatives(part)]
    return [kind]


def _candidates(kind: Any) -> list[type]:
    """Every dataclass that a field of this declared type may hold."""
    if isinstance(kind, type) and is_dataclass(kind):
        return [kind] + [c for child in kind.__subclasses__() for c in _candidates(child)]
    return []


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
    if isinstance(value, dict):
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
    allowed = {class_name(c): c for part in _alternatives(kind) for c in _candidates(part)}
    name = value.get("class", "")
    if not isinstance(name, str) or name not in allowed:
        raise ValueError(f"configuration names class {_shown(name)}; allowed here: {', '.join(allowed) or 'none'}")
    chosen = allowed[name]
    hints = typing.get_type_hints(chosen)
    unknown = set(value) - set(hints) - {"class"}
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
    return kind is Any or (isinstance(kind, type) and type(value) is kind)


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


def placed(config: Any) -> Any:
    """The same configuration with absolute paths, to be stored: it may be read from another current folder."""
    if is_dataclass(config) and not isinstance(config, type):
        return dataclasses.replace(
            config,
            **{
                f.name: _absolute(getattr(config, f.name))
                if f.metadata.get("path")
                else placed(getattr(config, f.name))
                for f in fields(config)
                if f.init
            },
        )
    return tuple(placed(item) for item in config) if isinstance(config, tuple) else config


def _absolute(path: str) -> str:
    """Empty, and the word for generated data, stay as they are."""
    return path if not path or path.partition(":")[0] == "shapes" else os.path.abspath(os.path.expanduser(path))


# Runs are stored with the number of the newest change of a default that they know.
CHANGED_DEFAULTS = 1


def changed_default(default: Any, *, before: Any, in_number: int) -> Any:
    """A dataclass field whose default has changed: runs that were begun with the one before go on with it.

    Args:
        before: the first default; what a stored run lacks had this value.
        in_number: of the change, at most `CHANGED_DEFAULTS`, which is raised by 1 with every change.
    """
    return dataclasses.field(default=default, metadata={"before": before, "in_number": in_number})


def result_relevant(config: Any) -> Any:
    """`dump` without the fields declared with `execution`: two runs with equal ones have equal results."""
    if is_dataclass(config) and not isinstance(config, type):
        kept = [f for f in fields(config) if not f.metadata.get("execution")]
        return {"class": class_name(type(config))} | {f.name: result_relevant(getattr(config, f.name)) for f in kept}
    if isinstance(config, tuple | list):
        return [result_relevant(item) for item in config]
    return config


Verify = Literal["auto", "full"]


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images. Everything that reads images shares these fields."""

    root: str = execution("", path=True)  # a folder, a .zip, .npz or .npy file, or "shapes" for the generated data set
    labelled_root: str = execution("", path=True)  # labelled images of another domain, trained on beside those of root
    labels: Literal["auto", "none"] = "auto"  # auto: from the folders or the file, where they are there
    limit: int | None = None  # this many images, drawn once; None: all
    canvas: int | None = None  # decode each image once, to this size; None: at full resolution for every view
    # What becomes black and white, of files of more than 8 bits a pixel. type: the ends of the pixels' type; file: each
    # file's lowest and highest pixel; p1: its 1st percentile and its 99th; 0:4095: these values.
    range: str = "type"
    # auto: files whose size, times and inode are those of the last look are taken as unchanged; full: all are read.
    verify: Verify = execution("auto")

    def __post_init__(self) -> None:
        for name in ("limit", "canvas"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"data.{name} is {value}; it must be at least 1, or None")
        parse_levels(self.range)
