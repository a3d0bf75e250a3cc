"""Short flags mean their long ones, help shows the common ones first, examples are true, and a shell completes them."""

import re
import shlex
import shutil
import subprocess

import pytest

from selfsup.config.flag_help import recipe_help
from selfsup.config.flags import flag_names, flags_in, in_full, parse, values_of
from selfsup.config.recipe_files import load_recipe, recipe_names
from selfsup.stages import commands
from selfsup.stages.completion import completion, flags_of
from selfsup.stages.settings import HELP, Compare, Replay, help_of
from selfsup.usage import EXAMPLES, USAGE, leading_words


def test_short_flags_mean_their_long_ones() -> None:
    recipe = load_recipe("simclr_cifar10")
    for flags in (["--lr", "0.5", "--data", "a", "b"], ["--lr=0.5", "--data", "a", "b"]):
        run = parse(recipe, flags, "selfsup pretrain simclr_cifar10")
        assert (run.optimizer.learning_rate, run.data.roots) == (0.5, ("a", "b"))
        assert flags_in(flags) == {"--optimizer.learning-rate", "--data.root"}
        assert values_of(flags, "--data.root") == ["a", "b"]
    assert in_full(["--lr", "x=--lr", "--data=--lr"], ["--data.root"]) == ["--lr", "x=--lr", "--data.root=--lr"]
    with pytest.raises(ValueError, match="unknown flag --lr"):
        parse(Compare(), ["--lr", "1"], "selfsup compare")


@pytest.mark.parametrize("name", ["simclr_cifar10", "moco_v3_vit_imagenet", "spcl_wildlife_uda"])
def test_the_help_of_a_recipe_shows_common_flags_first(name: str) -> None:
    recipe = load_recipe(name)
    told = recipe_help(recipe, name)
    lines = told.splitlines()
    flags = [line.split()[0] for line in lines if line.startswith("  --")]
    assert flags[:5] == ["--lr", "--epochs", "--batch-size", "--size", "--data"]
    assert set(in_full(flags, flag_names(recipe))) - {"--size"} <= set(flag_names(recipe))
    assert f"now {recipe.epochs}" in next(line for line in lines if line.startswith("  --epochs"))
    counted = sum(map(int, re.findall(r"\((\d+)\)", told)))
    shown = len(set(in_full(flags, flag_names(recipe)))) - 1 + 1  # --size stands for that of the first view
    assert counted == len(flag_names(recipe)) - shown
    assert told.endswith("--help-all")
    assert max(len(line) for line in lines if "accelerate" not in line) <= 80


def test_all_flags_are_behind_help_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        commands.command_of("pretrain")(["simclr_cifar10", "--help-all"])
    assert "--augment.views.0.jitter.hue" in capsys.readouterr().out
    assert commands.command_of("pretrain")(["simclr_cifar10", "--help", "--size", "48"]) == 0
    told = capsys.readouterr().out
    assert "now 48" in told
    assert "--augment.views.0.jitter.hue" not in told


@pytest.mark.parametrize("command", EXAMPLES)
def test_examples_are_taken(command: str) -> None:
    for example in EXAMPLES[command]:
        words, flags = leading_words(shlex.split(example))
        assert words
        if command in ("compare", "replay"):
            parse(Compare() if command == "compare" else Replay(), flags, command)
            continue
        about = help_of(command)
        if "--protocol" in flags:
            protocol = flags.pop(flags.index("--protocol") + 1)
            flags.remove("--protocol")
            assert protocol in about.protocols
        else:
            protocol = about.protocols[0] if about.protocols else ""
        parse(about.settings(protocol), flags, command)
    assert command in HELP or command not in ("knn", "embed")


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_shell_completes_commands_recipes_and_flags() -> None:
    script = completion("bash")
    asked = {
        "pretr": ["pretrain"],
        "pretrain simclr_cifar10_": ["simclr_cifar10_cpu"],
        "knn --temp": ["--temperature"],
        "pretrain x --l": ["--log-every", "--log-to", "--lr"],
        "knn ru": [],
    }
    lines = [
        f"COMP_WORDS=(selfsup {words}); COMP_CWORD={len(words.split())}; _selfsup; echo ${{COMPREPLY[*]}}"
        for words in asked
    ]
    done = subprocess.run(["bash"], input="\n".join([script, *lines]), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [" ".join(found) for found in asked.values()]
    assert "bashcompinit" in completion("zsh")
    with pytest.raises(ValueError, match="no completion for 'fish'; there is for bash and zsh"):
        completion("fish")


def test_every_command_has_its_flags() -> None:
    for command in (
        "knn",
        "linear",
        "finetune",
        "distill",
        "cluster",
        "predict",
        "pack",
        "import",
        "export",
        "compare",
    ):
        assert len(flags_of(command)) > 3, command
        assert f"selfsup {command} " in USAGE
    assert {"--lr", "--data", "--size", "--method.queue-size"} <= set(flags_of("pretrain"))
    assert len(recipe_names()) > 30
