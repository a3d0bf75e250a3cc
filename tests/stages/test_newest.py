"""Every stage judges a run that is not finished, by its newest checkpoint, and says so."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import METHODS, tiny_run

from selfsup import checkpoint
from selfsup.config import Data
from selfsup.data.labelled import Labelled
from selfsup.folder import RunFolder
from selfsup.pretrain import pretrain
from selfsup.stages.base import Result, keep, read
from selfsup.stages.cluster import clustering_settings, run_cluster
from selfsup.stages.distill import distill_settings, run_distill
from selfsup.stages.encoder import load_encoder
from selfsup.stages.features import Embed, run_embed
from selfsup.stages.finetune import finetune_settings, run_finetune
from selfsup.stages.knn import KNN, run_knn
from selfsup.stages.linear import run_linear
from selfsup.stages.newest import newest_encoder
from selfsup.stages.probes import probe_settings
from selfsup.stages.retrieval import Retrieval, run_retrieval


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("method", METHODS)
def test_it_is_what_an_export_at_that_step_would_hold(tmp_path: Path, method: str) -> None:
    """A run that ends with the checkpoint has exported the same bits, and so has its head."""
    run = tiny_run(tmp_path / "run", method, "shapes:64", epochs=1, max_steps=None)
    pretrain(run)
    finished = load_encoder(tmp_path / "run")
    for path in (tmp_path / "run").glob("*.safetensors"):
        path.unlink()
    (tmp_path / "run" / "encoder.json").unlink()
    before = files(tmp_path / "run")
    found = newest_encoder(tmp_path / "run")
    assert found.sha256 == finished.sha256
    assert (found.config, found.feed) == (finished.config, finished.feed)
    assert found.step == finished.made_by["steps"]
    assert (found.head is None) == (finished.head is None)
    if found.head is not None and finished.head is not None:
        assert checkpoint.serialize(found.head.state_dict()) == checkpoint.serialize(finished.head.state_dict())
    images = torch.rand(2, 3, 16, 16)
    assert found.encoder(images).equal(finished.encoder(images))
    assert files(tmp_path / "run") == before


DATA = Data(root="shapes:128")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after 3 of 8 steps."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    pretrain(tiny_run(folder, epochs=1, max_steps=3))
    return folder


def test_every_stage_takes_it_and_says_the_step(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(stopped, tmp_path / "run")
    quick: dict[str, Any] = {"epochs": 1, "batch_size": 16, "device": "cpu", "workers": 0, "evaluate_every": 0}
    tuned = replace(finetune_settings("sgd", DATA), labelled=Labelled(per_class=4), **quick)
    taught = replace(distill_settings("features", DATA, newest_encoder(run).config), **quick)
    capsys.readouterr()
    ended = [
        run_knn(run, KNN(data=DATA, device="cpu", k=(5,))),
        run_retrieval(run, Retrieval(data=DATA, device="cpu")),
        run_cluster(run, clustering_settings("dbscan", DATA)),
        run_embed(run, Embed(data=DATA, device="cpu", out=str(tmp_path / "f.npy"))),
        run_linear(run, replace(probe_settings("moco", DATA), **quick)),
        run_finetune(run, tuned),
        run_distill(run, taught),
    ]
    steps = [result.protocol["pretraining_step"] for one in ended for result in one.results]
    assert steps == [3] * 7
    assert capsys.readouterr().err.count("is that of step 3") == 7
    folders = {path.name for path in run.iterdir() if path.is_dir()}
    assert {"linear_moco_step3", "finetune_4_per_class_step3", "distill_features_step3"} <= folders, folders


def test_a_finished_export_comes_first(stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = shutil.copytree(stopped, tmp_path / "run")
    pretrain(tiny_run(run, epochs=1))
    capsys.readouterr()
    assert newest_encoder(run).step is None
    assert not capsys.readouterr().err


def test_results_of_two_steps_and_of_the_end_stand_side_by_side(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    for sha, step in (("a", 3), ("b", 6), ("c", None), ("d", None)):
        protocol = {"k": 5} | ({} if step is None else {"pretraining_step": step})
        keep(folder, [Result(stage="knn", figures={"top1": 0.5}, protocol=protocol, about={"encoder_sha256": sha})])
    assert [result.about["encoder_sha256"] for result in read(folder, "knn")] == ["d", "b", "a"]


def test_what_cannot_be_judged_is_refused(stopped: Path, tmp_path: Path) -> None:
    run = shutil.copytree(stopped, tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(ValueError, match="neither an encoder nor a checkpoint"):
        newest_encoder(run)
    with pytest.raises(ValueError, match="there is no encoder"):
        newest_encoder(tmp_path)
