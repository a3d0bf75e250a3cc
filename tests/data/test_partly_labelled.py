"""Images some of which have a label: pretraining takes all, what needs labels takes those that have one and says so."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selfsup.data.settings import Data
from selfsup.data.sources import open_source
from selfsup.evaluation.encoder import load_encoder
from selfsup.evaluation.logistic import FeatureProbe
from selfsup.methods.simclr import SimCLR
from selfsup.pretraining import learnt_from, pretrain
from selfsup.stages.base import data_of
from selfsup.stages.cluster import run_cluster
from selfsup.stages.finetune import run_finetune
from selfsup.stages.finetune_settings import finetune_settings
from selfsup.stages.knn import run_knn
from selfsup.stages.linear import run_linear
from selfsup.stages.retrieval import run_retrieval
from selfsup.stages.settings import KNN, KMeans, Retrieval
from tests.support.encoders import export_untrained
from tests.support.tiny import tiny_run

QUIET = {"device": "cpu", "workers": 0}


def arrays(path: Path, known: int = 90, test: int = 30) -> Path:
    """128 training shapes of which the last have no label, and 40 test shapes of which the last have none."""
    parts: dict[str, np.ndarray] = {}
    for split, count, labelled in (("train", 128, known), ("test", 40, test)):
        source = open_source(f"shapes:{count}", split)  # type: ignore[arg-type]
        parts[f"x_{split}"] = np.stack([np.asarray(source.load(n)) for n in range(count)])
        parts[f"y_{split}"] = source.labels.numpy().copy()
        parts[f"y_{split}"][labelled:] = -1
    np.savez(path, **parts)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and an encoder that has seen nothing."""
    folder = tmp_path_factory.mktemp("partly")
    arrays(folder / "some.npz")
    run = tiny_run(folder)
    torch.manual_seed(0)
    export_untrained(folder, run.encoder, run.feed)
    return folder


def test_pretraining_takes_all_and_is_judged_on_those_with_a_label(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run(tmp_path / "run", root=str(place / "some.npz"), epochs=1, evaluate_every=1, knn_k=5)
    result = pretrain(run)
    assert "knn_top1" in result
    assert "linear_top1" in result
    told = capsys.readouterr().err
    assert "128 training images, 10 classes, 38 without a label" in told
    assert "90 of 128 training images have a label" in told
    assert "30 of 40 test images have a label" in told
    assert result["total_steps"] == 8  # 16 images each: of all 128


@pytest.mark.parametrize("method", ["supcon", "xbm"])
def test_methods_that_learn_from_labels_take_those_with_one(
    place: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run(tmp_path / "run", method, str(place / "some.npz"))
    source = open_source(run.data.root)
    assert len(learnt_from(run, source)) == 90
    assert "90 of 128 training images have a label; the others are left out here" in capsys.readouterr().err
    assert len(learnt_from(replace(run, method=SimCLR.Config(), sampling=tiny_run(tmp_path).sampling), source)) == 128
    nothing = open_source(run.data.root, labels="none")
    assert learnt_from(run, nothing) is nothing  # which the method refuses


def judged(command: Any, place: Path, settings: Any) -> tuple[dict[str, Any], dict[str, float]]:
    (result, *_) = command(place / "encoder.safetensors", settings).results
    return result.protocol, result.figures


def test_stages_take_those_with_a_label_and_say_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = Data(root=str(place / "some.npz"))
    knn, _ = judged(run_knn, place, KNN(data=data, k=(5,), **QUIET))
    assert (knn["bank_images"], knn["query_images"], knn["classes"]) == (90, 30, 10)
    told = capsys.readouterr().err
    assert "90 of 128 training images have a label; the others are left out here" in told
    assert "30 of 40 test images have a label; the others are left out here" in told
    linear, _ = judged(run_linear, place, FeatureProbe(data=data, l2=(0.1,), iterations=5, **QUIET))
    assert (linear["train_images"], linear["test_images"]) == (90, 30)
    assert judged(run_retrieval, place, Retrieval(data=data, mode="leave_one_out", **QUIET))[0]["gallery_images"] == 30
    assert judged(run_cluster, place, KMeans(data=data, repeats=1, **QUIET))[0]["k"] == 10
    tuned = replace(
        finetune_settings("sgd", data), epochs=1, batch_size=30, folder=str(place / "tuned"), evaluate_every=0, **QUIET
    )
    assert judged(run_finetune, place, tuned)[0]["labelled_images"] == 90


def test_figures_are_those_of_the_labelled_part_alone(place: Path, tmp_path: Path) -> None:
    """A label of -1 that were taken for a class would change them."""
    with np.load(place / "some.npz") as whole:
        kept = {name: whole[name][: 90 if "train" in name else 30] for name in whole}
    np.savez(tmp_path / "kept.npz", **kept)
    settings = [KNN(data=Data(root=str(root)), k=(5,), **QUIET) for root in (place / "some.npz", tmp_path / "kept.npz")]
    first, second = (judged(run_knn, place, one)[1] for one in settings)
    assert first == second


def test_without_any_label_it_is_said_what_took_them_away(place: Path) -> None:
    data = Data(root=str(place / "some.npz"), labels="none")
    for command, settings in (
        (run_knn, KNN(data=data, **QUIET)),
        (run_linear, FeatureProbe(data=data, **QUIET)),
        (run_retrieval, Retrieval(data=data, **QUIET)),
        (run_finetune, finetune_settings("sgd", data)),
    ):
        with pytest.raises(ValueError, match=r"data\.labels is none; give --data\.labels auto"):
            command(place / "encoder.safetensors", settings)


def test_stages_read_as_the_run_did(tmp_path: Path) -> None:
    """Else an encoder of stretched pixels would be judged on black ones."""
    data = Data(root="shapes:128", range="0:4095")
    run = tiny_run(tmp_path / "run", epochs=1, data=data)
    pretrain(run)
    assert data_of(tmp_path / "run").range == "0:4095"
    assert data_of(tmp_path / "run" / "encoder.safetensors").range == "0:4095"
    assert load_encoder(tmp_path / "run").feed.range == "0:4095"
    (result, *_) = run_knn(tmp_path / "run", KNN(data=data, k=(5,), **QUIET)).results
    assert result.protocol["range"] == "0:4095"
    with pytest.raises(ValueError, match=r'data\.range: "0:4095" -> "file"'):
        pretrain(replace(run, data=replace(data, range="file")))
