"""Many rates at once: each classifier is the one that would be trained alone, and the test images choose nothing."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selfsup.augment.views import Augment
from selfsup.data.settings import Data
from selfsup.data.sources import open_source
from selfsup.evaluation.encoder import load_encoder
from selfsup.evaluation.features import Features
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Cosine
from selfsup.pretraining import pretrain
from selfsup.run_folder.folder import RunFolder
from selfsup.stages import linear, supervised
from selfsup.stages.base import Result
from selfsup.stages.linear import run_linear, split, validation
from selfsup.stages.probes import LinearProbe, Probe, Sweep
from selfsup.stages.supervised import plain_view
from selfsup.storage import checkpoint
from tests.support.exact import assert_equal_to_rounding, in_double
from tests.support.processes import run_processes
from tests.support.tiny import tiny_run

RATES = (0.1, 1.0, 10.0)


def sweep(folder: Path, **changes: Any) -> Sweep:
    settings = Sweep(
        protocol="sweep",
        data=Data(root="shapes:120"),
        epochs=2,
        batch_size=20,
        optimizer=SGD.Config(learning_rate=1.0, weight_decay=0.0),
        schedule=Cosine(),
        learning_rates=RATES,
        folder=str(folder),
        workers=0,
        device="cpu",
    )
    return replace(settings, **changes)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    pretrain(tiny_run(folder, epochs=1))
    return folder


@pytest.fixture(scope="module")
def whole(encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("sweep") / "whole"
    return folder, run_linear(encoder, sweep(folder)).results[0]


def state(folder: Path) -> dict[str, torch.Tensor]:
    found, _ = checkpoint.load_newest(folder / "checkpoints")
    assert found is not None
    return found.tensors["method"]


@pytest.mark.parametrize("number", [0, 2])
def test_a_head_is_the_probe_trained_alone(
    encoder: Path, whole: tuple[Path, Result], tmp_path: Path, number: int
) -> None:
    settings, exported = sweep(tmp_path), load_encoder(encoder)
    alone = Probe(
        protocol="simclr",
        data=settings.data,
        epochs=2,
        batch_size=20,
        optimizer=SGD.Config(learning_rate=RATES[number], weight_decay=0.0),
        schedule=settings.schedule,
        workers=0,
        device="cpu",
    )
    learnt, _ = split(settings, open_source("shapes:120"))
    view = plain_view(exported.feed)
    supervised.train(
        alone,
        lambda: LinearProbe(exported.encoder, 10, "zeros"),
        learnt,
        Augment(views=(view,)),
        RunFolder(tmp_path / "alone"),
        {},
    )
    one, many = state(tmp_path / "alone"), state(whole[0])
    for name in ("weight", "bias"):
        assert one[f"heads.0.{name}"].abs().max() > 0
        torch.testing.assert_close(many[f"heads.{number}.{name}"], one[f"heads.0.{name}"], rtol=1e-5, atol=1e-6)


def test_the_held_out_tenth_is_not_trained_on() -> None:
    source = open_source("shapes:120")
    source.labels = torch.arange(120)  # each image is known by its label
    for seed in (0, 1):
        learnt, held = split(sweep(Path(), seed=seed), source)
        assert len(held) == 12
        assert sorted([*learnt.labels.tolist(), *held.labels.tolist()]) == list(range(120))
    assert split(sweep(Path()), source)[1].labels.tolist() != held.labels.tolist()


def test_validation_judges_every_head() -> None:
    torch.manual_seed(0)
    encoder = ResNet.Config(depth="small", stem="small", width=0.25).build()
    method = LinearProbe(encoder, 4, "uniform", RATES)
    rows, labels = torch.randn(30, encoder.feature_dim), torch.randint(0, 4, (30,))
    judged = validation(method, Features(rows, labels, torch.arange(30)), torch.device("cpu"))
    for rate, head in zip(RATES, method.heads, strict=True):
        hits = sum(int(head(row).argmax()) == int(label) for row, label in zip(rows, labels, strict=True))
        assert judged[rate] == pytest.approx(hits / 30)


def test_the_best_on_held_out_images_is_reported(whole: tuple[Path, Result]) -> None:
    about = whole[1].about
    told = about["validation_top1"]
    assert list(told) == ["0.1", "1", "10"]
    assert told[f"{about['learning_rate']:g}"] == max(told.values())
    assert about["learning_rate_at_edge"] == (about["learning_rate"] != 1.0)
    assert whole[1].protocol["learning_rates"] == RATES
    assert "learning_rate" not in whole[1].protocol


def test_test_labels_do_not_change_the_choice(encoder: Path, tmp_path: Path) -> None:
    train, test = (open_source("shapes:120", part) for part in ("train", "test"))
    results = []
    for shift in (0, 1):
        parts = {
            "x_train": np.stack([np.asarray(train.load(n)) for n in range(120)]),
            "y_train": train.labels.numpy(),
            "x_test": np.stack([np.asarray(test.load(n)) for n in range(50)]),
            "y_test": (test.labels[:50].numpy() + shift) % 10,
        }
        np.savez(tmp_path / f"{shift}.npz", **parts)
        settings = sweep(tmp_path / str(shift), data=Data(root=str(tmp_path / f"{shift}.npz")), epochs=1)
        results.append(run_linear(encoder, settings).results[0])
    assert results[0].about["learning_rate"] == results[1].about["learning_rate"]
    assert results[0].about["validation_top1"] == results[1].about["validation_top1"]
    assert results[0].figures != results[1].figures


def test_a_sweep_that_was_stopped_goes_on_to_the_same_bits(
    encoder: Path, whole: tuple[Path, Result], tmp_path: Path
) -> None:
    settings = sweep(tmp_path / "cut")
    assert run_linear(encoder, replace(settings, max_steps=3)).reason == "max-steps"
    result = run_linear(encoder, settings).results[0]
    assert result.figures == whole[1].figures
    cut, uncut = state(tmp_path / "cut"), state(whole[0])
    assert all(torch.equal(cut[name], uncut[name]) for name in uncut)


def run_here(encoder: Path, settings: Sweep) -> dict[str, Any]:
    """`run_linear`, in a process group that exists already."""
    result = run_linear(encoder, settings).results[0]
    return {"figures": result.figures, "told": result.about["validation_top1"]}


def train_exactly(encoder: Path, settings: Sweep) -> None:
    """All steps but the last in double precision, in which a frozen backbone counts as unchanged when its weights are.

    The heads of a finished sweep would meet features in single precision.
    """
    digest = linear._digest
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear, "_digest", lambda network: digest(deepcopy(network).float()))
        assert in_double(run_linear, encoder, replace(settings, max_steps=9)).reason == "max-steps"


def train_exactly_and_run(encoder: Path, exact: Sweep, settings: Sweep) -> dict[str, Any]:
    train_exactly(encoder, exact)
    return run_here(encoder, settings)


def test_two_processes_are_one(encoder: Path, whole: tuple[Path, Result], tmp_path: Path) -> None:
    train_exactly(encoder, sweep(tmp_path / "one"))
    results = run_processes(2, train_exactly_and_run, encoder, sweep(tmp_path / "two"), sweep(tmp_path / "both"))
    assert results[0] == results[1]
    assert_equal_to_rounding(state(tmp_path / "two"), state(tmp_path / "one"))
    assert results[0]["told"].keys() == whole[1].about["validation_top1"].keys()
    for rate, judged in results[0]["told"].items():  # of 12 images; one may change places by rounding
        assert judged == pytest.approx(whole[1].about["validation_top1"][rate], abs=1.5 / 12)


def test_bad_rates_are_named() -> None:
    for rates in ((), (0.0, 1.0)):
        with pytest.raises(ValueError, match="learning_rates is"):
            sweep(Path(), learning_rates=rates)
    with pytest.raises(ValueError, match="each value once"):
        sweep(Path(), learning_rates=(1.0, 1.0))
    with pytest.raises(ValueError, match="clip_norm is of all"):
        sweep(Path(), clip_norm=1.0)
