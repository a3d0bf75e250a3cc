"""Every format: what is written computes what the encoder does, in its own library, and comes in again unchanged."""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from selfsup.evaluation.encoder import load_encoder
from selfsup.export.format import Format
from selfsup.export.outgoing import Outgoing, Part
from selfsup.export.table import table
from selfsup.models.encoder import Encoder
from selfsup.models.heads import Classifier
from selfsup.models.selective import AveragePool
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.base import Result, keep
from selfsup.stages.exporting import Export, run_export
from selfsup.stages.importing import Import, run_import
from tests.support.exporting import CLASSES, NARROW, PROJECTION, RESNET, SELECTIVE, SMALL, VIT, drawn

NAMES = {
    "torchvision": "x.pth",
    "timm": "x.pth",
    "huggingface": "x.v1",
    "torch.export": "x.pt2",
    "onnx": "x.onnx",
    "safetensors": "x.safetensors",
}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    folder = tmp_path_factory.mktemp("encoders")
    wanted: list[tuple[Encoder.Config, Any]] = [
        (RESNET, PROJECTION),
        (RESNET, CLASSES),
        (NARROW, CLASSES),
        (SMALL, PROJECTION),
        (SMALL, CLASSES),
        (VIT, CLASSES),
    ]
    return {key: drawn(folder / str(number), *key) for number, key in enumerate(wanted)}


def needed(name: str) -> Format:
    for package in table()[name].packages:
        pytest.importorskip(package)
    return table()[name]


def computed(folder: Path, part: str) -> tuple[Tensor, Tensor, Tensor]:
    """Seven pictures of noise, those normalised, and what the encoder makes of them."""
    found = load_encoder(folder)
    side = found.feed.size
    pixels = torch.randint(0, 256, (7, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(three)[:, None, None] for three in (found.feed.mean, found.feed.std))
    images = (pixels / 255 - mean) / std
    with torch.no_grad():
        features = found.encoder(images)
        return pixels, images, features if part == "backbone" else found.head(features)  # type: ignore[misc]


def test_the_table_has_a_file_for_each_format_of_the_tests() -> None:
    assert set(table()) == set(NAMES)
    assert all(found.title and found.endings for found in table().values())


OUT_AND_IN: list[tuple[str, Encoder.Config, Part]] = [
    ("torchvision", RESNET, "backbone"),
    ("timm", RESNET, "classifier"),
    ("timm", VIT, "backbone"),
    ("timm folder", RESNET, "backbone"),
    ("timm folder", VIT, "classifier"),
    ("huggingface", NARROW, "backbone"),
    ("huggingface", NARROW, "classifier"),
    ("huggingface", VIT, "backbone"),
    ("huggingface", VIT, "classifier"),
    ("safetensors", SMALL, "backbone"),
    ("safetensors", SMALL, "classifier"),
    ("safetensors", VIT, "backbone"),
]


@pytest.mark.parametrize(("name", "config", "part"), OUT_AND_IN)
def test_weights_go_out_and_come_in_again(
    name: str, config: Encoder.Config, part: Part, encoders: dict[Any, Path], tmp_path: Path
) -> None:
    folder = encoders[config, CLASSES]
    out = tmp_path / ("folder.v2" if name == "timm folder" else NAMES[name])
    format = needed(name.removesuffix(" folder"))
    told = run_export(folder, Export(to=format.name, out=str(out), part=part))
    assert told["difference"] <= 1e-5 * max(1, told["greatest"])
    again = {"heads": 2} if (name, config) == ("timm", VIT) else {}  # a .pth has no place for them
    run_import(out, Import(out=str(tmp_path / "in"), **again))
    sent, back = load_encoder(folder), load_encoder(tmp_path / "in")
    mine, theirs = sent.encoder.state_dict(), back.encoder.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[tensor], theirs[tensor]) for tensor in mine)
    if not name.endswith(("torchvision", "timm")):
        assert back.feed == sent.feed
    _, images, expected = computed(folder, "backbone")
    with torch.no_grad():
        assert torch.allclose(back.encoder(images), expected, rtol=1e-5, atol=1e-5)
    if name == "safetensors" and part == "classifier":
        written = safetensors.torch.load_file(out)["head.linear.weight"]
        assert torch.equal(written, sent.head.state_dict()["linear.weight"])  # type: ignore[union-attr]
        assert torch.equal(written, back.head.state_dict()["linear.weight"])  # type: ignore[union-attr]
        assert back.class_names == ("cat", "dog", "a|b")


