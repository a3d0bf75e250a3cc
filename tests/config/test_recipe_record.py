"""The record of a recipe says all that its file says, and nothing of its own."""

import ast
import re

import pytest

from selfsup.config.recipe_files import load_recipe, recipe_names, recipes_folder
from selfsup.config.recipe_record import matching, record
from selfsup.stages.listing import list_recipes


def words(text: str) -> list[str]:
    return re.findall(r"\S+", text)


@pytest.mark.parametrize("name", recipe_names())
def test_no_word_of_a_docstring_is_lost(name: str) -> None:
    told = record(name, 80)
    docstring = ast.get_docstring(ast.parse((recipes_folder() / f"{name}.py").read_text())) or ""
    assert not set(words(docstring)) - set(words(" ".join(told).replace(f"{name}: ", "")))
    commands = [line for line in told if re.match(r" +(selfsup|accelerate) ", line)]
    assert max(map(len, set(told) - {told[0], *commands, *(line for line in told if "--start" in line)})) <= 80


def test_a_record_holds_what_to_expect_on_what_and_how_long() -> None:
    told = record("simclr_cifar10_cpu", 1000)
    rows = {line[:12].strip(): line[12:] for line in told if line[:12].strip() and line[11:12] == " "}
    assert rows["expected"].startswith("In the quickstart, about 9 minutes: kNN 0.525")
    assert (rows["hardware"], rows["time"]) == ("two CPU cores", "about 9 minutes")
    recipe = load_recipe("simclr_cifar10_cpu")
    assert rows["epochs"] == f"{recipe.epochs}, in batches of {recipe.batch_size}"
    assert rows["views"] == "2 of each image, 32 x 32 pixels"
    assert f"learning_rate={recipe.optimizer.learning_rate}" in rows["optimizer"]
    assert rows["optimizer"].startswith("SGD(")
    assert "momentum" not in rows["optimizer"]  # as by default
    published = record("moco_v2_imagenet", 1000)
    assert any("hardware" in line and "8 processes, a GPU for each" in line for line in published)
    assert any("time" in line and "not measured" in line for line in published)
    assert any("expected" in line and "67.5 % by linear probe" in line for line in published)
    measured = record("moco_v3_cifar10_cpu", 1000)
    assert any("measured" in line and "docs/results/transformers_cpu.md" in line for line in measured)


def test_recipes_are_found_by_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert list_recipes(["--for", "CIFAR cpu"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert "simclr_cifar10_cpu" in listed
    assert not {"simclr_folder", "simclr_imagenet"} & set(listed)
    assert listed == matching("cifar cpu")
    assert list_recipes([]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == recipe_names()
    for asked, named in ((["--for", "no such words"], "no recipe is about"), (["simclr_cifr10"], "did you mean")):
        with pytest.raises(ValueError, match=named):
            list_recipes(asked)
