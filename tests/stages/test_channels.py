"""Runs on images of one and of five channels, and every stage on what comes of them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

import selfsup
from selfsup.augment import presets
from selfsup.augment.views import Augment
from selfsup.data.base import ArraySource
from selfsup.data.labelled import Labelled
from selfsup.data.settings import Data
from selfsup.evaluation.encoder import load_encoder
from selfsup.evaluation.logistic import FeatureProbe
from selfsup.evaluation.newest import newest_encoder
from selfsup.export.table import table
from selfsup.models.resnet import ResNet
from selfsup.pretraining import Run, pretrain
from selfsup.stages.base import data_of
from selfsup.stages.cluster import run_cluster
from selfsup.stages.distill import run_distill
from selfsup.stages.distill_settings import distill_settings
from selfsup.stages.embed import run_embed
from selfsup.stages.evaluate import run_evaluate
from selfsup.stages.exporting import Export, run_export
from selfsup.stages.finetune import run_finetune
from selfsup.stages.finetune_settings import finetune_settings
from selfsup.stages.knn import run_knn
from selfsup.stages.linear import run_linear
from selfsup.stages.predict import run_predict
from selfsup.stages.probes import probe_settings
from selfsup.stages.retrieval import run_retrieval
from selfsup.stages.settings import KNN, Embed, Evaluate, Predict, Retrieval, clustering_settings
from selfsup.training.channels import statistics
from tests.support.tiny import tiny_run

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 16, "device": "cpu", "workers": 0}
SMALL = ResNet.Config(depth="small", stem="small", width=0.25)


def pictures(channels: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 20, 20, C) uint8 noise about the brightness of one of two classes, which the last channel alone tells."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = draw.integers(20, 120, (count, 20, 20, channels))
    images[..., -1] += 110 * labels[:, None, None]
    return images.astype(np.uint8), labels


def saved(folder: Path, channels: int) -> Path:
    x_train, y_train = pictures(channels, 64, 0)
    x_test, y_test = pictures(channels, 24, 1)
    path = folder / f"of_{channels}.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


def run_of(folder: Path, root: Path, channels: int, **changes: Any) -> Run:
    run = tiny_run(folder, root=str(root), epochs=1, evaluate_every=1, knn_k=5)
    augment = replace(run.augment, colour=False)
    data = replace(run.data, channels=channels)
    return replace(run, augment=augment, data=data, encoder=replace(SMALL, in_channels=channels), **changes)


@pytest.fixture(scope="module", params=[1, 5])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, Any]:
    channels, folder = request.param, tmp_path_factory.mktemp("trained")
    result = pretrain(run_of(folder / "run", saved(folder, channels), channels))
    return folder / "run", channels, result


def test_a_run_keeps_how_its_images_are_fed(trained: tuple[Path, int, Any]) -> None:
    path, channels, result = trained
    assert result["reason"] == "finished"
    assert 0 <= result["knn_top1"] <= 1
    images = pictures(channels, 64, 0)[0]
    mean, std = statistics(ArraySource(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()))
    assert len(mean) == channels
    exported = load_encoder(path)
    assert (exported.feed.mean, exported.feed.std) == (mean, std)
    assert exported.config == replace(SMALL, in_channels=channels)
    saved_run = json.loads((path / "config.json").read_text())["run"]
    assert {tuple(view["mean"]) for view in saved_run["augment"]["views"]} == {mean}
    assert data_of(path).channels == channels
    assert data_of(path / "encoder.safetensors").channels == channels
    again = pretrain(run_of(path, path.parent / f"of_{channels}.npz", channels))
    assert again["encoder_sha256"] == result["encoder_sha256"]


def test_every_stage_takes_the_channels(trained: tuple[Path, int, Any]) -> None:
    path, channels, _ = trained
    data = data_of(path)
    knn = run_knn(path, KNN(data=data, device="cpu", k=(5,))).results[0]
    assert knn.protocol["channels"] == channels
    probed = run_linear(path, FeatureProbe(data=data, device="cpu", l2=(0.1,))).results[0]
    assert probed.figures["linear_top1"] > 0.9  # the last channel tells the classes, and was not dropped
    run_linear(path, replace(probe_settings("moco", data), **QUICK))
    run_retrieval(path, Retrieval(data=data, device="cpu"))
    run_cluster(path, clustering_settings("kmeans", data))
    tuned = replace(finetune_settings("sgd", data), labelled=Labelled(per_class=16), **QUICK)
    classifier = run_finetune(path, tuned).folder
    assert classifier is not None
    assert load_encoder(classifier).feed.mean == load_encoder(path).feed.mean
    evaluated = run_evaluate(classifier, Evaluate(data=data_of(classifier), device="cpu")).results[0]
    assert evaluated.protocol["channels"] == channels
    taught = replace(distill_settings("features", data, replace(SMALL, in_channels=channels)), **QUICK)
    run_distill(path, taught)
    with pytest.raises(ValueError, match=rf"takes 3 channels and its teacher {channels}; give --student.in-channels"):
        run_distill(path, replace(taught, student=SMALL))


def test_features_and_predictions_take_the_channels(trained: tuple[Path, int, Any], tmp_path: Path) -> None:
    path, channels, _ = trained
    data, images = data_of(path), pictures(channels, 24, 1)[0]
    run_embed(path, Embed(data=data, device="cpu", part="test", out=str(tmp_path / "e.npy")))
    loaded = selfsup.load(path, "cpu")
    features = loaded.embed(images)
    assert np.allclose(np.load(tmp_path / "e.npy"), features.numpy(), atol=1e-6)
    as_tensor = loaded.embed(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert torch.equal(as_tensor, features)
    places = []
    for number, image in enumerate(images[:6]):
        bands = [Image.fromarray(np.ascontiguousarray(image[..., channel])) for channel in range(channels)]
        places.append(tmp_path / f"{number}.tif")
        bands[0].save(places[-1], save_all=True, append_images=bands[1:])
    from_files = loaded.embed(places)
    assert (from_files - features[:6]).abs().max() < 0.05 * features.abs().max()  # Pillow rounds to whole levels
    larger = selfsup.load(path, "cpu", size=24).embed(images)
    assert larger.shape == features.shape
    assert not torch.equal(larger, features)
    with pytest.raises(ValueError, match=rf"is no images; give \(N, H, W, {channels}\), uint8"):
        loaded.embed(np.zeros((2, 20, 20, 3), np.uint8))
    with pytest.raises(ValueError, match=rf"is no images; give \(N, {channels}, H, W\), uint8"):
        loaded.embed(torch.zeros(2, 3, 20, 20, dtype=torch.uint8))
    bank = tmp_path / "bank"
    for name in ("a", "b"):
        (bank / name).mkdir(parents=True)
    for number, place in enumerate(places):
        place.rename(bank / "ab"[number % 2] / place.name)
    settings = Predict(out=str(tmp_path / "p.csv"), bank=str(bank), k=1, device="cpu", workers=0)
    told = run_predict(path, [str(bank)], settings)
    assert (told["images"], told["unreadable_images"], told["classes"]) == (6, 0, 2)


@pytest.mark.parametrize("to", ["torch.export", "onnx", "safetensors"])
def test_exports_take_the_channels(trained: tuple[Path, int, Any], to: str, tmp_path: Path) -> None:
    path, channels, _ = trained
    format = table()[to]
    for package in format.packages:
        pytest.importorskip(package)
    pixels = format.takes_pixels
    told = run_export(path, Export(to=to, out=str(tmp_path / f"a{format.endings[0]}"), preprocessing=pixels))
    assert told["difference"] <= 1e-5 * max(1, told["greatest"])
    if to == "safetensors":
        again = newest_encoder(Path(told["out"]))
        assert again.feed == load_encoder(path).feed
        assert again.config.channels == channels


def test_formats_of_three_channels_refuse_others(tmp_path: Path) -> None:
    for name in ("timm", "torchvision", "transformers"):
        pytest.importorskip(name)
    source = ArraySource(torch.from_numpy(pictures(5, 32, 0)[0]).permute(0, 3, 1, 2).contiguous())
    run = run_of(tmp_path / "run", Path(), 5, max_steps=1)
    encoder = ResNet.Config(depth=18, stem="imagenet", in_channels=5)
    pretrain(replace(run, encoder=encoder, evaluate_every=0, epochs=1, max_steps=None, data=Data(channels=5)), source)
    told = run_export(tmp_path / "run", Export(to="timm", out=str(tmp_path / "timm.pth")))
    assert told["difference"] <= 1e-5 * max(1, told["greatest"])
    folder = run_export(tmp_path / "run", Export(to="timm", out=str(tmp_path / "timm")))
    assert folder["difference"] <= 1e-5 * max(1, folder["greatest"])
    network = "a ResNet-18 of width 1, imagenet stem, for images of 5 channels"
    with pytest.raises(ValueError, match=f"torchvision has no network like {network}: .*, and take three channels"):
        run_export(tmp_path / "run", Export(to="torchvision", out=str(tmp_path / "tv.pth")))
    with pytest.raises(ValueError, match=f"huggingface has no network like {network}: .* written for three channels"):
        run_export(tmp_path / "run", Export(to="huggingface", out=str(tmp_path / "hf")))


def test_all_that_does_not_fit_is_said_at_once(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", root=str(saved(tmp_path, 5)))
    run = replace(run, data=replace(run.data, channels=5))
    with pytest.raises(ValueError) as refused:
        pretrain(run)
    told = str(refused.value)
    assert told.startswith("images have 5 channels (data.channels), which these settings are not for: the encoder")
    assert "give --encoder.in-channels 5" in told
    assert "augment.views.0.jitter.hue 0.1, augment.views.0.grayscale 0.2 (and of 1 more view) change colours" in told
    assert "give --augment.no-colour, which leaves saturation, hue and grayscale out" in told
    run = replace(run, encoder=replace(SMALL, in_channels=5), augment=replace(run.augment, colour=False))
    four = tuple(replace(view, mean=(0.0,) * 4, std=(1.0,) * 4) for view in run.augment.views)
    with pytest.raises(ValueError, match=r"views.0 is normalised by 4 values, and images have 5 channels; give --aug"):
        pretrain(replace(run, augment=replace(run.augment, views=four)))
    with pytest.raises(ValueError, match=r"the encoder takes 5, give --encoder.in-channels 3"):
        pretrain(replace(run, data=Data(root="shapes:64")))
    assert not (tmp_path / "run").exists()


def test_a_stage_on_images_of_other_channels_is_refused(trained: tuple[Path, int, Any], tmp_path: Path) -> None:
    path, channels, _ = trained
    other = Data(root=str(saved(tmp_path, 2)), channels=2)
    told = rf"images are read with 2 channels, and the encoder is fed with {channels}; give --data.channels {channels}"
    with pytest.raises(ValueError, match=told):
        run_knn(path, KNN(data=other, device="cpu"))
    with pytest.raises(ValueError, match=told):
        run_linear(path, replace(probe_settings("moco", other), **QUICK))


def test_equal_values_of_a_recipe_are_those_of_every_channel(tmp_path: Path) -> None:
    """SimCLR's views stay in [0, 1]: nothing is measured there."""
    run = run_of(tmp_path / "run", saved(tmp_path, 5), 5, max_steps=1)
    views = presets.simclr_cifar(size=16).views
    pretrain(replace(run, augment=Augment(views=views, colour=False)))
    exported = newest_encoder(tmp_path / "run")
    assert (exported.feed.mean, exported.feed.std) == ((0.0,) * 5, (1.0,) * 5)


