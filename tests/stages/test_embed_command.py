"""Features in files: the rows of an interrupted command are those of a whole one, and never those of something else."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from selfsup.data.base import Source, UnreadableImage
from selfsup.data.settings import Data
from selfsup.data.sources import open_source
from selfsup.evaluation.encoder import load_encoder
from selfsup.evaluation.features import Features, extract
from selfsup.evaluation.feed import Preprocessing
from selfsup.models.resnet import ResNet
from selfsup.stages.embed import run_embed
from selfsup.stages.settings import Embed
from tests.support.encoders import export_untrained

BROKEN = 3


def exported(folder: Path, seed: int = 0, factor: float = 1.0) -> Path:
    """A narrow encoder with weights as drawn."""
    torch.manual_seed(seed)
    config = ResNet.Config(depth="small", stem="small", width=0.25)
    feed = Preprocessing(size=16, fraction=1.0, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return export_untrained(folder, config, feed, factor)


class Photographs(Source):
    """20 images, one of which cannot be read; says which were loaded, and stops the program at one of them."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.labels, self.classes = torch.arange(20) % 4, ("a", "b", "c", "d")
        self.loaded: list[int] = []
        self.stop_at = stop_at

    def name(self, index: int) -> str:
        return f"album/{index}.jpg"

    def load(self, index: int) -> Image.Image:
        if index == self.stop_at:
            raise KeyboardInterrupt
        self.loaded.append(index)
        if index == BROKEN:
            raise UnreadableImage(self.name(index), "cut short")
        pixels = np.random.default_rng(index).integers(0, 256, (18, 20, 3), dtype=np.uint8)
        return Image.fromarray(pixels)


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return exported(tmp_path)


def embed(monkeypatch: pytest.MonkeyPatch, encoder: Path, source: Source, out: Path, **changes: Any) -> dict[str, Any]:
    """Embed `source` as training images, 5 images a batch and 7 or less a chunk; returns the JSON object."""
    monkeypatch.setattr("selfsup.stages.embed.open_part", lambda *_: source)
    settings = Embed(out=str(out), part="train", batch_size=5, save_every=7, workers=0, device="cpu")
    return run_embed(encoder, replace(settings, **changes)).line()


def interrupt(monkeypatch: pytest.MonkeyPatch, encoder: Path, out: Path, stop_at: int = 15) -> None:
    with pytest.raises(KeyboardInterrupt):
        embed(monkeypatch, encoder, Photographs(stop_at), out)


