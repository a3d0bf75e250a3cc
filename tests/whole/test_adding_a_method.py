"""docs/adding_a_method.md, carried out as it stands: its blocks put in their places in a copy of the checkout."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.places import ROOT

IMPORTS = "from tests.contracts.naive_dcl import dcl_loss\nfrom selfsup.methods.dcl import DCL\n"


def blocks() -> dict[str, str]:
    """Path -> content, of the blocks of code that begin with the name of their file."""
    text = (ROOT / "docs" / "adding_a_method.md").read_text()
    found = re.findall(r"```python\n# (\S+)\n(.*?)```", text, flags=re.DOTALL)
    return dict(found)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages and tests with the example in it: two new files, a recipe, and a line."""
    copy = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "selfsup", copy / "selfsup")
    shutil.copytree(ROOT / "recipes", copy / "selfsup" / "recipes")  # where an installation has them
    shutil.copytree(ROOT / "tests", copy / "tests")
    for name in ("setup.cfg", "ruff.toml"):
        shutil.copy(ROOT / name, copy)
    for name, content in blocks().items():
        path = copy / name.replace("recipes/", "selfsup/recipes/")
        if path.exists():
            assert name == "tests/contracts/cases.py"
            text = path.read_text()
            end = text.rindex("]")
            content = text[:end] + content + text[end:]
            content = content.replace(
                "from tests.contracts.naive_instdisc", f"{IMPORTS}from tests.contracts.naive_instdisc", 1
            )
        path.write_text(content)
    return copy


def run(checkout: Path, *words: object) -> str:
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=checkout, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_example_is_two_files_a_recipe_and_a_line() -> None:
    assert list(blocks()) == [
        "selfsup/methods/dcl.py",
        "recipes/dcl_cifar10_cpu.py",
        "tests/contracts/cases.py",
        "tests/contracts/naive_dcl.py",
    ]
    assert len(blocks()["tests/contracts/cases.py"].splitlines()) == 1


def test_the_example_keeps_every_contract(checkout: Path) -> None:
    run(checkout, "-m", "tests.contracts.write_traces", "dcl")
    out = run(checkout, "-m", "pytest", "tests/contracts", "-k", "dcl", "-p", "no:cacheprovider")
    assert "passed" in out or "100%" in out


def test_the_example_is_found_and_trains(checkout: Path, tmp_path: Path) -> None:
    table = run(checkout, "-m", "selfsup", "methods")
    assert "selfsup.methods.dcl.DCL" in table
    assert "dcl_cifar10_cpu" in table
    words = "pretrain dcl_cifar10_cpu --data.root shapes:64 --batch-size 16 --max-steps 5 --device cpu".split()
    out = run(checkout, "-m", "selfsup", *words, "--method.temperature", 0.3, "--folder", tmp_path / "run")
    assert json.loads(out.splitlines()[-1])["step"] == 5


def test_the_example_is_in_the_house_style(checkout: Path) -> None:
    files = [checkout / name.replace("recipes/", "selfsup/recipes/") for name in blocks() if "cases" not in name]
    run(checkout, "-m", "ruff", "check", *files)
    run(checkout, "-m", "ruff", "format", "--check", *files)
