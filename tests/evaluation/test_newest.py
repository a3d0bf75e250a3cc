"""Every stage judges a run that is not finished, by its newest checkpoint, and says so."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from selfsup.data.labelled import Labelled
from selfsup.data.settings import Data
from selfsup.evaluation.encoder import load_encoder
from selfsup.evaluation.newest import newest_encoder
from selfsup.pretraining import pretrain
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.base import Result, keep, read
from selfsup.stages.cluster import run_cluster
from selfsup.stages.distill import run_distill
from selfsup.stages.distill_settings import distill_settings
from selfsup.stages.embed import run_embed
from selfsup.stages.finetune import run_finetune
from selfsup.stages.finetune_settings import finetune_settings
from selfsup.stages.knn import run_knn
from selfsup.stages.linear import run_linear
from selfsup.stages.probes import probe_settings
from selfsup.stages.retrieval import run_retrieval
from selfsup.stages.semi_settings import semi_settings
from selfsup.stages.settings import KNN, Embed, Retrieval, clustering_settings
from selfsup.storage import checkpoint
from tests.support.sealed_files import put, rewrite
from tests.support.tiny import METHODS, tiny_run


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


# Fine-tuning and distillation


QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 16, "device": "cpu", "workers": 0, "evaluate_every": 0}


@pytest.fixture(scope="module")
def tuned(stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of fine-tuning that was stopped after 2 of 6 steps."""
    folder = tmp_path_factory.mktemp("tuned") / "tuned"
    settings = replace(finetune_settings("sgd", DATA), labelled=Labelled(per_class=4), folder=str(folder), **QUICK)
    ended = run_finetune(stopped, replace(settings, max_steps=2))
    assert (ended.reason, ended.results) == ("max-steps", [])
    return folder


@pytest.fixture(scope="module")
def taught(stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of distillation of features that was stopped after 2 steps."""
    folder = tmp_path_factory.mktemp("taught") / "taught"
    settings = distill_settings("features", DATA, newest_encoder(stopped).config)
    run_distill(stopped, replace(settings, folder=str(folder), max_steps=2, **QUICK))
    return folder


def test_folders_of_fine_tuning_and_distillation_are_judged_before_their_end(
    tuned: Path, taught: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, student = shutil.copytree(tuned, tmp_path / "tuned"), shutil.copytree(taught, tmp_path / "taught")
    of_classes = replace(distill_settings("self", DATA, newest_encoder(run).config), start="teacher", **QUICK)
    capsys.readouterr()
    ended = [
        run_knn(run, KNN(data=DATA, device="cpu", k=(5,), layer="embedding")),
        run_retrieval(student, Retrieval(data=DATA, device="cpu")),
        run_cluster(run, clustering_settings("dbscan", DATA)),
        run_embed(student, Embed(data=DATA, device="cpu", out=str(tmp_path / "f.npy"))),
        run_linear(run, replace(probe_settings("features", DATA), device="cpu")),
        run_distill(run, replace(of_classes, max_steps=1, folder=str(tmp_path / "again"))),
    ]
    steps = [result.protocol["pretraining_step"] for one in ended for result in one.results]
    assert set(steps) == {2}
    assert capsys.readouterr().err.count("is not finished: the encoder is that of step 2") == 6
    assert newest_encoder(tmp_path / "again").class_names == newest_encoder(run).class_names
    assert newest_encoder(run).made_by["method"] == "finetune"
    semi = semi_settings(str(student), "sgd", "self")
    assert semi.distill.student == newest_encoder(student).config


@pytest.mark.parametrize("kind", ["tuned", "taught"])
def test_what_they_are_judged_by_is_what_is_exported_at_their_end(
    kind: str, stopped: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    run = shutil.copytree(request.getfixturevalue(kind), tmp_path / "run")
    if kind == "tuned":
        settings = replace(finetune_settings("sgd", DATA), labelled=Labelled(per_class=4), folder=str(run), **QUICK)
        run_finetune(stopped, settings)
    else:
        student = replace(distill_settings("features", DATA, newest_encoder(stopped).config), folder=str(run), **QUICK)
        run_distill(stopped, student)
    finished = load_encoder(run)
    for path in [*run.glob("*.safetensors"), run / "encoder.json"]:
        path.unlink()
    before = files(run)
    found = newest_encoder(run)
    assert found.sha256 == finished.sha256
    assert (found.config, found.feed, found.made_by) == (finished.config, finished.feed, finished.made_by)
    assert found.head is not None
    assert finished.head is not None
    assert checkpoint.serialize(found.head.state_dict()) == checkpoint.serialize(finished.head.state_dict())
    assert files(run) == before


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("encoder", "width"), 1e9),
        (("encoder", "class"), "os.system"),
        (("head", "num_classes"), 2**63),
        (("feed",), [1]),
        (("made_by",), 5),
        ((), None),
    ],
)
def test_a_description_that_is_none_is_refused(keys: tuple[str, ...], value: Any, tuned: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tuned, tmp_path / "run")
    if keys:
        rewrite(run / "network.json", lambda about: put(value, keys, about))
    else:
        (run / "network.json").unlink()
    with pytest.raises(ValueError, match=r"network\.json|method\.safetensors"):
        newest_encoder(run)
