"""The order of the house: packages and loose modules import from those before them only, so none import each other."""

import ast
from pathlib import Path

import pytest

from tests.support.places import ROOT

SELFSUP = ROOT / "selfsup"
# From what stands alone to what people run. docs/architecture.md says what each is for.
ORDER = (
    *("packages", "devices", "randomness", "batch", "distributed", "losses", "storage"),
    *("config", "output", "dtensor", "models", "augment", "cluster", "search"),
    *("optim", "memory", "monitor", "runtime"),
    *("methods", "catalogue", "data"),
    "run_folder",
    "training",
    "convert",
    "evaluation",
    "export",
    "report",
    "survey",
    "pretraining",
    "usage",
    "stages",
    *("cli", "__main__", "recipes"),
)
LOOSE = 10  # modules at the top, beside __init__ and __main__


def place(module: str) -> int:
    """Where the package or loose module stands that a module named without its leading `selfsup.` belongs to."""
    top = module.partition(".")[0]
    assert top in ORDER, f"selfsup.{top} has no place yet: add it to ORDER, and to docs/architecture.md"
    return ORDER.index(top)


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


def named(path: Path) -> str:
    return ".".join(path.relative_to(SELFSUP).with_suffix("").parts)


MODULES = sorted(p for p in SELFSUP.rglob("*.py") if p.name != "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downward(path: Path) -> None:
    for name in imported(path):
        assert place(name) <= place(named(path)), f"{named(path)} imports {name}, which stands above it"


def test_few_modules_lie_loose_and_all_have_a_line_in_the_documentation() -> None:
    loose = sorted(path.stem for path in SELFSUP.glob("*.py") if not path.stem.startswith("__"))
    print(f"{len(loose)} loose modules: {', '.join(loose)}")
    assert len(loose) <= LOOSE
    told = (ROOT / "docs" / "architecture.md").read_text()
    missing = [named(path) for path in MODULES if f"`{named(path).split('.')[-1]}`" not in told]
    assert not missing, f"docs/architecture.md does not name {missing}"


def test_losses_import_torch_alone_and_where_double_precision_is() -> None:
    for path in (SELFSUP / "losses").glob("*.py"):
        for name in imported(path):
            assert name.startswith("losses") or name == "devices.double", f"{path.name} imports selfsup.{name}"
    assert not imported(SELFSUP / "devices" / "double.py")


def test_every_package_is_installed() -> None:
    """setup.cfg lists the packages one by one; a forgotten one would be missing from an installation."""
    listed = (ROOT / "setup.cfg").read_text()
    for init in SELFSUP.rglob("__init__.py"):
        package = ".".join(init.parent.relative_to(ROOT).parts)
        assert f"\n    {package}\n" in listed, package
