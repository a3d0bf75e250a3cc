"""Recipes: the shipped ones, and Python files of the user's own."""

import ast
import os
import runpy
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from selfsup.config.stored_names import nearest


def recipe_names() -> list[str]:
    """Names of the shipped recipes."""
    return sorted(path.stem for path in recipes_folder().glob("*.py") if path.stem != "__init__")


def recipes_folder() -> Path:
    """Where the shipped recipes are: inside an installed package, beside the package in a checkout.

    Looked for from this file on, never by name: an installation elsewhere on this machine has recipes of its own.

    Raises:
        ValueError: they are in neither place.
    """
    package = Path(__file__).resolve().parent.parent
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
