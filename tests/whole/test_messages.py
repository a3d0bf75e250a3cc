"""What people give by mistake, or by another name, is answered with what to do; nothing is cut or changed silently."""

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import shutil
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import selfsup
from selfsup.config.flags import parse
from selfsup.config.recipe_files import load_recipe
from selfsup.evaluation.knn import neighbours_of
from selfsup.methods.simclr import SimCLR
from selfsup.optim.schedules import Cosine, Horizon, SimCLRCosine, SupConCosine
from selfsup.pretraining import pretrain
from selfsup.stages import commands
from selfsup.stages.settings import KNN
from selfsup.storage import checkpoint
from tests.support.tiny import tiny_run

SAID = [
    ("--learning-rate=0.1", "did you mean --optimizer.learning-rate"),
    ("--bs=8", "did you mean --batch-size"),
    ("--batch=8", "did you mean --batch-size"),
    ("--data-dir=x", "did you mean --data.root"),
    ("--temperature=1", "did you mean --method.temperature"),
    ("--gpus=2", "accelerate launch --num_processes"),
    ("--device=cuda", '"auto" takes the GPU'),
    ("--num-workers=2", "did you mean --workers"),
]


@pytest.mark.parametrize(("flag", "told"), SAID)
def test_common_names_of_flags_are_known(flag: str, told: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse(load_recipe("simclr_cifar10"), [flag], "selfsup pretrain simclr_cifar10")
    assert told in str(refused.value)


@pytest.mark.parametrize("command", ["recipes", "methods", "doctor"])
def test_help_of_commands_without_flags(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.command_of(command)(["--help"]) == 0
    assert capsys.readouterr().out.startswith(f"selfsup {command} ")
    with pytest.raises(ValueError, match=f"selfsup {command} takes .*, not x y"):
        commands.command_of(command)(["x", "y"])


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("knn", "--temperature"),
        ("retrieval", "--recall-at"),
        ("linear", "--l2"),
        ("finetune", "--labelled.fraction"),
        ("distill", "--alpha"),
        ("predict", "--bank"),
        ("evaluate", "--worst"),
        ("cluster", "--repeats"),
        ("embed", "--save-every"),
        ("search", "--recall"),
        ("dedup", "--similarity"),
        ("compare", "--out"),
        ("import", "--layout"),
        ("export", "--part"),
        ("replay", "--precision"),
        ("pack", "--jpeg"),
        ("data", "--strict"),
    ],
)
def test_help_shows_every_flag_without_a_run(command: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        commands.command_of(command)(["--help"])
    assert ended.value.code in (0, None)
    assert flag in capsys.readouterr().out


def test_no_flag_shows_the_description_of_its_neighbour() -> None:
    docstrings = pytest.importorskip("tyro._docstrings")
    modules = [module.name for module in pkgutil.walk_packages(selfsup.__path__, "selfsup.")]
    shared = []
    for name in modules:
        if name.endswith("__main__") or name.startswith("selfsup.recipes"):
            continue
        for _, found in inspect.getmembers(importlib.import_module(name), inspect.isclass):
            for kind in (found, getattr(found, "Config", None)):
                if kind is None or not dataclasses.is_dataclass(kind) or kind.__module__ != name:
                    continue
                told = defaultdict(list)
                for field in dataclasses.fields(kind):
                    told[docstrings.get_field_docstring(kind, field.name, ())].append(field.name)
                shared += [(kind, names) for text, names in told.items() if text and text != "likewise" and names[1:]]
    assert not shared


def test_the_number_of_neighbours_fits_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    labels = torch.tensor([0] * 30 + [1] * 6 + [2] * 100)
    assert neighbours_of((), labels, leave_one_out=False) == (6,)
    assert "6 neighbours vote and not the usual 200" in capsys.readouterr().err
    assert neighbours_of((), labels, leave_one_out=True) == (5,)
    assert neighbours_of((), torch.arange(40) % 2, leave_one_out=False) == (4,)  # a tenth
    assert neighbours_of((), torch.arange(3), leave_one_out=True) == (1,)
    capsys.readouterr()
    assert neighbours_of((), torch.arange(10_000) % 10, leave_one_out=False) == (200,)
    assert not capsys.readouterr().err
    assert neighbours_of((500, 136, 3), labels, leave_one_out=False) == (136, 3)
    assert "k is 500, and there are 136 images to be found" in capsys.readouterr().err


def test_a_wrong_number_is_shown_as_it_was_given() -> None:
    with pytest.raises(ValueError, match="k is 0; give numbers of neighbours"):
        KNN(k=(0,))


def test_what_a_check_says_of_a_flag_is_said_as_it_is() -> None:
    with pytest.raises(ValueError, match=r"^max_steps is 0; it must be at least 1\nall flags: "):
        parse(load_recipe("simclr_cifar10"), ["--max-steps=0"], "selfsup pretrain simclr_cifar10")
    with pytest.raises(ValueError, match=r"^Jitter.hue is 0.9; .*\nall flags: "):
        parse(load_recipe("simclr_cifar10"), ["--augment.views.0.jitter.hue=0.9"], "selfsup pretrain simclr_cifar10")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--epochs x", "--epochs is x; wanted a whole number"),
        ("--seed 0 --epochs=1.5", "--epochs is 1.5; wanted a whole number"),
        ("--optimizer.learning_rate fast --seed 0", "--optimizer.learning-rate is fast; wanted a number"),
        ("--max-steps x", "--max-steps is x; wanted a whole number or None"),
        ("--data.channels five", "--data.channels is five; wanted a whole number or rgb"),
        ("--augment.views.0.mean x", "--augment.views.0.mean is x; wanted numbers, with spaces between them"),
        ("--augment.views.0.crop-scale a b --seed 0", "--augment.views.0.crop-scale is a b; wanted two numbers"),
        ("--compile x", "x belongs to no flag"),
        ("--epochs", "--epochs has no value"),
        ("--epochs 3 --epochs x", "--epochs is x; wanted a whole number"),  # of several the last counts
        ("--precision half", "--precision is half; wanted one of auto, fp32, tf32, bf16, fp16"),
    ],
)
def test_a_value_of_another_kind_is_named_with_what_is_wanted(flags: str, told: str) -> None:
    """In words of the field, not in those of Python or of the library that reads the command line."""
    with pytest.raises(ValueError) as refused:
        parse(load_recipe("simclr_cifar10"), flags.split(), "selfsup pretrain simclr_cifar10")
    assert str(refused.value) == f"{told}\nall flags: selfsup pretrain simclr_cifar10 --help-all"


