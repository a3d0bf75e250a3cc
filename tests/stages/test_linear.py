"""The published probes on the trainer: settings, starts, resume, few labels, and an unchanged backbone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from selfsup.augment.views import Augment
from selfsup.data.labelled import Labelled
from selfsup.data.settings import Data
from selfsup.data.sources import open_source
from selfsup.evaluation.encoder import load_encoder
from selfsup.evaluation.logistic import FeatureProbe
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Cosine, Horizon, Steps
from selfsup.pretraining import pretrain
from selfsup.stages import supervised
from selfsup.stages.linear import run_linear
from selfsup.stages.probes import LinearProbe, Probe, probe_settings
from selfsup.storage import checkpoint
from tests.support.tiny import tiny_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    pretrain(tiny_run(folder, epochs=1))
    return folder


def short(protocol: str, **changes: object) -> Probe:
    settings = probe_settings(protocol, Data(root="shapes:200"))
    assert isinstance(settings, Probe)
    return replace(settings, epochs=1, batch_size=50, device="cpu", **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("protocol", ["moco", "simclr", "supcon"])
def test_published_probes_learn_and_leave_the_backbone_alone(finished: Path, protocol: str) -> None:
    settings = short(protocol)
    before = (finished / "encoder.safetensors").read_bytes()
    result = run_linear(finished, settings).results[0].flat()
    assert 0 < result["linear_top1"] <= result["linear_top5"] <= 1
    assert result["epochs"] == 1
    assert (finished / "encoder.safetensors").read_bytes() == before
    again = run_linear(finished, settings).results[0].flat()  # finished already: judged again from its checkpoint
    assert again["linear_top1"] == result["linear_top1"]


def test_published_settings_are_as_published() -> None:
    moco, simclr, supcon = (probe_settings(protocol, Data()) for protocol in ("moco", "simclr", "supcon"))
    assert isinstance(moco, Probe)
    assert isinstance(simclr, Probe)
    assert isinstance(supcon, Probe)
    assert moco.optimizer == SGD.Config(learning_rate=30.0, weight_decay=0.0)
    assert moco.optimizer.peak(256) == 30
    assert simclr.optimizer == SGD.Config(learning_rate=0.1, weight_decay=0.0, nesterov=True)
    assert simclr.optimizer.peak(512) == pytest.approx(0.2)
    assert simclr.optimizer.peak(4096) == pytest.approx(1.6)
    assert supcon.optimizer.peak(512) == supcon.optimizer.peak(256) == 5
    assert [(probe.epochs, probe.batch_size) for probe in (moco, simclr, supcon)] == [
        (100, 256),
        (100, 512),
        (100, 512),
    ]
    assert [probe.initialisation for probe in (moco, simclr, supcon)] == ["normal", "zeros", "uniform"]
    assert [probe.crop_scale for probe in (moco, simclr, supcon)] == [(0.08, 1.0), (0.08, 1.0), (0.2, 1.0)]


def test_published_schedules_fall_where_published() -> None:
    horizon = Horizon(2560, 256, 100)  # 10 steps an epoch

    def factors(schedule: Steps | Cosine, epochs: tuple[int, ...]) -> list[float]:
        return [schedule(epoch * 10, horizon) for epoch in epochs]

    moco, simclr, supcon = (probe_settings(protocol, Data()) for protocol in ("moco", "simclr", "supcon"))
    assert isinstance(moco, Probe)
    assert isinstance(simclr, Probe)
    assert isinstance(supcon, Probe)
    assert isinstance(moco.schedule, Steps)
    assert isinstance(simclr.schedule, Cosine)
    assert isinstance(supcon.schedule, Steps)
    assert factors(moco.schedule, (59, 60, 79, 80)) == pytest.approx([1, 0.1, 0.1, 0.01])
    assert factors(simclr.schedule, (0, 50, 100)) == pytest.approx([1, 0.5, 0])
    assert factors(supcon.schedule, (59, 60, 74, 75, 89, 90)) == pytest.approx([1, 0.2, 0.2, 0.04, 0.04, 0.008])


def test_classifiers_start_as_published() -> None:
    torch.manual_seed(0)
    encoder = ResNet.Config(depth="small", stem="small").build()  # 128 features
    starts = {}
    for name in ("zeros", "normal", "uniform"):
        method = LinearProbe(encoder, 500, name).requires_grad_(False)  # type: ignore[arg-type]
        starts[name] = method.heads[0]
    for name, deviation in (("zeros", 0.0), ("normal", 0.01), ("uniform", 128**-0.5 / 3**0.5)):
        assert float(starts[name].weight.std()) == pytest.approx(deviation, rel=0.02), name
    assert starts["uniform"].weight.abs().max() <= 128**-0.5
    assert 0 < starts["uniform"].bias.abs().max() <= 128**-0.5
    assert not starts["normal"].bias.any()
    assert not starts["zeros"].bias.any()


def test_a_probe_that_was_stopped_goes_on_to_the_same_bits(finished: Path, tmp_path: Path) -> None:
    states = []
    for name, stops in (("whole", ()), ("cut", (1, 3))):
        settings = short("supcon", folder=str(tmp_path / name))
        for step in stops:
            stopped = run_linear(finished, replace(settings, max_steps=step))
            assert (stopped.results, stopped.reason) == ([], "max-steps")
        assert len(run_linear(finished, settings).results) == 1
        found, _ = checkpoint.load_newest(tmp_path / name / "checkpoints")
        assert found is not None
        states.append({**found.tensors["method"], **found.tensors["optimizer"]})
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


def test_few_labels_have_results_of_their_own(finished: Path, tmp_path: Path) -> None:
    few = Labelled(per_class=5, seed=3)
    result = run_linear(finished, short("simclr", labelled=few, folder=str(tmp_path / "few"))).results[0]
    assert result.stage == "linear_simclr_5_per_class_seed3"
    assert (result.protocol["labels"], result.protocol["train_images"]) == ("5_per_class", 50)
    assert result.about["labels_seed"] == 3
    other = replace(few, seed=4)
    with pytest.raises(ValueError, match="another configuration"):
        run_linear(finished, short("simclr", labelled=other, folder=str(tmp_path / "few")))
    fast = FeatureProbe(data=Data(root="shapes:200"), l2=(0.01,), device="cpu")
    results = [run_linear(finished, replace(fast, labelled=part)).results[0] for part in (Labelled(), few, other)]
    assert results[0].protocol["train_images"] == 200
    few_said = {"labels": "5_per_class", "train_images": 50, "data": results[1].protocol["data"]}
    assert results[0].protocol | few_said == results[1].protocol
    assert results[1].protocol == results[2].protocol
    assert results[1].about["labels_sha256"] != results[2].about["labels_sha256"]


def test_a_list_that_was_changed_is_another_probe(finished: Path, tmp_path: Path) -> None:
    listed = Labelled(file=str(tmp_path / "list.txt"))
    settings = replace(short("simclr", labelled=listed, folder=str(tmp_path / "few")), epochs=2, max_steps=1)
    for first in (0, 10):
        names = [f"shapes-train[{row}]" for row in range(first, first + 60)]
        (tmp_path / "list.txt").write_text("\n".join(names))
        if not first:
            assert run_linear(finished, settings).reason == "max-steps"
    with pytest.raises(ValueError, match=r"facts\.labelled"):
        run_linear(finished, settings)


def test_crops_are_those_of_the_protocol(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views = []

    def record(settings: Probe, build: object, source: object, augment: Augment, *_: object, **chosen: object) -> None:
        views.extend(augment.views)
        raise InterruptedError

    monkeypatch.setattr(supervised, "train", record)
    for protocol in ("moco", "supcon"):
        with pytest.raises(InterruptedError):
            run_linear(finished, short(protocol, folder=str(tmp_path)))
    assert [view.crop_scale for view in views] == [(0.08, 1.0), (0.2, 1.0)]
    assert [(view.flip, view.grayscale, view.jitter.brightness) for view in views] == [(0.5, 0.0, 0.0)] * 2


def test_embeddings_can_be_probed(finished: Path) -> None:
    settings = FeatureProbe(data=Data(root="shapes:200"), l2=(0.01,), device="cpu")
    backbone, head = (
        run_linear(finished, replace(settings, layer=layer)).results[0] for layer in ("backbone", "embedding")
    )
    assert head.protocol == backbone.protocol | {"layer": "embedding"}
    assert head.figures != backbone.figures


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
    names = np.array(["ape", "bat", "cat", "cow", "dog", "eel"])
    for beside, named in (({}, "5"), ({"classes": names}, "eel")):
        np.savez(tmp_path / "a.npz", **parts, **beside)
        with pytest.raises(ValueError, match=f"1 of the test classes have no training image: {named}\n"):
            run_linear(finished, FeatureProbe(data=Data(root=str(tmp_path / "a.npz"))))
    np.savez(tmp_path / "b.npz", **parts | {"y_train": np.zeros(20, dtype=int), "y_test": np.zeros(20, dtype=int)})
    with pytest.raises(ValueError, match="only one class"):
        run_linear(finished, FeatureProbe(data=Data(root=str(tmp_path / "b.npz"))))
    assert len(open_source(str(tmp_path / "b.npz"), "test")) == 20
