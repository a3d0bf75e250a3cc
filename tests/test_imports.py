"""The layers of the house: imports go downward only."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    [
        *(
            "randomness",
            "arithmetic",
            "distributed",
            "parent",
            "inherited",
            "schedules",
            "config",
            "stored_names",
            "schema",
            "flags",
            "recipe_files",
            "data.batch",
            "data.levels",
        ),
        *("checkpoint", "sealed", "tensor_file", "saving", "untrusted", "parts", "packages", "output"),
    ],
    ["losses", "memory", "models", "augment", "data", "optim", "cluster", "monitor"],
    ["methods"],
    [
        "begun",
        "folder",
        "same_data",
        "extending",
        "interruption",
        "watch",
        "training",
        "sharding",
        "state",
        "caching",
        "guard",
        "trainer",
        "precision",
    ],
    ["pretrain", "stages", "catalogue"],
    ["cli", "launch", "__main__", "recipes"],
]


def layer_of(module: str) -> int:
    """The layer of a module named without its leading `selfsup.`, by the longest prefix in the table."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        for number, names in enumerate(LAYERS):
            if ".".join(parts[:length]) in names:
                return number
    raise AssertionError(f"selfsup.{module} belongs to no layer: add it to LAYERS")


def imported(path: Path) -> set[str]:
    """Modules of selfsup that a file imports, also inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "selfsup":
            base = node.module.removeprefix("selfsup").lstrip(".")
            found |= {base} if base else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("selfsup.") for alias in node.names if alias.name.startswith("selfsup.")}
    return found


MODULES = sorted(p for p in (ROOT / "selfsup").rglob("*.py") if p.name != "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downward(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT / "selfsup").with_suffix("").parts)
    for name in imported(path):
        assert layer_of(name) <= layer_of(module), f"{module} (layer {layer_of(module)}) imports {name}"


def test_losses_import_torch_alone() -> None:
    for path in (ROOT / "selfsup" / "losses").glob("*.py"):
        for name in imported(path):
            assert name.startswith("losses"), f"{path.name} imports selfsup.{name}"


def test_every_package_is_installed() -> None:
    """setup.cfg lists the packages one by one; a forgotten one would be missing from an installation."""
    listed = (ROOT / "setup.cfg").read_text()
    for init in (ROOT / "selfsup").rglob("__init__.py"):
        package = ".".join(init.parent.relative_to(ROOT).parts)
        assert f"\n    {package}\n" in listed, package
