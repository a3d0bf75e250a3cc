"""The probes: the fast one against scikit-learn, the published ones on the trainer, with an unchanged backbone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from tiny import tiny_run

from selfsup.config import Data
from selfsup.data.sources import open_source
from selfsup.pretrain import pretrain
from selfsup.stages.embed import Features
from selfsup.stages.encoder import load_encoder
from selfsup.stages.linear import FeatureProbe, Probe, fit_logistic, probe_features, probe_settings, run_linear


def features(count: int, seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    centres = torch.randn(4, 10, generator=torch.Generator().manual_seed(9))
    return Features(centres[labels] + 1.5 * torch.randn(count, 10, generator=generator), labels, torch.arange(count))


def test_logistic_regression_reaches_scikit_learns_minimum() -> None:
    known, l2 = features(300, 0), 0.01
    ours = fit_logistic(known.features, known.labels, 4, l2, iterations=500)
    theirs = LogisticRegression(C=1 / (l2 * 300), tol=1e-8, max_iter=5000).fit(known.features, known.labels)

    def loss(weight: torch.Tensor, bias: torch.Tensor) -> float:
        logits = known.features.double() @ weight.double().T + bias.double()
        return float(F.cross_entropy(logits, known.labels) + 0.5 * l2 * weight.double().square().sum())

    reached = loss(ours.weight.detach(), ours.bias.detach())
    best = loss(torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_))
    assert reached == pytest.approx(best, abs=1e-6)


def test_the_l2_weight_is_chosen_without_the_test_images() -> None:
    known, asked = features(300, 0), features(500, 1)
    sweep = (1e-4, 1e-2, 10.0)
    chosen = probe_features(known, asked, sweep)["l2"]
    assert probe_features(known, asked._replace(labels=(asked.labels + 1) % 4), sweep)["l2"] == chosen
    best = LogisticRegression(max_iter=1000).fit(known.features, known.labels).score(asked.features, asked.labels)
    assert probe_features(known, asked, sweep)["linear_top1"] == pytest.approx(best, abs=0.02)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    pretrain(tiny_run(folder, epochs=1))
    return folder


@pytest.mark.parametrize("protocol", ["moco", "simclr"])
def test_published_probes_learn_and_leave_the_backbone_alone(finished: Path, protocol: str) -> None:
    settings = probe_settings(protocol, Data(root="shapes:200"))
    assert isinstance(settings, Probe)
    settings = replace(settings, epochs=1, batch_size=50, device="cpu", evaluate_every=0)
    before = (finished / "encoder.safetensors").read_bytes()
    result = run_linear(finished, settings).results[0].flat()
    assert result["linear_top1"] > 0
    assert result["epochs"] == 1
    assert (finished / "encoder.safetensors").read_bytes() == before
    again = run_linear(finished, settings).results[0].flat()  # finished already: judged again from its checkpoint
    assert again["linear_top1"] == result["linear_top1"]


def test_published_settings_are_as_published() -> None:
    moco = probe_settings("moco", Data())
    assert isinstance(moco, Probe)
    assert moco.optimizer.peak(256) == 30
    assert [moco.schedule(epoch * 10, _horizon()) for epoch in (59, 60, 80)] == pytest.approx([1, 0.1, 0.01])
    simclr = probe_settings("simclr", Data())
    assert isinstance(simclr, Probe)
    assert simclr.optimizer.peak(512) == pytest.approx(0.2)
    assert simclr.initial_std == 0


def _horizon():  # type: ignore[no-untyped-def]
    from selfsup.schedules import Horizon

    return Horizon(2560, 256, 100)


def test_the_exported_encoder_computes_what_was_trained(finished: Path) -> None:
    exported = load_encoder(finished)
    assert load_encoder(finished / "encoder.safetensors").sha256 == exported.sha256
    assert not exported.encoder.training
    result = run_linear(finished, FeatureProbe(data=Data(root="shapes:128"), l2=(1e-3,), device="cpu"))
    assert result.results[0].about["encoder_sha256"] == exported.sha256


def test_bad_encoders_are_named(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no encoder at"):
        load_encoder(tmp_path)
    copy = tmp_path / "encoder.safetensors"
    copy.write_bytes((finished / "encoder.safetensors").read_bytes())
    with pytest.raises(ValueError, match="must lie beside the weights"):
        load_encoder(copy)
    (tmp_path / "encoder.json").write_bytes((finished / "encoder.json").read_bytes())
    copy.write_bytes(copy.read_bytes()[:-1] + b"\1")
    with pytest.raises(ValueError, match="is damaged"):
        load_encoder(copy)


def test_bad_data_are_named(finished: Path, tmp_path: Path) -> None:
    import numpy as np

    images = np.zeros((20, 16, 16, 3), dtype=np.uint8)
    parts = {"x_train": images, "y_train": np.arange(20) % 2, "x_test": images, "y_test": np.full(20, 5)}
    np.savez(tmp_path / "a.npz", **parts)
    with pytest.raises(ValueError, match=r"test classes \[5\] have no training image"):
        run_linear(finished, FeatureProbe(data=Data(root=str(tmp_path / "a.npz"))))
    np.savez(tmp_path / "b.npz", **parts | {"y_train": np.zeros(20, dtype=int), "y_test": np.zeros(20, dtype=int)})
    with pytest.raises(ValueError, match="only one class"):
        run_linear(finished, FeatureProbe(data=Data(root=str(tmp_path / "b.npz"))))
    assert len(open_source(str(tmp_path / "b.npz"), "test")) == 20
