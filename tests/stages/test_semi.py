"""Pretrain, fine-tune, distil in one command: parts that agree, interruptions in each of them, the baseline beside."""

import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from selfsup import cli
from selfsup.data.labelled import Labelled
from selfsup.data.settings import Data
from selfsup.evaluation.encoder import load_encoder
from selfsup.models.resnet import ResNet
from selfsup.stages.base import Result
from selfsup.stages.finetune import run_finetune
from selfsup.stages.semi import run_semi
from selfsup.stages.semi_settings import Semi, SemiFromRecipe, parse_semi, semi_settings
from selfsup.storage import checkpoint

PARTS = ("pretrain", "finetune", "supervised", "distill")
FLAGS = [*"--labels-per-class 4 --finetune.epochs 2 --finetune.batch-size 20 --distill.epochs 1".split()]
STEPS = {"pretrain": 8, "finetune": 4, "supervised": 4, "distill": 8}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("recipes") / "tiny_recipe.py"
    path.write_text(
        "from dataclasses import replace\nfrom pathlib import Path\nfrom tests.support.tiny import tiny_run\n"
        "recipe = replace(tiny_run(Path(), epochs=1), folder='')\n"
    )
    return str(path)


parsed = cache(lambda name: parse_semi(name, FLAGS))


def semi(name: str, folder: Path, **changes: Any) -> Semi:
    return replace(parsed(name), folder=str(folder), **changes)


