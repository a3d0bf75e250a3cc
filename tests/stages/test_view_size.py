"""`selfsup pretrain RECIPE --size N` is the same as all the flags that it stands for."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from selfsup.augment import presets
from selfsup.augment.views import Augment
from selfsup.cli import main
from selfsup.config.flags import parse, pop_size
from selfsup.config.recipe_files import load_recipe, recipe_names
from selfsup.data.settings import Data
from selfsup.evaluation.encoder import load_encoder
from selfsup.pretraining import Run
from selfsup.stages.view_size import resized, told
from tests.support.tiny import tiny_run

RECIPE = """
from pathlib import Path

from tests.support.tiny import tiny_run

recipe = tiny_run(Path("run"), root="shapes:64", epochs=1, evaluate_every=1)
"""


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["selfsup", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_one_flag_is_as_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(RECIPE)
    assert called(monkeypatch, "pretrain", "mine.py", "--size", "24", "--folder", "one") == 0
    assert "--size: augment.views.0.size 16 -> 24, augment.views.1.size 16 -> 24\n" in capsys.readouterr().err, (
        "or nobody knows what was changed"
    )
    many = ["--augment.views.0.size", "24", "--augment.views.1.size", "24", "--folder", "many"]
    assert called(monkeypatch, "pretrain", "mine.py", *many) == 0
    one, other = (json.loads(Path(name, "config.json").read_text()) for name in ("one", "many"))
    assert one["run"] | {"folder": ""} == other["run"] | {"folder": ""}
    assert [view["size"] for view in one["run"]["augment"]["views"]] == [24, 24]
    first, second = load_encoder(Path("one")), load_encoder(Path("many"))
    assert first.sha256 == second.sha256
    assert first.feed.size == 24
    assert called(monkeypatch, "pretrain", "mine.py", "--size=24", "--folder", "one") == 0, "it goes on"
    assert called(monkeypatch, "pretrain", "mine.py", "--folder", "one") == 2
    assert "augment.views.0.size: 24 -> 16" in capsys.readouterr().err


def run_of(augment: Augment, **changes: object) -> Run:
    return replace(tiny_run(Path("run")), augment=augment, **changes)


def test_views_of_several_sizes_keep_their_ratio() -> None:
    base = run_of(presets.multi_crop(presets.moco_v2(), small_size=96, count=2))
    small = resized(base, 112)
    assert [view.size for view in small.augment.views] == [112, 112, 48, 48]
    assert small.feed.size == 112
    for old, new in zip(base.augment.views, small.augment.views, strict=True):
        assert replace(new, size=old.size) == old, "nothing else has changed"
    assert next(told(base, small, small)) == (
        "--size: augment.views.0.size 224 -> 112, augment.views.1.size 224 -> 112, augment.views.2.size 96 -> 48, "
        "augment.views.3.size 96 -> 48"
    )
    assert list(told(base, base, base)) == ["--size: as in the recipe, nothing is changed"]


@pytest.mark.parametrize("size", [32, 64, 96, 160, 448])
def test_the_blur_of_simclr_is_that_of_its_size(size: int) -> None:
    assert resized(run_of(presets.simclr()), size).augment == presets.simclr(size)


def test_views_that_are_no_squares_need_both_sides() -> None:
    upright = run_of(presets.reid())  # 256 x 128, shifted by up to 10
    with pytest.raises(
        ValueError, match=r"^size is 128, and views are 256 x 128; give height and width, such as --size 128 64$"
    ):
        resized(upright, 128)
    assert resized(upright, (128, 64)).augment == presets.reid((128, 64), shift=5)
    assert resized(upright, (96, 96)).feed.size == 96
    with pytest.raises(ValueError, match=r"^size is 0; give a side, or height and width, of at least 1 pixel$"):
        resized(run_of(presets.moco_cifar()), 0)


def test_what_does_not_go_well_with_a_size_is_said() -> None:
    base = replace(load_recipe("moco_v2_folder"), data=Data(canvas=144))
    larger, smaller = resized(base, 160), resized(base, 8)
    assert "images are squeezed to a canvas of 144 pixels, smaller than the views; give a larger --data.canvas" in list(
        told(base, larger, larger)
    )
    imagenet = load_recipe("simclr_imagenet")
    tiny = resized(imagenet, 32)
    assert list(told(imagenet, tiny, tiny))[1:] == [
        "the encoder makes images 32 times smaller, and views have 32 pixels; --encoder.stem cifar keeps it larger"
    ]
    assert "augment.views.1.blur.kernel_size 23 -> 15" in next(told(base, smaller, smaller))
    given = parse(tiny, ["--encoder.stem", "cifar"], "selfsup pretrain simclr_imagenet")
    assert len(list(told(imagenet, tiny, given))) == 1


def test_a_transformer_is_built_for_the_size() -> None:
    pytest.importorskip("timm")
    recipe = load_recipe("moco_v3_vit_imagenet")
    small = resized(recipe, 96)
    assert small.encoder == replace(recipe.encoder, image_size=96)
    assert next(told(recipe, small, small)).endswith("encoder.image_size None -> 96")
    small.encoder.build().require_size((96, 96))
    convolutional = replace(recipe.encoder, name="test_convnext", num_heads=None, variant="timm")
    assert resized(replace(recipe, encoder=convolutional), 96).encoder == convolutional


@pytest.mark.parametrize("name", [name for name in recipe_names() if "spcl" not in name])
def test_every_recipe_takes_a_size(name: str) -> None:
    recipe = load_recipe(name)
    size = 64 if isinstance(recipe.augment.views[0].size, int) else (64, 32)
    small = resized(recipe, size)
    assert {view.size for view in small.augment.views} == {size}
    assert small.feed.size == size


def test_the_flag_is_read_with_one_number_or_two() -> None:
    assert pop_size(["--epochs", "3"]) == (None, ["--epochs", "3"])
    assert pop_size(["--epochs", "3", "--size", "32", "--seed", "1"]) == (32, ["--epochs", "3", "--seed", "1"])
    assert pop_size(["--size=32"]) == (32, [])
    assert pop_size(["--size", "64", "32", "--seed", "1"]) == ((64, 32), ["--seed", "1"])
    for flags, wrong in (
        (["--size"], "empty"),
        (["--size="], "empty"),
        (["--size", "1", "2", "3"], "1 2 3"),
        (["--size", "32px"], "32px"),
        (["--size", "-3"], "-3"),
    ):
        with pytest.raises(ValueError, match=rf"^--size is {wrong}; wanted a side in pixels, or height and width$"):
            pop_size(flags)
    with pytest.raises(ValueError, match=r"^--size is given twice; give it once$"):
        pop_size(["--size", "3", "--size=4"])
    recipe = load_recipe("simclr_cifar10")
    with pytest.raises(ValueError, match=r"unknown flag --image-size; did you mean --size\?"):
        parse(recipe, ["--image-size", "32"], "selfsup pretrain simclr_cifar10")