@pytest.mark.parametrize("part", ["backbone", "classifier"])
def test_torchvision_loads_its_own_strictly(part: str, encoders: dict[Any, Path], tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    folder, out = encoders[RESNET, CLASSES], tmp_path / "x.pth"
    run_export(folder, Export(to="torchvision", out=str(out), part=part))  # type: ignore[arg-type]
    network = models.resnet18(num_classes=3)
    if part == "backbone":
        network.fc = torch.nn.Identity()
    network.load_state_dict(torch.load(out, weights_only=True))
    _, images, expected = computed(folder, part)
    with torch.no_grad():
        assert torch.allclose(network.eval()(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "head", "part", "pixels"),
    [(SMALL, CLASSES, "classifier", False), (SMALL, PROJECTION, "head", True), (VIT, CLASSES, "backbone", True)],
)
def test_graphs_take_any_batch_and_pixels_where_asked(
    config: Encoder.Config, head: Any, part: Part, pixels: bool, encoders: dict[Any, Path], tmp_path: Path
) -> None:
    folder, out = encoders[config, head], tmp_path / "x.pt2"
    run_export(folder, Export(to="torch.export", out=str(out), part=part, preprocessing=pixels))
    said = {"about.json": ""}
    program = torch.export.load(out, extra_files=said).module()
    raw, images, expected = computed(folder, part)
    for count in (1, 7):
        found = program((raw if pixels else images)[:count])
        assert torch.allclose(found, expected[:count], rtol=1e-4, atol=1e-5)
    about = json.loads(said["about.json"])
    assert about["part"] == part
    assert about["preprocessing"]["mean"] == [0.4, 0.5, 0.6]


def test_onnx_takes_any_batch_and_says_what_it_is(encoders: dict[Any, Path], tmp_path: Path) -> None:
    needed("onnx")
    runtime = importlib.import_module("onnxruntime")
    folder, out = encoders[SMALL, CLASSES], tmp_path / "x.onnx"
    run_export(folder, Export(to="onnx", out=str(out), part="classifier", preprocessing=True))
    session = runtime.InferenceSession(out, providers=["CPUExecutionProvider"])
    raw, _, expected = computed(folder, "classifier")
    for count in (1, 7):
        (found,) = session.run(["logits"], {"pixels": raw[:count].numpy()})
        assert torch.allclose(torch.from_numpy(found), expected[:count], rtol=1e-4, atol=1e-5)
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["class_names"]) == ["cat", "dog", "a|b"]
    assert json.loads(said["preprocessing"])["fraction"] == 0.875
    assert said["input"] == "pixels from 0 to 255, uint8"


def test_onnx_has_the_average_of_odd_sides(tmp_path: Path) -> None:
    """A divisor of the operator would be dropped on the way, without a word."""
    needed("onnx")
    runtime = importlib.import_module("onnxruntime")
    images = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    program = torch.onnx.export(AveragePool(2).eval(), (images,), dynamo=True, verbose=False, input_names=["x"])
    assert program is not None
    program.save(tmp_path / "pool.onnx")
    (found,) = runtime.InferenceSession(tmp_path / "pool.onnx").run(None, {"x": images.numpy()})
    naive = torch.zeros(2, 3, 3, 4)
    for row in range(3):
        for column in range(4):
            naive[:, :, row, column] = images[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].sum((2, 3)) / 4
    assert torch.allclose(torch.from_numpy(found), naive, atol=1e-6)
    assert torch.allclose(AveragePool(2)(images), naive, atol=1e-6)


