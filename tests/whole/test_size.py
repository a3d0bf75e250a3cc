"""Functions and files that can be seen whole: what is longer is listed here, with its reason."""

import ast
from typing import NamedTuple

from tests.support.places import ROOT

LINES_OF_FUNCTION = 60
LINES_OF_FILE = 300
# Relative to selfsup/, with the number of its lines at most, which are not to become more. Each says in its docstring
# why it is long.
EXCEPTIONS = {"methods/pair_losses.py": 320}
REASON = "One file, because"  # begins that sentence of the docstring


class Part(NamedTuple):
    lines: int
    name: str


FILES = {str(path.relative_to(ROOT / "selfsup")): path.read_text() for path in (ROOT / "selfsup").rglob("*.py")}


def functions(name: str, text: str) -> list[Part]:
    """Every function of a file, with those inside others and in classes; decorators do not count."""
    return [
        Part((node.end_lineno or node.lineno) - node.lineno + 1, f"{name}:{node.lineno} {node.name}")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def longest(parts: list[Part]) -> list[Part]:
    found = sorted(parts, reverse=True)
    for part in found[:10]:
        print(f"{part.lines:5} {part.name}")
    return found


def test_every_function_fits_on_a_screen() -> None:
    found = longest([part for name, text in FILES.items() for part in functions(name, text)])
    assert len(found) > 1000, "these are not all functions"
    assert not [part for part in found if part.lines > LINES_OF_FUNCTION]


def test_every_file_is_one_room() -> None:
    found = longest([Part(len(text.splitlines()), name) for name, text in FILES.items()])
    long = {part.name: part.lines for part in found if part.lines > LINES_OF_FILE}
    assert long.keys() == EXCEPTIONS.keys(), "too long without a reason, or short enough to be no exception any more"
    for name, lines in long.items():
        assert lines <= EXCEPTIONS[name], f"{name} has become longer"
        assert REASON in (ast.get_docstring(ast.parse(FILES[name])) or ""), f"{name} does not say why it is long"


def test_lines_are_counted() -> None:
    text = "class A:\n    @property\n    def one(self):\n        def two():\n            pass\n\n        return two\n"
    assert functions("a.py", text) == [Part(5, "a.py:3 one"), Part(2, "a.py:4 two")]