def test_weights_of_three_channels_start_five(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(replace(tiny_run(tmp_path / "three", root="shapes:64", epochs=1), encoder=SMALL))
    run = run_of(tmp_path / "five", saved(tmp_path, 5), 5, start=str(tmp_path / "three"), max_steps=1)
    pretrain(replace(run, optimizer=replace(run.optimizer, learning_rate=1e-9, weight_decay=0.0)))
    said = " ".join(capsys.readouterr().err.split())
    assert "the three input channels of conv1.weight are repeated to 5, times 3/5" in said
    three = safetensors.torch.load_file(tmp_path / "three" / "encoder.safetensors")["conv1.weight"]
    wanted = torch.cat([three, three[:, :2]], dim=1) * 0.6
    found = newest_encoder(tmp_path / "five").encoder.state_dict()["conv1.weight"]
    assert torch.allclose(found, wanted, atol=1e-6)
    back = replace(tiny_run(tmp_path / "back", root="shapes:64"), encoder=SMALL, start=str(tmp_path / "five"))
    with pytest.raises(ValueError, match=r"is not the one of this run: encoder.in_channels: 5 -> 3"):
        pretrain(replace(back, start=str(finished(tmp_path))))


def finished(folder: Path) -> Path:
    """A run of five channels with an encoder."""
    pretrain(run_of(folder / "whole", folder / "of_5.npz", 5))
    return folder / "whole"


@pytest.mark.parametrize("streamed", [True, False])
def test_a_run_that_was_stopped_ends_with_the_same_bits(streamed: bool, tmp_path: Path) -> None:
    """Also where images come from files of five pages, decoded anew or once."""
    root = tmp_path / "tiffs"
    images, labels = pictures(5, 64, 0)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = root / f"class{label}" / f"{number:02}.tif"
        place.parent.mkdir(parents=True, exist_ok=True)
        bands = [Image.fromarray(np.ascontiguousarray(image[..., channel])) for channel in range(5)]
        bands[0].save(place, save_all=True, append_images=bands[1:])
    whole = run_of(tmp_path / "whole", root, 5)
    whole = replace(whole, data=replace(whole.data, canvas=None if streamed else 16), workers=2 if streamed else 0)
    ended = pretrain(whole)
    parted = replace(whole, folder=str(tmp_path / "parted"), workers=0)
    assert pretrain(replace(parted, max_steps=2))["reason"] == "max-steps"
    assert newest_encoder(tmp_path / "parted").feed == load_encoder(tmp_path / "whole").feed
    assert pretrain(parted)["encoder_sha256"] == ended["encoder_sha256"]