def test_an_interrupted_file_ends_as_a_whole_one(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = tmp_path / "whole.npy", tmp_path / "features.npy"
    embed(monkeypatch, encoder, Photographs(), whole)
    interrupt(monkeypatch, encoder, out)
    assert not out.exists()
    with open(f"{out}.partial", "ab") as file:
        file.write(b"rows that were being written" * 1000)
    again = Photographs()
    line = embed(monkeypatch, encoder, again, out)
    assert "going on after 13 images" in capsys.readouterr().err
    assert min(again.loaded) == 13  # chunks are the images 0 to 5, 6 to 12 and 13 to 19
    assert out.read_bytes() == whole.read_bytes()
    assert out.with_suffix(".csv").read_bytes() == whole.with_suffix(".csv").read_bytes()
    assert (line["images"], line["unreadable_images"], line["dimension"]) == (19, 1, 32)
    assert sorted(path.name for path in tmp_path.glob("features*")) == ["features.csv", "features.npy"]


def test_rows_are_the_features_in_the_order_of_the_data(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = Photographs(), tmp_path / "features.npy"
    embed(monkeypatch, encoder, source, out)
    read = load_encoder(encoder)
    expected = extract(read.encoder, source, read.feed.center(), torch.device("cpu"))
    written = np.load(out)
    assert written.dtype == np.float32
    np.testing.assert_allclose(written, expected.features.numpy(), rtol=1e-5, atol=1e-6)
    with open(out.with_suffix(".csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [index for index in range(20) if index != BROKEN]
    assert rows == [
        {"row": str(row), "path": f"album/{index}.jpg", "label": str(index % 4), "part": "train"}
        for row, index in enumerate(kept)
    ]


@pytest.mark.parametrize("change", ["encoder", "batch_size", "labels", "lost rows"])
def test_rows_of_something_else_are_not_gone_on_with(
    change: str, tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "features.npy", tmp_path / "whole.npy"
    interrupt(monkeypatch, encoder, out)
    again, settings = Photographs(), {}
    if change == "encoder":
        exported(tmp_path, seed=1)
    elif change == "batch_size":
        settings = {"batch_size": 4}
    elif change == "labels":
        again.labels = again.labels.flip(0)
    else:
        Path(f"{out}.partial").write_bytes(Path(f"{out}.partial").read_bytes()[:-1])
    embed(monkeypatch, encoder, again, out, **settings)
    assert min(again.loaded) == 0
    embed(monkeypatch, encoder, Photographs(), whole, **settings)
    assert out.read_bytes() == whole.read_bytes()


def test_a_damaged_record_is_started_afresh(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole = tmp_path / "features.npy", tmp_path / "whole.npy"
    interrupt(monkeypatch, encoder, out)
    beside = Path(f"{out}.partial.json")
    beside.write_bytes(beside.read_bytes()[:-9])
    again = Photographs()
    embed(monkeypatch, encoder, again, out)
    assert "features.npy.partial.json is damaged" in capsys.readouterr().err
    assert min(again.loaded) == 0
    embed(monkeypatch, encoder, Photographs(), whole)
    assert out.read_bytes() == whole.read_bytes()


def test_a_file_of_before_stays_until_the_new_one_is_whole(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "features.npy"
    embed(monkeypatch, encoder, Photographs(), out)
    before = out.read_bytes()
    exported(tmp_path, seed=1)
    interrupt(monkeypatch, encoder, out)
    assert out.read_bytes() == before
    embed(monkeypatch, encoder, Photographs(), out)
    assert out.read_bytes() != before


def test_parquet_holds_the_same(tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("selfsup.stages.resumable_file._ROW_GROUP", 8)
    out = tmp_path / "new" / "features.parquet"
    interrupt(monkeypatch, encoder, out)
    embed(monkeypatch, encoder, Photographs(), out)
    embed(monkeypatch, encoder, Photographs(), tmp_path / "features.npy")
    table = parquet.read_table(out)
    array = np.load(tmp_path / "features.npy")
    assert np.array_equal(np.stack(table["features"].to_numpy()), array)
    with open(tmp_path / "features.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("row", "path", "label", "part"):
        assert [str(value) for value in table[name].to_pylist()] == [row[name] for row in rows]
    assert [path.name for path in out.parent.iterdir()] == ["features.parquet"]


def test_both_parts_in_one_file(tmp_path: Path, encoder: Path) -> None:
    out = tmp_path / "features.npy"
    settings = Embed(out=str(out), data=Data(root="shapes:30"), save_every=16, device="cpu")
    line = run_embed(encoder, settings).line()
    assert line["images"] == 60
    read = load_encoder(encoder)
    parts = [open_source("shapes:30", part) for part in ("train", "test")]
    expected = [extract(read.encoder, part, read.feed.center(), torch.device("cpu")).features for part in parts]
    np.testing.assert_allclose(np.load(out), torch.cat(expected).numpy(), rtol=1e-5, atol=1e-6)
    with open(out.with_suffix(".csv"), newline="") as file:
        assert [row["part"] for row in csv.DictReader(file)] == ["train"] * 30 + ["test"] * 30


def test_the_record_says_nothing_before_its_rows_are_written(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "features.npy"
    interrupt(monkeypatch, encoder, out)
    done = json.loads(Path(f"{out}.partial.json").read_text())["done"]
    assert (done["chunks"], done["rows"]) == (2, 12)
    assert Path(f"{out}.partial").stat().st_size >= 12 * 32 * 4


def test_one_feature_that_is_not_finite_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfsup.evaluation.features._ROWS", 3)
    rows = Features(torch.zeros(7, 2), torch.zeros(7), torch.arange(7))
    rows.require_finite()
    for value in (torch.nan, torch.inf, -torch.inf):
        rows.features[6, 1] = value
        with pytest.raises(ValueError, match="NaN or infinity"):
            rows.require_finite()


def test_bad_input_is_named(tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for out in ("", "features.txt"):
        with pytest.raises(ValueError, match=r"ends in \.npy or \.parquet"):
            run_embed(encoder, Embed(out=out))
    with monkeypatch.context() as patched:
        patched.setenv("WORLD_SIZE", "2")
        with pytest.raises(ValueError, match="without accelerate launch"):
            run_embed(encoder, Embed(out="x.npy"))
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ValueError, match=r"selfsup\[parquet\]"):
            run_embed(encoder, Embed(out="x.parquet"))
    with pytest.raises(ValueError, match="NaN or infinity"):
        embed(monkeypatch, exported(tmp_path, factor=float("nan")), Photographs(), tmp_path / "x.npy")
    with pytest.raises(ValueError, match="save_every is 0"):
        Embed(save_every=0)
