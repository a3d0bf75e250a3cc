"""Files of runs and stages: none says where code lies, and those of schema 1, which did, are what they were."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from selfsup.config.schema import SCHEMA
from selfsup.config.settings import dump, restore
from selfsup.config.stored_names import name_of, place_of
from selfsup.data.labelled import Labelled
from selfsup.data.settings import Data
from selfsup.evaluation.encoder import load_encoder
from selfsup.evaluation.logistic import FeatureProbe
from selfsup.methods.base import Method
from selfsup.methods.simclr import SimCLR
from selfsup.models.resnet import ResNet
from selfsup.pretraining import Run, pretrain
from selfsup.run_folder.begun import completed
from selfsup.run_folder.extending import Extend
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.base import keep, read
from selfsup.stages.cluster import run_cluster
from selfsup.stages.distill import run_distill
from selfsup.stages.distill_settings import distill_settings
from selfsup.stages.finetune import run_finetune
from selfsup.stages.finetune_settings import finetune_settings
from selfsup.stages.knn import run_knn
from selfsup.stages.linear import run_linear
from selfsup.stages.probes import probe_settings
from selfsup.stages.result_table import identity
from selfsup.stages.retrieval import run_retrieval
from selfsup.stages.semi import run_semi
from selfsup.stages.semi_settings import semi_settings, settle
from selfsup.stages.settings import KNN, Retrieval, clustering_settings
from tests.support.sealed_files import rewrite
from tests.support.stored import Mine, in_places, storable
from tests.support.tiny import METHODS, tiny_run

KINDS = [method for method in METHODS if method not in ("moco_v1", "moco_symmetric", "instdisc_softmax")]
# What no run or stage here has: others stand for them.
NOT_TRIED = {"adamw", "constant", "extended", "neck", "simclr_cosine", "supcon_cosine", "timm"} | {
    *("circle", "contrastive", "lifted", "multi_similarity", "n_pair", "triplet")
}


@dataclass(frozen=True, kw_only=True)
class OfSimCLR(SimCLR.Config):
    stored_as: ClassVar[str] = "of_simclr"
    mine: int = 3


_PLACE = re.compile(r"\b(selfsup|stored|tiny)\.[a-z_]\w*\.|\.Config\b|<locals>|stored\.Mine")


def strings(value: Any) -> Iterator[str]:
    """Of a JSON value, keys and all."""
    if isinstance(value, dict | list):
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from strings(item)
    elif isinstance(value, str):
        yield value


def of_schema_1(content: dict[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = in_places({key: item for key, item in content.items() if key != "schema"})
    return changed


NARROW = ResNet.Config(depth="small", stem="small", width=0.0625)
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 16, "device": "cpu", "workers": 0, "evaluate_every": 0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A step of every method, and of a user's own."""
    folder = tmp_path_factory.mktemp("runs")
    for method in KINDS:
        pretrain(tiny_run(folder / method, method, "shapes:64", encoder=NARROW, max_steps=1))
    own = tiny_run(folder / "own", root="shapes:64", encoder=NARROW, max_steps=1)
    pretrain(replace(own, method=Mine()))
    return folder


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was extended, with a folder or a result of every stage."""
    folder = tmp_path_factory.mktemp("judged")
    run = tiny_run(folder / "run", root="shapes:64", encoder=NARROW, epochs=1)
    pretrain(run)
    pretrain(replace(run, extend=Extend(to_epoch=2, schedule="restart")))
    data = Data(root="shapes:64")
    tuned = replace(finetune_settings("simclr_v2", data), labelled=Labelled(per_class=4), **QUICK)
    scratch = replace(tuned, start="random")
    taught = replace(distill_settings("features", data, NARROW), **QUICK)
    stages = {
        "knn": lambda path: run_knn(path, KNN(data=data, device="cpu", k=(5,))),
        "retrieval": lambda path: run_retrieval(path, Retrieval(data=data, device="cpu")),
        "cluster": lambda path: run_cluster(path, clustering_settings("kmeans", data)),
        "features": lambda path: run_linear(path, FeatureProbe(data=data, device="cpu", l2=(0.1,))),
        "linear": lambda path: run_linear(path, replace(probe_settings("moco", data), **QUICK)),
        "sweep": lambda path: run_linear(path, replace(probe_settings("sweep", data), **QUICK)),
        "finetune": lambda path: run_finetune(path, tuned),
        "supervised": lambda path: run_finetune(path, scratch),
        "distill": lambda path: run_distill(path, taught),
    }
    for stage in stages.values():
        ended = stage(folder / "run")
        keep(RunFolder(ended.folder or folder / "run"), ended.results)
    for name in (str(folder / "run"), "simclr_cifar10_cpu"):
        settings = replace(semi_settings(name), data=Data(root="shapes:300"), labelled=Labelled(per_class=4))
        place = str(folder / f"semi_{Path(name).name}")
        run_semi(name, replace(settle(name, settings), folder=place, max_minutes=1e-9))
    return folder


def test_no_file_says_where_code_lies(runs: Path, judged: Path) -> None:
    held = set()
    for path in [*runs.rglob("*.json"), *judged.rglob("*.json"), *judged.rglob("*.jsonl")]:
        for line in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            content = json.loads(line)
            words = [word for word in strings(content) if "/" not in word]
            assert [word for word in words if _PLACE.search(word)] == [], path
            held |= set(classes_in(content))
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in held)
    known = {name_of(kind) for kind in storable()}
    assert held - known == {"mine"}
    assert known - held == NOT_TRIED


def classes_in(value: Any) -> Iterator[str]:
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from classes_in(item)
    if isinstance(value, dict) and "class" in value:
        yield value["class"]


@pytest.mark.parametrize("method", [*KINDS, "own"])
def test_a_run_of_schema_1_is_the_same_run(method: str, runs: Path, tmp_path: Path) -> None:
    folder = RunFolder(shutil.copytree(runs / method, tmp_path / "run"))
    path, saved, facts = folder.path / "config.json", folder.saved_run(), folder.facts()
    run: Run = restore(saved, Run)
    rewrite(path, of_schema_1)
    if method == "own":
        assert path.read_text().count('"class": "mine"') == 2
        path.write_text(path.read_text().replace('"class": "mine"', f'"class": "{place_of(Mine)}"'))
        rewrite(path, dict)
    assert "selfsup.pretrain.Run" in path.read_text()
    assert folder.facts() == facts
    assert restore(folder.saved_run(), Run) == run
    if method not in ("moco", "spcl_domains", "own"):
        return
    again = pretrain(replace(run, folder=str(folder.path)))  # refuses another configuration, and writes the file anew
    assert (again["step"], again["reason"]) == (1, "max-steps")
    assert folder.saved_run() == saved | {"folder": str(folder.path)}
    assert json.loads(path.read_text())["schema"] == SCHEMA == 2


@pytest.mark.parametrize("tile", [None, 5])
def test_a_run_goes_on_without_a_setting_that_is_gone(
    tile: int | None, runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SimCLR's `tile` was one; where it held a number, that is said."""
    folder = RunFolder(shutil.copytree(runs / "simclr", tmp_path / "run"))
    run: Run = restore(folder.saved_run(), Run)
    saved = folder.saved_run() | {"folder": str(folder.path)}

    def with_tile(content: dict[str, Any]) -> None:
        for part in ("run", "result"):
            content[part]["method"]["tile"] = tile

    rewrite(folder.path / "config.json", with_tile)
    before = identity(folder.path)
    with caplog.at_level("INFO", "selfsup"):
        assert pretrain(replace(run, folder=str(folder.path)))["reason"] == "max-steps"
    assert ("tile 5 is ignored: tiles are chosen by the sizes" in caplog.text) == (tile is not None)
    assert folder.saved_run() == saved  # written anew
    assert "tile" not in (folder.path / "config.json").read_text()
    assert identity(folder.path) == before


