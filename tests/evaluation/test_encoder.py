"""An exported encoder says how it wants to be fed, in older files, too."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from selfsup.augment.views import Center
from selfsup.config.settings import dump, result_relevant
from selfsup.data.opening import open_training
from selfsup.data.settings import Data
from selfsup.evaluation.encoder import export, load_encoder
from selfsup.evaluation.feed import Preprocessing
from selfsup.models.resnet import ResNet
from selfsup.pretraining import build_method
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.distill_settings import distill_settings
from selfsup.stages.finetune_settings import finetune_settings
from selfsup.stages.probes import probe_settings
from tests.support.encoders import export_untrained
from tests.support.tiny import METHODS, tiny_run

PLAIN = {"fraction": 0.875, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.3)}


@pytest.mark.parametrize(
    "feed",
    [
        Preprocessing(size=24, **PLAIN),
        Preprocessing(size=(32, 16), fit="whole", **PLAIN),
        Preprocessing(size=24, interpolation="bicubic_aliased", **PLAIN),
    ],
)
def test_the_feed_comes_back(feed: Preprocessing, tmp_path: Path) -> None:
    config = ResNet.Config(depth="small")
    export_untrained(tmp_path, config, feed)
    assert load_encoder(tmp_path).feed == feed
    assert (feed.center().fit, feed.center().interpolation) == (feed.fit, feed.interpolation)


def test_how_images_are_resized_goes_with_the_encoder_into_every_stage(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (2, 3, 60, 90), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    bilinear, feed = Preprocessing(size=24, **PLAIN), tiny_run(tmp_path, test_interpolation="bicubic_aliased").feed
    assert feed.interpolation == "bicubic_aliased"
    fed = replace(bilinear, interpolation=feed.interpolation)
    expected = Center(24, 0.875, PLAIN["mean"], PLAIN["std"], "bicubic_aliased")(images, None, images.device)
    assert torch.equal(fed.center()(images, None, images.device), expected)
    assert not torch.allclose(bilinear.center()(images, None, images.device), expected, atol=0.1)
    for settings in (
        finetune_settings("simclr_v2", Data()),
        probe_settings("simclr", Data()),
        distill_settings("self", Data(), ResNet.Config()),
    ):
        view = settings.augment(replace(fed, size=(32, 16))).views[0]
        assert (view.interpolation, view.crop_sampler, view.crop_attempts) == ("bicubic_aliased", "tensorflow", 100)
        assert view.crop_ratio == (3 / 8, 2 / 3)  # relative to the view's own
        assert settings.crops == {"crop_scale": [0.08, 1.0], "crop_sampler": "tensorflow"}
    for settings in (finetune_settings("sgd", Data()), probe_settings("moco", Data())):
        view = settings.augment(fed).views[0]
        assert (view.interpolation, view.crop_sampler, view.crop_attempts) == ("bicubic_aliased", "torchvision", 10)
        assert settings.crops == {"crop_scale": [0.08, 1.0]}


def test_what_is_fed_as_ever_is_recorded_as_ever(tmp_path: Path) -> None:
    """Results and unfinished stages from before there was a choice say nothing of the interpolation."""
    feed = Preprocessing(size=24, **PLAIN)
    assert feed.transform == "centre 0.875 of the short side, resized to 24"
    assert feed.record == {key: value for key, value in dump(feed).items() if key not in ("interpolation", "range")}
    cubic = replace(feed, interpolation="bicubic")
    assert cubic.transform == "centre 0.875 of the short side, resized to 24, bicubic"
    assert cubic.record == {key: value for key, value in dump(cubic).items() if key != "range"}  # is in the data
    settings = finetune_settings("simclr_v1", Data())
    old = result_relevant(replace(settings, crop_sampler="torchvision")) | {"facts": {"feed": feed.record}}
    del old["crop_sampler"], old["labelled"]["shares"]
    folder = RunFolder(tmp_path)
    folder.write_sealed("config.json", {"result": old})
    folder.check(replace(settings, crop_sampler="torchvision"), {"feed": feed.record})
    with pytest.raises(ValueError, match='crop_sampler: "torchvision" -> "tensorflow"'):
        folder.check(settings, {"feed": feed.record})
    with pytest.raises(ValueError, match=r"interpolation: .* -> \"bicubic\""):
        folder.check(replace(settings, crop_sampler="torchvision"), {"feed": cubic.record})


def test_a_file_from_before_there_was_a_choice_loads(tmp_path: Path) -> None:
    config = ResNet.Config(depth="small")
    export_untrained(tmp_path, config, Preprocessing(size=24, **PLAIN))
    about = json.loads((tmp_path / "encoder.json").read_text())
    del about["feed"]["fit"], about["feed"]["interpolation"], about["checksum"]
    (tmp_path / "encoder.json").write_text(json.dumps(about))
    assert load_encoder(tmp_path).feed == Preprocessing(size=24, **PLAIN)
    about["feed"]["shape"] = 7
    (tmp_path / "encoder.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"encoder\.json cannot be read"):
        load_encoder(tmp_path)


def test_the_head_travels_beside_the_encoder(tmp_path: Path) -> None:
    """What kNN and retrieval see by layer=embedding is what the method embeds with."""

    images = torch.rand(4, 3, 16, 16)
    for name in METHODS:
        run = tiny_run(tmp_path / name, name)
        method = build_method(run, open_training(run.data)).eval()
        (tmp_path / name).mkdir()
        export(method, tmp_path / name / "encoder.safetensors", run.encoder, run.feed, {})
        exported = load_encoder(tmp_path / name)
        found = torch.nn.functional.normalize(exported.network("embedding")(images))
        embedded = method.embed_key(images) if name == "moco_v3" else method.embed(images)  # without its predictor
        torch.testing.assert_close(found, embedded)
    (tmp_path / "simclr" / "head.safetensors").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"head\.safetensors is damaged"):
        load_encoder(tmp_path / "simclr")
    (tmp_path / "simclr" / "head.safetensors").unlink()  # the encoder alone was taken along
    with pytest.raises(ValueError, match="no head beside it; use --layer backbone"):
        load_encoder(tmp_path / "simclr").network("embedding")
