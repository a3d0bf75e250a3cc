"""How often an encoder is judged while it is trained, and what that costs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from selfsup.batch import Batch
from selfsup.config.recipe_files import load_recipe, recipe_names
from selfsup.config.settings import dump
from selfsup.data.arrays import ArraySource
from selfsup.data.base import Source
from selfsup.data.sources import open_source
from selfsup.evaluation.online import Online
from selfsup.models.resnet import ResNet
from selfsup.pretraining import build_method, pretrain
from selfsup.run_folder.begun import as_begun
from tests.support.tiny import photographs, tiny_run

# Images of the published training sets, for recipes that end with these words.
SIZES = {"cifar10": 50_000, "imagenet": 1_281_167, "imagenet100": 126_689, "wildlife": 25_600, "uda": 51_200}


def asking(every: int | Literal["auto"] = "auto") -> Online:
    return replace(tiny_run(Path("run")).online, every=every)


def images(count: int) -> Source:
    return ArraySource(torch.zeros(count, 3, 1, 1, dtype=torch.uint8), torch.arange(count) % 2)


@pytest.mark.parametrize("passes", [3, 4, 6])
@pytest.mark.parametrize(
    ("judged", "trained"), [(12_000, 30_000), (12_000, 50_000), (60_000, 50_000), (900, 1), (18, 100)]
)
def test_as_few_epochs_as_keep_it_below_the_limit(judged: int, trained: int, passes: int) -> None:
    epochs = asking().interval(images(4), judged, trained, passes)
    assert 100 * judged <= 3 * epochs * passes * trained
    assert epochs == 1 or 100 * judged > 3 * (epochs - 1) * passes * trained
    assert [asking(every).interval(images(4), judged, trained, passes) for every in (0, 1, 7)] == [0, 1, 7]


def test_files_that_are_read_each_time_count_as_they_are_read(tmp_path: Path) -> None:
    source = open_source(str(photographs(tmp_path / "photos", 8)), "train")
    assert asking().interval(source, 9, 100, 6) == 3
    assert asking().interval(images(8), 9, 100, 6) == 1


@pytest.mark.parametrize("method", ["simclr", "moco", "moco_symmetric", "moco_v3", "instdisc"])
def test_passes_of_a_step_are_no_more_than_are_made(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward pass with gradient counts three. Momentum encoders may make more without than are counted."""
    run = tiny_run(Path("run"), method)
    built = build_method(run, images(64))
    made = {True: 0, False: 0}
    forward = ResNet.forward

    def seen(self: ResNet, x: torch.Tensor) -> torch.Tensor:
        made[torch.is_grad_enabled()] += len(x)
        return forward(self, x)

    monkeypatch.setattr(ResNet, "forward", seen)
    views = [torch.randn(16, 3, 16, 16) for _ in run.augment.views]
    built.train()(views, Batch((), torch.arange(16) % 2, torch.arange(16)))
    least = 3 * made[True] // 16
    assert least <= built.passes(len(views)) <= least + made[False] // 16
    assert built.passes(len(views)) > least or not made[False] or method in ("moco_symmetric", "moco_v3")


def test_no_shipped_recipe_spends_more_on_it() -> None:
    """Least of what its steps may cost: one view is learnt from, the others are keys."""
    for name in recipe_names():
        run = load_recipe(name)
        if run.evaluate_every != "auto":
            trained = next(size for word, size in SIZES.items() if name.endswith(word))
            passes = len(run.augment.views) + 2 if name.endswith(("cifar10", "wildlife", "uda")) else 1  # else files
            share = (run.knn_bank + run.knn_queries) / (run.evaluate_every * trained * passes)
            assert share < 0.03, name


def test_a_run_from_before_keeps_what_it_did_by_default(tmp_path: Path) -> None:
    run = replace(tiny_run(tmp_path / "run"), evaluate_every="auto")
    old = dump(run) | {"evaluate_every": 1}
    del old["evaluate_precision"]
    now, notes = as_begun(run, old, 2)
    assert (now.evaluate_every, now.evaluate_precision) == (1, "fp32")
    assert notes == ["evaluate_every is 1", "evaluate_precision is fp32"]
    assert as_begun(replace(run, evaluate_every=4), old | {"evaluate_precision": "run"}, 3)[1] == []
    with pytest.raises(ValueError, match="evaluate_every is -1; give epochs from 1 on, 0 for never, or auto"):
        replace(run, evaluate_every=-1)


def test_a_run_is_judged_so_often_and_at_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run(tmp_path / "run", root="shapes:64", epochs=5, knn_bank=10, knn_queries=10, probe_l2=None)
    pretrain(replace(run, evaluate_every="auto"))
    assert "the encoder is judged every 2 epochs, which takes at most 3 % of the time" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    judged = [line for line in lines if "knn_top1" in line]
    assert [line["step"] for line in judged] == [8, 16, 20]
    assert all(line["seconds_training"] > 0 and line["seconds_evaluation"] > 0 for line in judged)
