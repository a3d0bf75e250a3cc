"""Every shipped recipe computes the same in any number of processes, with its own settings.

One recipe of each method is run here, in one process and in two; tests/reliability/recipes.py runs all, in more.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from selfsup.config.recipe_files import load_recipe, recipe_names
from tests.support.distance import distance
from tests.support.in_double import InDouble
from tests.support.processes import run_processes
from tests.support.small_recipes import IMAGES, small, trained
from tests.support.tiny import array_file

NAMES = (
    "instdisc_cifar10_cpu",
    "moco_v2_cifar10_cpu",
    "moco_v3_cifar10_cpu",
    "mochi_cifar10_cpu",
    "simclr_cifar10_cpu",
    "simclr_v2_cifar10_cpu",
    "supcon_cifar10_cpu",
    "supmoco_cifar10_cpu",
    "spcl_omniglot_cpu",
    "spcl_wildlife_uda_cpu",
    "metric_cars_cpu",
    "xbm_cars_cpu",
)
NEAR = 1e-5  # views are in single precision, and their rounding may depend on how many are made at a time

Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, list[Results]]:
    """What comes of each recipe in one process, and in each of two."""
    folder = tmp_path_factory.mktemp("recipes")
    root = str(array_file(folder / "shapes.npz", IMAGES))
    one, two = ([replace(small(name, root, folder / place), max_steps=2) for name in NAMES] for place in ("one", "two"))
    return trained(one), run_processes(2, trained, two)


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_compute_what_one_does(name: str, results: tuple[Results, list[Results]]) -> None:
    one, two = results
    for kind, expected in one[name].items():
        assert distance(two[0][name][kind], expected) <= NEAR, kind
    assert torch.equal(two[0][name]["losses"], two[1][name]["losses"])


def test_small_recipes_keep_what_batch_norm_is_over() -> None:
    """And all that is no size of anything, in every recipe."""
    for name in recipe_names():
        run, shipped = small(name, "shapes", Path()), load_recipe(name)
        assert isinstance(run.method, InDouble)
        for field in ("batch_norm", "batch_norm_splits", "temperature", "momentum", "symmetric", "domains", "neck"):
            assert getattr(run.method.method, field, None) == getattr(shipped.method, field, None), (name, field)
        for field in ("optimizer", "schedule", "epochs", "start", "precision", "clip_norm", "seed"):
            assert getattr(run, field) == getattr(shipped, field), (name, field)


def test_every_method_has_a_recipe_here() -> None:
    methods = {type(load_recipe(name).method) for name in NAMES}
    assert methods == {type(load_recipe(name).method) for name in recipe_names()}
