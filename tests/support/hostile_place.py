"""Where a hostile file is laid out, and the common parts of all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfsup.pretraining import pretrain
from tests.support.tiny import tiny_run

CODE = "__import__('os').system('touch {}')"


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


@dataclass(frozen=True)
class Place:
    """Where a hostile file is laid out: `inside`, with a good run in `run`, and one to go on with in `begun`."""

    inside: Path
    marker: Path

    @property
    def run(self) -> Path:
        return self.inside / "run"

    @property
    def begun(self) -> Path:
        return self.inside / "begun"

    @property
    def recipe(self) -> Path:
        """A recipe whose folder is `begun`. Recipes are code on purpose: whoever runs one trusts it."""
        path = self.inside / "recipe.py"
        path.write_text(_RECIPE.format(folder=str(self.begun)))
        return path

    def file(self, name: str, content: bytes) -> Path:
        path = self.inside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


_RECIPE = """from pathlib import Path
from tests.support.tiny import tiny_run
recipe = tiny_run(Path({folder!r}), root="shapes:48", epochs=1, max_steps=2)
"""

Written = list[str] | Callable[[], object]  # a command line, or a function that ends as a command does
Write = Callable[[Place], Written]


def good_runs(folder: Path) -> Path:
    """What every hostile file is put beside: `run`, which has ended, and `begun`, which goes on by Place.recipe."""
    pretrain(tiny_run(folder / "run", root="shapes:32", epochs=1))
    pretrain(tiny_run(folder / "begun", root="shapes:48", epochs=1, max_steps=1))
    return folder


@dataclass(frozen=True)
class Hostile:
    """A file that means harm, and what a command does with it: it refuses it, or takes no harm from it."""

    name: str
    write: Write
    refused: bool | None = True  # None: either will do


def judge(path: Path | str, root: Path | str = "shapes:20") -> list[str]:
    return ["knn", str(path), "--data.root", str(root), "--device", "cpu", "--workers", "0"]
