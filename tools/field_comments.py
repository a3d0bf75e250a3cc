"""Comments on the fields of settings are their documentation in the reference, too: an extension of griffe."""

from functools import cache
from pathlib import Path
from typing import Any

import griffe


class FieldComments(griffe.Extension):
    """A field without a docstring has the comment before it and the one behind it; a `Config` says whose it is."""

    def on_attribute_instance(self, *, node: Any, attr: griffe.Attribute, agent: Any, **kwargs: Any) -> None:
        within = attr.parent
        if within is None or not within.is_class or attr.docstring or attr.lineno is None:
            return
        told = comment(_lines(Path(str(attr.filepath))), attr.lineno, attr.endlineno or attr.lineno)
        if told:
            attr.docstring = griffe.Docstring(told, lineno=attr.lineno, parent=attr)

    def on_class_instance(self, *, node: Any, cls: griffe.Class, agent: Any, **kwargs: Any) -> None:
        if cls.name == "Config" and cls.docstring is None and cls.parent is not None:
            cls.docstring = griffe.Docstring(f"Settings of `{cls.parent.name}`.", lineno=cls.lineno, parent=cls)


def comment(lines: list[str], first: int, last: int) -> str:
    """The comment lines right before a statement, and the comment behind it, as one text.

    Args:
        lines: of the file.
        first, last: of the statement, from 1.
    """
    before = []
    for line in reversed(lines[: first - 1]):
        if not line.strip().startswith("#"):
            break
        before.append(line.strip().removeprefix("#").strip())
    _, _, behind = lines[last - 1].partition("  # ")
    return " ".join([*reversed(before), behind.strip()]).strip()


@cache
def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
