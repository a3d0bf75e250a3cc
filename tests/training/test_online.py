"""Online evaluation: the figures of a run are those of the commands on the same images."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selfsup.data.base import Source
from selfsup.data.settings import Data
from selfsup.data.sources import open_source, subset
from selfsup.evaluation.encoder import load_encoder
from selfsup.evaluation.features import Features, extract
from selfsup.evaluation.knn import knn_accuracy
from selfsup.evaluation.logistic import ONLINE_ITERATIONS, FeatureProbe, hold_out, probe_features
from selfsup.pretraining import Run, pretrain
from selfsup.stages.linear import run_linear
from tests.support.tiny import tiny_run

CPU = torch.device("cpu")


def judged(folder: Path, **changes: Any) -> tuple[Run, dict[str, Any]]:
    run = replace(tiny_run(folder, epochs=1), evaluate_every=1, knn_bank=100, knn_queries=60, knn_k=9, **changes)
    return run, pretrain(run)


def features(run: Run, source: Source) -> Features:
    exported = load_encoder(Path(run.folder))
    return extract(exported.encoder, source, exported.feed.center(), CPU)


def test_the_figures_are_those_of_the_exported_encoder(tmp_path: Path) -> None:
    run, result = judged(tmp_path / "run", probe_l2=0.03)
    bank = features(run, subset(open_source("shapes:128", "train"), 100))
    queries = features(run, subset(open_source("shapes:128", "test"), 60))
    assert (len(bank.labels), len(queries.labels)) == (100, 60)
    assert result["knn_top1"] == knn_accuracy(bank, queries, 9, 0.1)["top1"]
    assert result["linear_top1"] == probe_features(bank, queries, (0.03,), ONLINE_ITERATIONS).figures["top1"]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert f'"linear_top1": {result["linear_top1"]}' in lines


def test_the_figure_is_that_of_the_command(tmp_path: Path) -> None:
    run, result = judged(tmp_path / "run", data=Data(root="shapes:60"), probe_l2=0.1)
    settings = FeatureProbe(data=run.data, l2=(0.1,), iterations=ONLINE_ITERATIONS, device="cpu")
    assert run_linear(tmp_path / "run", settings).results[0].figures["linear_top1"] == result["linear_top1"]


def test_without_test_images_a_tenth_is_held_out(tmp_path: Path) -> None:
    source = open_source("shapes:128", "train")
    np.savez(
        tmp_path / "a.npz",
        images=np.stack([np.asarray(source.load(n)) for n in range(128)]),
        labels=source.labels.numpy(),
    )
    run, result = judged(tmp_path / "run", data=Data(root=str(tmp_path / "a.npz")))
    bank = features(run, subset(source, 100))
    known, asked = hold_out(bank)
    assert run.probe_l2 is not None
    assert result["knn_top1"] == knn_accuracy(bank, None, 9, 0.1)["top1"]
    expected = probe_features(known, asked, (run.probe_l2,), ONLINE_ITERATIONS).figures["top1"]
    assert result["linear_top1"] == expected


def test_it_changes_nothing_about_the_run_and_can_be_off(tmp_path: Path) -> None:
    _, watched = judged(tmp_path / "watched")
    _, other = judged(tmp_path / "other", probe_l2=None)
    assert "linear_top1" in watched
    assert "linear_top1" not in other
    assert watched["encoder_sha256"] == other["encoder_sha256"]
    with pytest.raises(ValueError, match=r"probe_l2 is -1\.0"):
        tiny_run(tmp_path, probe_l2=-1.0)
