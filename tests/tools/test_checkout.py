"""A checkout that is not installed, or beside one that is: what is imported and run is its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from selfsup.config import recipe_files
from tests.support.places import ROOT

# By the names of their modules.
TOOLS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "tools").rglob("*.py")
    if "add_argument(" in path.read_text()
)

# In one process, in which torch is imported once: each tool by its name, then a command with PYTHONPATH=<checkout>.
EVERYTHING = """
import contextlib, io, json, os, runpy, sys
from pathlib import Path
checkout, *tools = sys.argv[1:]
paths = [path for path in sys.path if path != os.getcwd() and path != ""]
found = {}

def forget():
    ours = ("selfsup", "tools", "tests")
    for name in [name for name in sys.modules if name.split(".")[0] in ours]:
        del sys.modules[name]

for tool in tools:
    forget()
    sys.path[:] = [checkout, *paths]
    sys.argv[:] = ["-m", "--help"]
    os.environ.pop("PYTHONPATH", None)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try:
            runpy.run_module(tool, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code
    modules = {str(Path(module.__file__).parents[0]) for name, module in sys.modules.items() if name == "selfsup"}
    found[tool] = [code, "usage" in said.getvalue(), sorted(modules), os.environ.get("PYTHONPATH")]

forget()
sys.path[:] = [checkout, *paths]
sys.argv[:] = ["selfsup", "recipes"]
with contextlib.redirect_stdout(io.StringIO()) as said:
    try:
        runpy.run_module("selfsup", run_name="__main__")
    except SystemExit as end:
        assert not end.code
from selfsup.run_folder.environment import environment
import torch
from importlib import metadata
def nowhere(name): raise metadata.PackageNotFoundError(name)
metadata.version = nowhere
version = environment(torch.device("cpu"))["packages"]["selfsup"]
print(json.dumps({"tools": found, "recipes": said.getvalue(), "version": version}))
"""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another checkout than the one that is installed here, with a recipe of its own."""
    place = tmp_path_factory.mktemp("other") / "checkout"
    for folder in ("selfsup", "recipes", "tools", "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "golden", "releases")
        shutil.copytree(ROOT / folder, place / folder, ignore=ignored)
    shutil.copy(ROOT / "setup.cfg", place)
    shutil.copy(place / "recipes" / "simclr_cifar10.py", place / "recipes" / "only_in_the_copy.py")
    return place


def test_tools_and_commands_are_those_of_the_checkout(copy: Path, tmp_path: Path) -> None:
    """Started as modules, without an installation of this checkout; what they start finds it by PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", EVERYTHING, str(copy), *TOOLS]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for tool, (code, usage, packages, path) in found["tools"].items():
        assert code == 0, tool
        assert usage, tool
        assert packages == ([] if tool in ("tools.gpu_check", "tools.matrix") else [str(copy / "selfsup")]), (
            tool
        )  # its parts import it later
        assert str(path).split(os.pathsep)[0] == str(copy), tool  # for the programs that it starts
    assert "only_in_the_copy" in found["recipes"]
    assert found["version"] == "checkout"


def test_there_are_tools_to_try() -> None:
    assert {"tools.gpu_check", "tools.reliability", "tools.quickstart", "tools.benchmarks.verify_stages"} <= set(TOOLS)


def test_recipes_that_are_nowhere_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_files, "__file__", str(tmp_path / "selfsup" / "config" / "recipe_files.py"))
    with pytest.raises(ValueError, match=r"the recipes are neither in .*selfsup nor beside it; install selfsup again"):
        recipe_files.recipe_names()
    inside = tmp_path / "selfsup" / "recipes"  # where an installation has them
    inside.mkdir(parents=True)
    for name in ("__init__", "mine"):
        (inside / f"{name}.py").write_text("")
    assert recipe_files.recipe_names() == ["mine"]


def test_a_tool_says_which_package_is_missing(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-m", "tools.benchmarks.knn", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert done.stderr == "tools.benchmarks.knn needs the package torch, which is not installed: pip install torch\n"


@pytest.mark.parametrize("tool", ["tools/prepare_data.py", "tools/benchmarks/augment.py"])
def test_a_program_may_be_started_by_its_path(tool: str, tmp_path: Path) -> None:
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(ROOT / tool), "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True)
    assert (done.returncode, "usage:" in done.stdout) == (0, True), done.stderr
