"""What is not installed: optional packages are asked for where they are used, and each missing one is a sentence."""

import configparser
import json
import subprocess
import sys
from pathlib import Path

import pytest

from selfsup import cli
from selfsup.augment.views import Augment, Views
from selfsup.config.flags import parse
from selfsup.config.recipe_files import load_recipe
from selfsup.packages import PACKAGES, missing, optional
from tests.support.places import ROOT

# Training as a library, and its data, need none of these.
WITHOUT = """
import json, sys
from pathlib import Path
absent = ("tyro", "numba", "kornia", "kornia_rs", "torchvision", "faiss")
absent += ("tensorboard", "matplotlib", "sklearn", "pyarrow")
for name in absent:
    sys.modules[name] = None
from tests.support.tiny import METHODS, tiny_run
from selfsup.catalogue import catalogue
from selfsup import pretrain
result = pretrain(tiny_run(Path(sys.argv[1]), "spcl", max_steps=1))
print(json.dumps({"methods": len(catalogue()), "step": result["step"]}))
"""


def test_training_needs_no_optional_package(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT]
    done = subprocess.run([*command, str(tmp_path / "run")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["step"] == 1
    assert found["methods"] >= 10
    assert done.stderr.count("needs the package tensorboard, which is not installed: pip install tensorboard") == 1
    assert done.stderr.count("numba cannot be imported") == 1
    assert '"loss"' in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_kornia_is_asked_for_with_its_backend_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kornia", None)
    Views(Augment(), 0)
    with pytest.raises(ValueError, match=r'backend "kornia" .* needs the package kornia, .* pip install kornia$'):
        Views(Augment(backend="kornia"), 0)


def test_tyro_is_asked_for_with_flags_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tyro", None)
    recipe = load_recipe("simclr_cifar10")
    assert parse(recipe, [], "x") == recipe
    monkeypatch.setattr(sys, "argv", ["selfsup", "pretrain", "simclr_cifar10", "--seed", "3"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert (
        said == "selfsup: a command line with flags needs the package tyro, which is not installed: pip install tyro\n"
    )


def test_a_required_package_that_is_missing_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in ("matplotlib", "matplotlib.axes", "selfsup.stages.compare"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(sys, "argv", ["selfsup", "compare", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert (
        said == "selfsup: this command needs the package matplotlib, which is not installed: pip install matplotlib\n"
    )


def test_what_is_no_package_of_ours_stays_a_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import no_module_of_this_name\n")
    monkeypatch.setattr(sys, "argv", ["selfsup", "pretrain", str(tmp_path / "mine.py")])
    with pytest.raises(ModuleNotFoundError, match="no_module_of_this_name"):
        cli.main()
    with pytest.raises(ModuleNotFoundError):
        optional("selfsup.no_module", "nothing")
    assert missing(ModuleNotFoundError("x", name="selfsup"), "nothing") is None


def test_the_table_of_packages_is_what_setup_cfg_installs() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"]
    named = ("parquet", "timm", "onnx", "huggingface", "report", "wandb", "mlflow")
    optional_ones = "".join(extras[name] for name in named)
    lines = (config["options"]["install_requires"] + optional_ones).splitlines()
    declared = {line.split(";")[0].split(">")[0].strip() for line in lines} - {"", "faiss-gpu"}
    assert set(PACKAGES.values()) == declared