def test_transformers_loads_the_folder_alone_and_its_card_has_the_results(
    encoders: dict[Any, Path], tmp_path: Path
) -> None:
    needed("huggingface")
    transformers = importlib.import_module("transformers")
    folder = drawn(tmp_path / "run", VIT, CLASSES)
    sha = load_encoder(folder).sha256
    result = Result(stage="knn", figures={"top1": 0.5}, protocol={"k": 20, "T": 0.1}, about={"encoder_sha256": sha})
    other = replace(result, figures={"top1": 0.9}, protocol={"k": 5}, about={"encoder_sha256": "another"})
    keep(RunFolder(folder), [result])
    keep(RunFolder(folder), [replace(other, stage="retrieval")])
    out = tmp_path / "hf"
    run_export(folder, Export(to="huggingface", out=str(out), part="classifier"))
    assert sorted(file.name for file in out.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    network = transformers.AutoModelForImageClassification.from_pretrained(out)
    assert network.config.id2label == {0: "cat", 1: "dog", 2: "a|b"}
    _, images, expected = computed(folder, "classifier")
    with torch.no_grad():
        assert torch.allclose(network(images).logits, expected, rtol=1e-5, atol=1e-5)
    card = (out / "README.md").read_text()
    assert "| knn | top1 | 0.5000 | k 20, T 0.1 |" in card
    assert "0.9" not in card
    assert "centre 0.875 of the short side, resized to 32 pixels" in card


def test_what_computes_something_else_is_refused_and_removed(
    encoders: dict[Any, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = table()["torchvision"]

    def write(outgoing: Outgoing, path: Path) -> None:
        right.write(outgoing, path)
        tensors = torch.load(path, weights_only=True)
        tensors["layer4.1.bn2.bias"][0] += 1e-3
        torch.save(tensors, path)

    monkeypatch.setitem(table(), "torchvision", replace(right, write=write))
    out = tmp_path / "place" / "x.pth"
    with pytest.raises(ValueError, match=r"computes something else than the encoder, and was removed: .* difference "):
        run_export(encoders[RESNET, PROJECTION], Export(to="torchvision", out=str(out)))
    assert not list(out.parent.iterdir())


HIDDEN = Classifier.Config(num_classes=3, hidden=PROJECTION, layer=1)
OWN = "--to onnx, torch.export and safetensors take any network"
REFUSED: list[tuple[Any, str, str, tuple[str, ...]]] = [
    (SELECTIVE, "torchvision", "backbone", ("torchvision has no network like a ResNet-50 of SimCLR", OWN)),
    (NARROW, "torchvision", "backbone", ("no network like a ResNet-18 of width 0.125", "width 1", OWN)),
    (NARROW, "timm", "backbone", ("timm has no network like a ResNet-18 of width 0.125", OWN)),
    (SELECTIVE, "huggingface", "backbone", ("huggingface has no network like", "selective kernels", OWN)),
    (VIT, "torchvision", "backbone", ("torchvision has no network like timm's vit_tiny_patch16_224", OWN)),
    (replace(VIT, norm_eps=1e-3), "timm", "backbone", ("add no 0.001", "--to huggingface")),
    (replace(NARROW, stem="cifar"), "huggingface", "backbone", ("the imagenet stem", OWN)),
    (NARROW, "torchvision", "head", ("torchvision has no place for the head; give --part backbone", OWN)),
]


@pytest.mark.parametrize(("config", "to", "part", "told"), REFUSED)
def test_a_format_without_such_a_network_says_so(
    config: Encoder.Config, to: str, part: str, told: tuple[str, ...], tmp_path: Path
) -> None:
    needed(to)
    folder = drawn(tmp_path / "encoder", config)
    with pytest.raises(ValueError) as refused:
        run_export(folder, Export(to=to, out=str(tmp_path / NAMES[to]), part=part))  # type: ignore[arg-type]
    assert all(words in str(refused.value) for words in told), str(refused.value)
    assert [file.name for file in tmp_path.iterdir()] == ["encoder"]


def test_a_classifier_with_hidden_layers_has_no_place_in_one_linear_layer(tmp_path: Path) -> None:
    needed("timm")
    folder = drawn(tmp_path / "encoder", VIT, HIDDEN)
    with pytest.raises(ValueError, match="1 of the projection head's layers stand before this classifier") as refused:
        run_export(folder, Export(to="timm", out=str(tmp_path / "x.pth"), part="classifier"))
    assert "fine-tune with --layer 0" in str(refused.value)
    run_export(folder, Export(to="safetensors", out=str(tmp_path / "x.safetensors"), part="classifier"))
