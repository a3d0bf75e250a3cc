"""An exported encoder says how it wants to be fed, in older files, too."""

import json
from pathlib import Path

import pytest
import torch
from tiny import METHODS, tiny_run

from selfsup.data.joined import open_training
from selfsup.models.resnet import ResNet
from selfsup.pretrain import build_method
from selfsup.stages.encoder import Feed, export, load_encoder, save_encoder

PLAIN = {"fraction": 0.875, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.2, 0.3)}


@pytest.mark.parametrize("feed", [Feed(size=24, **PLAIN), Feed(size=(32, 16), fit="whole", **PLAIN)])
def test_the_feed_comes_back(feed: Feed, tmp_path: Path) -> None:
    config = ResNet.Config(depth="small")
    save_encoder(tmp_path / "encoder.safetensors", config.build().state_dict(), config, feed, {})
    assert load_encoder(tmp_path).feed == feed
    assert feed.center().fit == feed.fit


def test_a_file_from_before_fit_existed_loads(tmp_path: Path) -> None:
    config = ResNet.Config(depth="small")
    save_encoder(tmp_path / "encoder.safetensors", config.build().state_dict(), config, Feed(size=24, **PLAIN), {})
    about = json.loads((tmp_path / "encoder.json").read_text())
    del about["feed"]["fit"], about["checksum"]
    (tmp_path / "encoder.json").write_text(json.dumps(about))
    assert load_encoder(tmp_path).feed == Feed(size=24, **PLAIN)
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
        torch.testing.assert_close(found, method.embed(images))
    (tmp_path / "simclr" / "head.safetensors").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"head\.safetensors is damaged"):
        load_encoder(tmp_path / "simclr")
    (tmp_path / "simclr" / "head.safetensors").unlink()  # the encoder alone was taken along
    with pytest.raises(ValueError, match="no head beside it; use --layer backbone"):
        load_encoder(tmp_path / "simclr").network("embedding")
