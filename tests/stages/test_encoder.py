"""An exported encoder says how it wants to be fed, in older files, too."""

import json
from pathlib import Path

import pytest

from selfsup.models.resnet import ResNet
from selfsup.stages.encoder import Feed, load_encoder, save_encoder

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
    del about["feed"]["fit"]
    (tmp_path / "encoder.json").write_text(json.dumps(about))
    assert load_encoder(tmp_path).feed == Feed(size=24, **PLAIN)
    about["feed"]["shape"] = 7
    (tmp_path / "encoder.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"encoder\.json cannot be read"):
        load_encoder(tmp_path)
