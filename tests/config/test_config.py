"""Recipes, flags, JSON and back."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from selfsup.config.flags import flag_names, parse, tyro_error_text
from selfsup.config.recipe_files import load_recipe, recipe_names, recipe_summary
from selfsup.config.settings import differences, dump, restore, result_relevant
from selfsup.methods.moco import MoCo
from selfsup.optim.optimizers import LARS
from selfsup.pretraining import Run


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_survives_json(name: str) -> None:
    recipe = load_recipe(name)
    assert isinstance(recipe, Run)
    assert recipe.name == name
    assert recipe_summary(name).endswith(".")
    assert restore(json.loads(json.dumps(dump(recipe))), Run) == recipe


def test_flags_reach_every_depth() -> None:
    recipe = load_recipe("moco_v2_cifar10")
    flags = [
        "--method.temperature",
        "0.3",
        "--augment.views.1.size",
        "24",
        "--epochs=7",
        "--compile",
        "--data.limit",
        "9",
    ]
    changed = parse(recipe, flags, "selfsup pretrain x")
    assert isinstance(changed.method, MoCo.Config)
    assert (changed.method.temperature, changed.augment.views[1].size, changed.epochs) == (0.3, 24, 7)
    assert changed.compile
    assert changed.data.limit == 9
    assert changed.augment.views[0] == recipe.augment.views[0]


def test_all_listed_flags_are_known_to_the_parser() -> None:
    recipe = load_recipe("simclr_cifar10")
    names = flag_names(recipe)
    for name in ("--method.head.hidden-layers", "--no-compile", "--augment.views.0.jitter.hue", "--max-minutes"):
        assert name in names


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--method.temprature", "0.2"], "did you mean --method.temperature?"),
        (["--epochs", "many"], "--epochs"),
        (["--epochs"], "--epochs"),
        (["--precision", "fp64"], "fp64"),
        (["stray"], "stray"),
    ],
)
def test_wrong_flags_are_named(flags: list[str], named: str) -> None:
    with pytest.raises(ValueError) as error:
        parse(load_recipe("simclr_cifar10"), flags, "selfsup pretrain simclr_cifar10")
    assert named in str(error.value)
    assert len(str(error.value).splitlines()) <= 3


FRAMED = """╭─ Value error ────────────╮
│ Error parsing --a: it is │
│ far too small.           │
│ ──────────────────────── │
│ Argument helptext:       │
╰──────────────────────────╯
"""
PLAIN = """ Value error
 --------------------------
  Error parsing --a: it is
  far too small.
  -------------------------
  Argument helptext:
"""


@pytest.mark.parametrize("box", [FRAMED, PLAIN])
def test_the_whole_message_comes_out_of_its_frame(box: str) -> None:
    assert tyro_error_text(box) == "Error parsing --a: it is far too small."


def test_unknown_recipe_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean simclr_cifar10"):
        load_recipe("simclr_cifar")


def test_recipe_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no recipe file"):
        load_recipe(str(tmp_path / "absent.py"))
    (tmp_path / "empty.py").write_text("x = 1\n")
    with pytest.raises(ValueError, match="must define `recipe"):
        load_recipe(str(tmp_path / "empty.py"))
    (tmp_path / "broken.py").write_text("recipe = (\n")
    with pytest.raises(ValueError, match="not valid Python"):
        load_recipe(str(tmp_path / "broken.py"))
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\nfrom selfsup.config.recipe_files import load_recipe\n"
        "recipe = replace(load_recipe('simclr_folder'), epochs=3)\n"
    )
    assert load_recipe(str(tmp_path / "mine.py")).epochs == 3


def test_restoring_takes_no_class_that_the_field_does_not_declare() -> None:
    saved = dump(load_recipe("simclr_cifar10"))
    saved["optimizer"]["class"] = "subprocess.Popen"
    with pytest.raises(ValueError, match=r"subprocess\.Popen.*allowed here"):
        restore(saved, Run)
    saved = dump(load_recipe("simclr_cifar10"))
    saved["method"] = saved["optimizer"]  # a real configuration, in the wrong place
    with pytest.raises(ValueError, match="allowed here"):
        restore(saved, Run)
    saved = dump(load_recipe("simclr_cifar10"))
    saved["surprise"] = 1
    with pytest.raises(ValueError, match="surprise"):
        restore(saved, Run)


def test_older_files_take_defaults_for_new_fields() -> None:
    recipe = load_recipe("simclr_cifar10")
    saved = dump(recipe)
    del saved["optimizer"]["eta"]
    restored = restore(saved, Run)
    assert isinstance(restored.optimizer, LARS.Config)
    assert restored == recipe


def test_differences_name_the_fields() -> None:
    @dataclass(frozen=True)
    class Inner:
        a: int = 1
        b: tuple[int, ...] = (1, 2)

    @dataclass(frozen=True)
    class Outer:
        inner: Inner = Inner()

    assert differences(dump(Outer()), dump(Outer())) == []
    assert differences(dump(Outer()), dump(Outer(Inner(a=2, b=(1, 3))))) == ["inner.a: 1 -> 2", "inner.b.1: 2 -> 3"]


def test_execution_fields_do_not_count_as_another_run() -> None:
    recipe = load_recipe("simclr_cifar10")
    moved = parse(recipe, ["--max-minutes", "3", "--workers", "7", "--data.root", "/elsewhere"], "x")
    assert result_relevant(moved) == result_relevant(recipe)
    assert result_relevant(parse(recipe, ["--seed", "3"], "x")) != result_relevant(recipe)
