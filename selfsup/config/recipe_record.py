"""The record of a recipe for people, read from its file alone: what its docstring tells, and what its `recipe` sets."""

import ast
import re
import textwrap
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

from selfsup.config.recipe_files import load_recipe, recipe_names, recipes_folder

# Sentences that tell what came of it, or that nothing has yet.
_EXPECTED = re.compile(r"Published|\bkNN\b|linear probe|Recall@1|[Nn]ot run|docs/results|to be measured")
_TIME = re.compile(r"(about )?\d+ (minutes|hours|days)\b|minutes instead of days")
_FOLLOWS = re.compile(r"[Pp]ublished|the authors' CIFAR demo")
_OWN = "Not a published setting"  # begins that sentence of the others
_PROCESSES = re.compile(r"--num_processes (\d+)")
_PARTS = ("method", "encoder", "data", "sampling", "optimizer", "schedule")  # of a Run, whose classes tell most
_INDENT = 12


def matching(wanted: str) -> list[str]:
    """The shipped recipes whose name or docstring holds every one of these words, in any case of letters."""
    words = wanted.lower().split()
    texts = {name: f"{name} {_docstring(name)}".lower() for name in recipe_names()}
    return [name for name, text in texts.items() if all(word in text for word in words)]


class Record(NamedTuple):
    """What the docstring of a recipe tells."""

    title: str
    commands: tuple[str, ...]
    expected: str  # the sentences on what came of it; "" where none is written down
    hardware: str
    time: str  # "" where it was not measured
    measured: tuple[str, ...]  # documents with results of it
    more: str  # all other sentences


def read_record(name: str) -> Record:
    """The record of a shipped recipe, or of a file."""
    title, _, body = _docstring(name).partition("\n")
    commands = tuple(line.strip() for line in body.splitlines() if line.startswith("    "))
    prose = " ".join(line.strip() for line in body.splitlines() if not line.startswith("    "))
    sentences = re.split(r"(?<=\.) +(?=[A-Z])", prose.strip())
    expected = [sentence for sentence in sentences if _EXPECTED.search(sentence)]
    time = _TIME.search(" ".join([*sentences, title]))
    return Record(
        title=title,
        commands=commands,
        expected=" ".join(expected),
        hardware=_hardware(title, " ".join(commands)),
        time=time[0] if time else "",
        measured=tuple(_documents(name)),
        more=" ".join(sentence for sentence in sentences if sentence not in expected),
    )


def published() -> list[str]:
    """The shipped recipes that follow a paper or its code."""
    texts = {name: " ".join(_docstring(name).split()) for name in recipe_names()}
    return [name for name, text in texts.items() if _FOLLOWS.search(text) and _OWN not in text]


def record(name: str, width: int = 100) -> list[str]:
    """The lines that `selfsup recipes NAME` prints: what it is, what to expect, on what, how long, and its settings.

    Raises:
        ValueError: there is no such recipe.
    """
    recipe = load_recipe(name)
    found = read_record(name)
    rows = {
        "expected": found.expected or "nothing is written down",
        "hardware": found.hardware,
        "time": found.time or "not measured",
        "measured": ", ".join(found.measured),
        "more": found.more,
    }
    told = [line for row, text in rows.items() if text for line in _row(row, text, width)]
    settings = [line for row, text in _settings(recipe).items() for line in _row(row, text, width)]
    return [f"{name}: {found.title}", "", *(f"  {line}" for line in found.commands), "", *told, "", *settings]


def _docstring(name: str) -> str:
    return ast.get_docstring(ast.parse((recipes_folder() / f"{name}.py").read_text())) or ""


def _hardware(title: str, commands: str) -> str:
    if "two CPU cores" in title:
        return "two CPU cores"
    several = _PROCESSES.search(commands)
    return f"{several[1]} processes, a GPU for each" if several else "not said; any, in one process"


def _documents(name: str) -> list[str]:
    """Documents with results of this recipe, where there is a checkout."""
    folder = recipes_folder().parent / "docs" / "results"
    written: list[Path] = sorted(folder.glob("*.md")) if folder.is_dir() else []
    return [f"docs/results/{path.name}" for path in written if re.search(rf"\b{name}\b", path.read_text())]


def _row(name: str, text: str, width: int) -> list[str]:
    lines = textwrap.wrap(text, width - _INDENT, break_long_words=False, break_on_hyphens=False)
    return [f"{name if not place else '':{_INDENT}}{line}" for place, line in enumerate(lines)]


def _settings(recipe: Any) -> dict[str, str]:
    """What a `Run` sets: class by class what is not the default, and then its numbers."""
    views = recipe.augment.views
    shapes = dict.fromkeys(f"{height} x {width}" for height, width in (view.shape for view in views))
    parts = {part: _set(getattr(recipe, part)) for part in _PARTS}
    plain = {
        field.name: getattr(recipe, field.name)
        for field in fields(recipe)
        if not is_dataclass(getattr(recipe, field.name)) and field.name != "name"
    }
    changed = {
        field.name: plain[field.name]
        for field in fields(recipe)
        if field.name in plain and field.default is not MISSING and plain[field.name] != field.default
    }
    return {
        "epochs": f"{recipe.epochs}, in batches of {recipe.batch_size}",
        "views": f"{len(views)} of each image, {' and '.join(shapes)} pixels",
        **parts,
        "other": ", ".join(f"{name}={value!r}" for name, value in changed.items()) or "defaults",
    }


def _set(config: Any) -> str:
    """A configuration as a recipe would write it, without what its class sets anyway."""
    if isinstance(config, tuple) and any(map(is_dataclass, config)):
        return f"({', '.join(map(_set, config))})"
    if not is_dataclass(config) or isinstance(config, type):
        return repr(config)
    told = []
    for field in fields(config):
        value = getattr(config, field.name)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if default is MISSING or value != default:
            told.append(f"{field.name}={_set(value)}")
    return f"{type(config).__qualname__.removesuffix('.Config')}({', '.join(told)})"
