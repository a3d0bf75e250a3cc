"""The table of methods: what each one remembers, what it minimises, whose it is, and which recipes run it."""

import importlib
import pkgutil
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import selfsup.methods
import selfsup.models
from selfsup.config.recipe_files import load_recipe, recipe_names
from selfsup.config.settings import restore
from selfsup.config.stored_names import answers_to, descendants
from selfsup.methods.base import About, Method
from selfsup.models.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One method."""

    method: type[Method]
    about: About
    recipes: tuple[str, ...]


def catalogue() -> list[Entry]:
    """Every method of `selfsup.methods`, found by looking: a new file there is a new line here."""
    import_methods()
    recipes: dict[type, list[str]] = {}
    for name in recipe_names():
        recipes.setdefault(type(load_recipe(name).method), []).append(name)
    return [
        Entry(method=method, about=method.about, recipes=tuple(recipes.get(method.Config, ())))
        for method in sorted(_subclasses(Method), key=lambda method: method.__name__.lower())
        if method.__module__.startswith("selfsup.methods.")
    ]


def method_of(config: Method.Config) -> type[Method] | None:
    """The method whose settings these are; None where they are of no method of their own, but build one."""
    return next((kind for kind in _subclasses(Method) if kind.__dict__.get("Config") is type(config)), None)


def import_methods() -> None:
    """Make every method of `selfsup.methods` known to `selfsup.config.settings.restore`."""
    _import_modules(selfsup.methods)


def import_encoders() -> None:
    """Make every encoder of `selfsup.models` known to `selfsup.config.settings.restore`."""
    _import_modules(selfsup.models)


def _import_modules(package: ModuleType) -> None:
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def restore_encoder(dumped: Any) -> Encoder.Config:
    """The settings of an encoder from what `dump` wrote: of any class that is imported, those of selfsup among them.

    Raises:
        ValueError: see `selfsup.config.settings.restore`.
    """
    import_encoders()
    try:
        config: Encoder.Config = restore(dumped, Encoder.Config, "encoder")
    except ValueError as error:
        known = descendants(Encoder.Config)
        if isinstance(dumped, dict) and not any(answers_to(kind, dumped.get("class")) for kind in known):
            raise ValueError(f"{error}\none of your own: add --recipe FILE.py, or import its module first") from error
        raise
    return config


def _subclasses(kind: type[Method]) -> list[type[Method]]:
    return [found for child in kind.__subclasses__() for found in (child, *_subclasses(child))]


def table() -> str:
    """The catalogue as text."""
    lines = []
    for entry in catalogue():
        about = entry.about
        name = f"{entry.method.__module__}.{entry.method.__name__}"
        lines += [
            f"{about.title}   ({name})",
            f"  memory   {about.memory}",
            f"  loss     {about.loss}",
            f"  labels   {about.labels}",
            f"  papers   {', '.join(about.papers)}",
            f"  recipes  {', '.join(entry.recipes) or 'none'}",
            "",
        ]
    return "\n".join(lines)