@pytest.mark.parametrize(
    "schedule", [Cosine(warmup_epochs=2), SimCLRCosine(warmup_epochs=2), SupConCosine(warmup_epochs=2)]
)
def test_the_peak_is_where_the_warm_up_ends(schedule: Cosine) -> None:
    horizon = Horizon(64, 8, 6)
    warmup = schedule.warmup(horizon)
    assert warmup == 16
    assert max(range(horizon.total_steps), key=lambda step: schedule(step, horizon)) in (warmup - 1, warmup)


def test_a_warm_up_longer_than_the_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain(tiny_run(tmp_path / "run", schedule=Cosine(warmup_epochs=5), epochs=1, max_steps=1))
    assert "the warm-up of 40 steps is not shorter than the run of 8" in capsys.readouterr().err


def test_views_larger_than_the_canvas_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    for name in "abcdefgh":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (20, 20), (number * 60, 0, 0)).save(tmp_path / "photos" / name / f"{number}.png")
    run = tiny_run(tmp_path / "run", root=str(tmp_path / "photos"), epochs=1, max_steps=1)
    pretrain(replace(run, data=replace(run.data, canvas=8)))
    assert "are cut from images of 8 (data.canvas), and so are enlarged" in capsys.readouterr().err


def test_a_full_disk_names_the_reserve_and_no_checkpoint_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {"method": {"w": torch.zeros(100)}}
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    with pytest.raises(
        checkpoint.StorageError, match=r"bytes needed beside a reserve of 1048576, 1048576 free"
    ) as first:
        checkpoint.save(tmp_path, 1, tensors, {})
    assert "untouched" not in str(first.value)
    monkeypatch.undo()
    checkpoint.save(tmp_path, 1, tensors, {})
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    with pytest.raises(checkpoint.StorageError, match="the checkpoint before this one is untouched"):
        checkpoint.save(tmp_path, 2, tensors, {})


def test_settings_are_checked_in_one_way() -> None:
    """What must hold of them, by `require`: so that a number that is none is refused too."""
    checks, others = 0, []
    for path in (Path(selfsup.__file__).parent).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
                within = list(ast.walk(node))
                others += [f"{path}:{part.lineno}" for part in within if isinstance(part, ast.Raise)]
                checks += sum(isinstance(part, ast.Name) and part.id == "require" for part in within)
    assert not others
    assert checks > 100


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature is nan; give a number above 0"):
        SimCLR.Config(temperature=float("nan"))
