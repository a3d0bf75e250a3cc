"""Every command and `selfsup.load` at another image size: as an encoder that was trained at it is fed."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import selfsup
from selfsup.augment.size import Size
from selfsup.data.settings import Data
from selfsup.evaluation.encoder import load_encoder, save_encoder
from selfsup.evaluation.sized import sized
from selfsup.models.encoder import Encoder
from selfsup.stages.base import Result
from selfsup.stages.cluster import run_cluster
from selfsup.stages.embed import run_embed
from selfsup.stages.evaluate import run_evaluate
from selfsup.stages.importing import Import, run_import
from selfsup.stages.knn import run_knn
from selfsup.stages.linear import run_linear
from selfsup.stages.predict import run_predict
from selfsup.stages.probes import Probe, probe_settings
from selfsup.stages.retrieval import run_retrieval
from selfsup.stages.settings import KNN, Embed, Evaluate, KMeans, Predict, Retrieval
from tests.support.classified import classifier, painting, paintings
from tests.support.encoders import PLAIN, export_untrained

SIZE = 24  # the encoders are fed at 16


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sized") / "data"
    paintings(root / "train", 32)
    paintings(root / "test", 16, first=700)
    return root


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, Path]:
    """A classifier that is fed at 16 pixels, with a central box of 0.875; and the same one, said to be fed at 24."""
    at = []
    for name, size in (("small", 16), ("large", SIZE)):
        folder = classifier(tmp_path / name)
        about = load_encoder(folder)
        assert isinstance(about.head, nn.Module)
        feed = replace(PLAIN, size=size, fraction=0.875)
        beside = (about.head.config, about.head.state_dict())
        save_encoder(folder / "encoder.safetensors", about.encoder.state_dict(), about.config, feed, {}, beside)  # type: ignore[arg-type]
        at.append(folder)
    return at[0], at[1]


def _on_features(data: Data, **more: Any) -> Any:
    return replace(probe_settings("features", data), l2=(0.1, 1.0), **more)


# A stage, how it is asked, and which of its figures say most.
STAGES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "knn": (run_knn, lambda data, **more: KNN(data=data, k=(3, 5), **more)),
    "linear": (run_linear, _on_features),
    "retrieval": (run_retrieval, lambda data, **more: Retrieval(data=data, **more)),
    "cluster": (run_cluster, lambda data, **more: KMeans(data=data, repeats=2, **more)),
    "evaluate": (run_evaluate, lambda data, **more: Evaluate(data=data, **more)),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_judges_at_another_size(
    stage: str, trained: tuple[Path, Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, settings = STAGES[stage]
    (small, large), given = trained, Data(root=str(data))
    capsys.readouterr()
    found: list[Result] = run(small, settings(given, size=SIZE, workers=0)).results
    assert "images are fed at 24 x 24 pixels; the encoder was trained at 16 x 16" in capsys.readouterr().err
    expected: list[Result] = run(large, settings(given, workers=0)).results
    plain: list[Result] = run(small, settings(given, workers=0)).results
    assert [result.figures for result in found] == [result.figures for result in expected]
    assert [result.figures for result in found] != [result.figures for result in plain]
    for at, of, before in zip(found, expected, plain, strict=True):
        assert at.protocol == of.protocol
        changed = {key for key in at.protocol if at.protocol[key] != before.protocol[key]}
        assert changed == {"transform"}, "or they could share a column"
        assert at.protocol["transform"] == "centre 0.875 of the short side, resized to 24"
    assert run(small, settings(given, size=16, workers=0)).results == plain


def test_what_is_written_is_of_the_other_size(trained: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    (small, large), given = trained, Data(root=str(data))

    def written(encoder: Path, name: str, size: Size | None) -> Any:
        out = tmp_path / f"{name}.npy"
        run_embed(encoder, Embed(data=given, out=str(out), workers=0, size=size))
        rows = tmp_path / f"{name}.jsonl"
        told = run_predict(encoder, [str(data / "test")], Predict(out=str(rows), top=2, workers=0, size=size))
        assert told["transform"].endswith(f"resized to {size or (16 if encoder is small else SIZE)}")
        return np.load(out), [json.loads(line) for line in rows.read_text().splitlines()]

    features, rows = written(small, "at", SIZE)
    same, same_rows = written(large, "of", None)
    other, other_rows = written(small, "plain", None)
    assert np.array_equal(features, same)
    assert rows == same_rows
    assert not np.allclose(features, other, atol=1e-3)
    assert rows != other_rows
    loaded = selfsup.load(small, device="cpu", size=SIZE)
    pictures = [painting(700 + number) for number in range(4)]
    assert loaded.preprocess(pictures).shape == (4, 3, SIZE, SIZE)
    assert torch.equal(loaded.embed(pictures), selfsup.load(large, device="cpu").embed(pictures))


def test_a_probe_on_crops_of_another_size_has_a_folder_of_its_own(trained: tuple[Path, Path], data: Path) -> None:
    small, large = trained
    settings = replace(
        probe_settings("moco", Data(root=str(data))), epochs=1, batch_size=16, workers=0, device="cpu", log_every=1
    )
    assert isinstance(settings, Probe)
    found = run_linear(small, replace(settings, size=SIZE)).results[0]
    expected = run_linear(large, settings).results[0]
    assert found.protocol == expected.protocol
    assert found.figures == expected.figures
    assert found.about["probe_folder"] == str(small / "linear_moco_size24")
    run_linear(small, settings)  # beside it, not instead of it
    with pytest.raises(ValueError, match=r"size: 24 -> 32"):
        run_linear(small, replace(settings, size=32, folder=str(small / "linear_moco_size24")))


class Flat(Encoder):
    """Whose features are as many as its image has."""

    class Config(Encoder.Config):
        stored_as = "flat_of_test_sized"

        def build(self) -> "Flat":
            return Flat()

    def __init__(self) -> None:
        super().__init__()
        self.feature_dim, self.weight = 16 * 8 * 3, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).flatten(1)


def test_sizes_that_cannot_be_are_refused(trained: tuple[Path, Path], data: Path, tmp_path: Path) -> None:
    given = Data(root=str(data))
    for size in (0, 5000, (24, 0)):
        for make in (KNN, Predict, Evaluate, lambda size: replace(probe_settings("moco", given), size=size)):
            with pytest.raises(ValueError, match=r"^size is .*; give 1 to 4096 pixels: a side, or height and width$"):
                make(size=size)
    with pytest.raises(ValueError, match=r"^size is 0; give 1 to 4096"):
        selfsup.load(trained[0], size=0)
    torch.manual_seed(0)
    upright = replace(PLAIN, size=(16, 8))
    flat = export_untrained(tmp_path / "flat", Flat.Config(), upright)
    with pytest.raises(
        ValueError,
        match=r"^size is 32, and the encoder is fed with images of 16 x 8 pixels; give height and width, such as "
        "--size 32 16$",
    ):
        selfsup.load(flat, size=32)
    with pytest.raises(
        ValueError,
        match=r"^the encoder takes no images of 32 x 16 pixels, for its features would be \(1, 1536\) and not "
        r"\(1, 384\); leave --size out, for 16 x 8$",
    ):
        selfsup.load(flat, size=(32, 16))
    assert selfsup.load(flat, size=(16, 8)).exported.feed == upright


# Transformers

timm = pytest.importorskip("timm")

from selfsup.models.timm import Timm  # noqa: E402  (its tests are passed over where timm is missing)

VIT = Timm.Config(
    name="vit_tiny_patch16_224", image_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=2
)  # 4 x 4 patches


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    folder = tmp_path / "vit"
    export_untrained(folder, VIT, PLAIN, factor=3.0)
    return folder


def test_a_transformer_of_one_size_says_how_it_takes_another(vit: Path, tmp_path: Path) -> None:
    exported, out = load_encoder(vit), tmp_path / "at_24"
    with pytest.raises(
        ValueError,
        match=rf"^size is 24 x 24: the encoder is built for images of 16 x 16 pixels\nresample its positions: selfsup "
        rf"import {vit} --out DIR --size 24; or train one that takes any size: --encoder.any-size$",
    ):
        selfsup.load(vit, size=24)
    with pytest.raises(ValueError, match=r"16 x 16 pixels\nleave --size out: it is fed with images of 16 x 16$"):
        sized(exported, (24, 16), vit)
    with pytest.raises(ValueError, match=r"size is 25, and patches are of 4 pixels; give a multiple$"):
        run_import(vit, Import(out=str(out), size=25))
    with pytest.raises(ValueError, match=r"is an encoder already: every command takes it\na transformer that is built"):
        run_import(vit, Import(out=str(out)))
    with pytest.raises(ValueError, match=r"the only flag beside --out$"):
        run_import(vit, Import(out=str(out), size=24, heads=2))
    told = run_import(vit, Import(out=str(out), size=24))
    assert told["resampled"] == {"from_sha256": exported.sha256, "size": 24}
    found = load_encoder(out)
    assert (found.feed, found.config) == (replace(PLAIN, size=24), replace(VIT, image_size=24))
    before, after = exported.encoder.state_dict(), found.encoder.state_dict()
    assert found.encoder(torch.zeros(1, 3, 24, 24)).shape == (1, 32)
    for name, tensor in after.items():
        if not name.endswith("pos_embed"):
            assert torch.equal(tensor, before[name]), name
    old, new = before["network.pos_embed"][0], after["network.pos_embed"][0]
    assert torch.equal(new[:1], old[:1]), "of the class token"
    grid = F.interpolate(old[1:].T.reshape(1, 32, 4, 4), size=(6, 6), mode="bicubic", align_corners=False)
    assert torch.allclose(new[1:], grid[0].flatten(1).T, atol=1e-6)
    run_import(vit, Import(out=str(out), size=24))  # the same again
    with pytest.raises(ValueError, match="holds another encoder"):
        run_import(vit, Import(out=str(out), size=32))


def test_only_transformers_of_one_size_are_resampled(trained: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"without positions to resample\ngive --size 24 to the command that uses it$"):
        run_import(trained[0], Import(out=str(tmp_path / "out"), size=24))
    assert not (tmp_path / "out").exists()


def test_a_transformer_of_any_size(vit: Path, tmp_path: Path) -> None:
    """It is the one of a fixed size where images have it, and takes others by the same weights."""
    weights = load_encoder(vit).encoder.state_dict()
    config = replace(VIT, any_size=True)
    save_encoder(tmp_path / "encoder.safetensors", weights, config, PLAIN, {})
    loaded, fixed = selfsup.load(tmp_path, "cpu"), selfsup.load(vit, "cpu")
    pictures = [painting(number) for number in range(3)]
    assert torch.equal(loaded.embed(pictures), fixed.embed(pictures))
    larger = selfsup.load(tmp_path, "cpu", size=24)
    assert larger.embed(pictures).shape == (3, 32)
    assert not torch.allclose(larger.embed(pictures), fixed.embed(pictures), atol=1e-3)
    selfsup.load(tmp_path, "cpu", size=(24, 16))
    with pytest.raises(
        ValueError,
        match=r"^size is 25 x 25: the encoder's patches are of 4 pixels, and the sides of images are multiples of it\n"
        "leave --size out",
    ):
        selfsup.load(tmp_path, "cpu", size=25)
    with pytest.raises(ValueError, match="test_convnext is no vision transformer of timm; leave any_size out"):
        Timm.Config(name="test_convnext", any_size=True).build()