@pytest.fixture(scope="module")
def whole(recipe: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    evaluated = run_semi(recipe, semi(recipe, folder))
    assert (evaluated.reason, evaluated.folder) == ("finished", folder)
    return folder, evaluated.results[0]


def steps(folder: Path) -> dict[str, int]:
    return {part: checkpoint.steps(folder / part / "checkpoints")[-1] for part in PARTS if (folder / part).is_dir()}


def test_every_part_is_there_and_the_baseline_has_as_many_steps(whole: tuple[Path, Result]) -> None:
    folder, result = whole
    assert steps(folder) == STEPS
    parts = ("finetune", "supervised", "distill")
    assert set(result.figures) == {f"{part}_{top}" for part in parts for top in ("top1", "top5")} | {"gain_top1"}
    assert result.figures["gain_top1"] == result.figures["finetune_top1"] - result.figures["supervised_top1"]
    for part in parts:
        kept = json.loads((folder / part / "results" / f"{part}.json").read_text())["results"][0]
        (top1,) = (value for name, value in kept["figures"].items() if name in ("finetune_top1", "distill_top1"))
        assert result.figures[f"{part}_top1"] == top1
    assert result.about["encoder_sha256"] == load_encoder(folder / "distill").sha256
    differing = {
        name for name, value in result.protocol["finetune"].items() if result.protocol["supervised"][name] != value
    }
    assert differing == {"start"}


def test_interrupted_in_every_part(recipe: str, whole: tuple[Path, Result], tmp_path: Path) -> None:
    folder, result = whole
    before: dict[str, int] = {}
    for stop in (3, 8, 10, 14, 20):
        evaluated = run_semi(recipe, semi(recipe, tmp_path / "cut", max_steps=stop))
        assert (evaluated.results, evaluated.reason) == ([], "max-steps")
        done = steps(tmp_path / "cut")
        assert sum(done.values()) == stop
        assert all(done[part] >= count for part, count in before.items())
        before = done
    (again,) = run_semi(recipe, semi(recipe, tmp_path / "cut")).results
    assert again == result
    for part in PARTS:
        assert load_encoder(tmp_path / "cut" / part).sha256 == load_encoder(folder / part).sha256, part


def test_finished_parts_are_passed_over(
    recipe: str, whole: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, result = whole
    monkeypatch.setattr("selfsup.stages.semi._carry_out", None)
    assert run_semi(recipe, semi(recipe, folder)).results == [result]


def test_no_time_is_left(recipe: str, tmp_path: Path) -> None:
    evaluated = run_semi(recipe, semi(recipe, tmp_path / "run", max_minutes=1e-9))
    assert (evaluated.results, evaluated.reason) == ([], "max-minutes")
    assert not (tmp_path / "run" / "pretrain").exists()


def test_from_a_run_the_parts_are_those_of_the_single_commands(whole: tuple[Path, Result], tmp_path: Path) -> None:
    folder, result = whole
    pretrained = str(folder / "pretrain")
    settings = semi(pretrained, tmp_path / "taken")
    assert not isinstance(settings, SemiFromRecipe)
    assert (settings.data.root, settings.distill.batch_size) == ("shapes:128", 16)
    (taken,) = run_semi(pretrained, replace(settings, device="cpu", **shared(settings, device="cpu"))).results
    assert (taken.figures, taken.about) == (result.figures, result.about)
    assert not (tmp_path / "taken" / "pretrain").exists()
    tuned = replace(settings.finetune, folder=str(tmp_path / "single"), device="cpu")
    assert run_finetune(Path(pretrained), tuned).results[0].about["encoder_sha256"] == result.about["finetuned_sha256"]


def shared(settings: Semi, **changes: Any) -> dict[str, Any]:
    return {part: replace(training, **changes) for part, training in settings.parts.items()}


def test_settings_follow_from_the_flags(recipe: str) -> None:
    words = "--label-fraction=0.1 --seed 3 --pretrain.encoder.width 0.5 --pretrain.epochs 5 --distill.protocol smaller"
    settings = parse_semi(recipe, [*words.split(), "--supervised.optimizer.learning-rate", "0.7"])
    assert isinstance(settings, SemiFromRecipe)
    assert {part.seed for part in settings.parts.values()} == {3}
    assert settings.finetune.labelled == settings.supervised.labelled == Labelled(fraction=0.1)
    assert (settings.finetune.epochs, settings.supervised.epochs) == (30, 30)
    assert (settings.finetune.start, settings.supervised.start) == ("pretrained", "random")
    assert settings.distill.student == ResNet.Config(depth="small", stem="small", width=0.25)
    assert (settings.distill.epochs, settings.distill.batch_size, settings.distill.temperature) == (5, 16, 1.0)
    assert (settings.finetune.optimizer.learning_rate, settings.supervised.optimizer.learning_rate) == (0.005, 0.7)
    assert parse_semi(recipe, ["--label-fraction", "0.01"]).finetune.epochs == 60
    nesterov = parse_semi(recipe, "--finetune.protocol simclr_v1 --finetune.optimizer.no-nesterov".split())
    assert nesterov.finetune.optimizer.nesterov is nesterov.supervised.optimizer.nesterov is False  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("part", "changes", "named"),
    [
        ("labelled", {"per_class": None}, "no labels are named: give --label-fraction"),
        ("labelled", {"per_class": 50}, r"labelled\.per_class is 50, but of classes"),
        ("finetune", {"seed": 3}, r"finetune\.seed is 3, but all parts have one seed here; give --seed for all"),
        ("pretrain", {"data": Data(root="x")}, r"pretrain\.data is .* give --data"),
        ("distill", {"max_steps": 3}, r"distill\.max_steps is 3"),
        ("distill", {"labelled": Labelled(per_class=3)}, r"distill\.labelled is"),
        ("supervised", {"epochs": 7}, "the baseline has 7 epochs in batches of 20, fine-tuning has 2 in batches of 20"),
        ("supervised", {"start": "pretrained"}, "leave both as they are"),
        ("distill", {"protocol": "features"}, "features learns no classes"),
        ("distill", {"protocol": "smaller", "student": ResNet.Config(depth=18)}, "the student shrinks images 32 times"),
        ("data", {"labels": "none"}, "the images have no labels"),
    ],
)
def test_bad_settings_are_named_before_any_work(
    recipe: str, part: str, changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    settings = semi(recipe, tmp_path / "run")
    settings = replace(settings, **{part: replace(getattr(settings, part), **changes)})
    if part == "data":
        settings = replace(settings, **shared(settings, data=settings.data))
    if part == "labelled":
        labels = {name: replace(getattr(settings, name), labelled=settings.labelled) for name in PARTS[1:3]}
        settings = replace(settings, **labels)
    with pytest.raises(ValueError, match=named):
        run_semi(recipe, settings)
    assert not (tmp_path / "run").exists()


def test_a_method_that_sees_all_labels_is_refused(tmp_path: Path) -> None:
    settings = parse_semi("supcon_cifar10_cpu", "--label-fraction 0.1 --data.root shapes:200".split())
    with pytest.raises(ValueError, match="SupCon learns from the labels of all images"):
        run_semi("supcon_cifar10_cpu", settings)
    with pytest.raises(ValueError, match="there is no recipe"):
        semi_settings("simclr_cifar11")


def test_the_command(
    recipe: str, whole: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, result = whole
    monkeypatch.setattr(sys, "argv", ["selfsup", "semi", recipe, *FLAGS, "--folder", str(folder)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    captured = capsys.readouterr()
    assert not stop.value.code
    line = json.loads(captured.out.splitlines()[-1])
    assert line["reason"] == "finished"
    assert {name: line[name] for name in result.figures} == result.figures
    assert json.loads((folder / "results" / "semi.json").read_text())["results"][0]["figures"] == result.figures
    assert "from scratch" in captured.err


def test_other_labels_or_images_are_refused_though_their_names_are_equal(recipe: str, tmp_path: Path) -> None:
    """Lists and roots may move between launches; what is in them may not change."""
    listed = tmp_path / "list.txt"

    def begin(first: int, root: str = "shapes:128") -> str:
        listed.write_text("\n".join(f"shapes-train[{row}]" for row in range(first, first + 60)))
        flags = ["--labels-file", str(listed), "--data.root", root, "--folder", str(tmp_path / "run")]
        return run_semi(recipe, parse_semi(recipe, [*FLAGS[2:], *flags, "--max-steps", "1"])).reason

    assert begin(0) == "max-steps"
    with pytest.raises(ValueError, match=r"facts\.labelled"):
        begin(10)
    with pytest.raises(ValueError, match="images: 12 images added, the first"):
        begin(0, "shapes:140")


def test_a_run_that_saw_labels_is_refused(whole: tuple[Path, Result], tmp_path: Path) -> None:
    tuned = str(whole[0] / "finetune")
    with pytest.raises(ValueError, match="was trained on labels"):
        run_semi(tuned, replace(parse_semi(tuned, FLAGS), folder=str(tmp_path / "run")))