def test_a_class_made_from_one_that_lost_a_setting_is_read_unless_it_was_set() -> None:
    own = dump(OfSimCLR())
    assert restore(own | {"tile": None}, Method.Config) == OfSimCLR()
    assert completed(own | {"tile": None}, OfSimCLR()) == own
    with pytest.raises(ValueError, match="configuration of of_simclr has unknown fields: tile"):
        restore(own | {"tile": 5}, Method.Config)
    assert completed(own | {"tile": 5}, OfSimCLR())["tile"] == 5


def test_stages_of_schema_1_go_on_and_their_results_are_replaced(judged: Path, tmp_path: Path) -> None:
    run = shutil.copytree(judged / "run", tmp_path / "run")
    for path in [*run.rglob("config.json"), *run.rglob("encoder.json"), *run.rglob("results/*.json")]:
        rewrite(path, of_schema_1)
    assert '"selfsup.models.resnet.ResNet.Config"' in (run / "encoder.json").read_text()
    assert load_encoder(run).config == NARROW
    assert identity(run) == identity(judged / "run")
    data = Data(root="shapes:64")
    tuned = replace(finetune_settings("simclr_v2", data), labelled=Labelled(per_class=4), **QUICK)
    for settings in (tuned, replace(tuned, start="random")):
        ended = run_finetune(run, settings)
        assert ended.reason == "finished"
        place = RunFolder(cast(Path, ended.folder))
        before = read(place, "finetune") or read(place, "supervised")
        assert "sgd" in str(before) or "lars" in str(before)
        keep(place, ended.results)
        assert (read(place, "finetune") or read(place, "supervised")) == before  # and none beside it


@pytest.mark.parametrize("name", ["config.json", "encoder.json", "results/knn.json"])
@pytest.mark.parametrize(
    ("schema", "told"),
    [(3, r"written by a newer version \(schema 3, this one reads 2\); install"), ("2", "does not say which schema")],
)
def test_files_of_a_newer_schema_are_refused(
    name: str, schema: object, told: str, judged: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(judged / "run", tmp_path / "run")
    rewrite(run / name, lambda content: content | {"schema": schema})
    attempts: dict[str, Callable[[], object]] = {
        "config.json": lambda: pretrain(tiny_run(run, root="shapes:64", encoder=NARROW, epochs=1)),
        "encoder.json": lambda: load_encoder(run),
        "results/knn.json": lambda: read(RunFolder(run), "knn"),
    }
    with pytest.raises(ValueError, match=told) as error:
        attempts[name]()
    assert str(run / name) in str(error.value)
