"""What `import selfsup` offers: names that lead where they say, at no cost before they are used."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import selfsup
from selfsup.convert.layout import Layout
from selfsup.convert.projections import SequentialHead
from selfsup.convert.resnets import TORCHVISION
from selfsup.data.base import UnreadableImage
from selfsup.data.shapes import shapes
from selfsup.evaluation.features import extract
from selfsup.export.format import Format
from tests.support.foreign_files import FILES
from tests.support.places import ROOT
from tests.support.tiny import tiny_run


def test_every_name_is_there_and_documented() -> None:
    for name in selfsup.__all__[1:]:
        found = getattr(selfsup, name)
        assert found.__doc__, name
        assert found.__name__ == name
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = selfsup.nothing_of_this_name


def test_no_name_is_that_of_a_module() -> None:
    """`selfsup.x` would be the one or the other, by what was imported before."""
    modules = {path.stem for path in (ROOT / "selfsup").iterdir()}
    assert not modules & set(selfsup.__all__)


HELP = """
import sys
from selfsup import cli
from selfsup.stages.settings import HELP
for words in ([], *([name] for name in (*HELP, "data", "compare", "replay"))):
    sys.argv = ["selfsup", *words, "--help"]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code
print([module for module in ("torch", "faiss", "matplotlib", "accelerate") if module in sys.modules])
"""


def test_help_of_commands_on_an_encoder_needs_no_torch() -> None:
    """It takes seconds to import; `selfsup knn --help` is to answer at once, with all flags."""
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    for flag in ("--mode", "--recall-at", "--repeats", "--save-every", "--worst", "--top", "--precision"):
        assert flag in done.stdout


def test_nothing_is_imported_before_it_is_used() -> None:
    program = "import sys, selfsup; dir(selfsup); print([m for m in ('torch', 'numpy', 'tyro') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == []


def test_the_version_is_said() -> None:
    assert f"version = {selfsup.__version__}" in (ROOT / "setup.cfg").read_text()
    done = subprocess.run([sys.executable, "-m", "selfsup", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"selfsup {selfsup.__version__}\n"


def told_in_readme(word: str, document: str = "README.md") -> str:
    """The block of Python in a document that holds this word."""
    blocks: list[str] = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)
    (found,) = (block for block in blocks if word in block)
    return found


def test_the_recipe_of_the_readme_is_one() -> None:
    names: dict[str, object] = {}
    exec(told_in_readme("recipe = "), names)
    assert isinstance(names["recipe"], selfsup.Run)


def test_the_encoders_of_the_documents_are_some() -> None:
    pytest.importorskip("timm")
    names: dict[str, Any] = {"__name__": "documents"}
    for word, config in (("Timm", "encoder"), ("class Plain", "Plain")):
        exec(told_in_readme(word, "docs/encoders.md"), names)
        encoder = (names[config] if config == "encoder" else names[config].Config()).build()
        assert isinstance(encoder, selfsup.Encoder)
        assert encoder(torch.zeros(2, 3, 32, 32)).shape == (2, encoder.feature_dim)


def test_the_loops_of_the_documents_learn(capsys: pytest.CaptureFixture[str]) -> None:
    """Their last losses are below earlier ones, on shapes in the place of the reader's images.

    With a queue that is full after two steps: until then every step brings harder negatives.
    """
    for word in ("teacher = copy.deepcopy", "accelerator.prepare"):
        names: dict[str, Any] = {"losses": [], "shapes": shapes(640).images}
        text = told_in_readme(word, "docs/library.md")
        text = re.sub(r"torch.randint\(0, 256, \(2000, 3, 32, 32\), dtype=torch.uint8\)", "shapes", text)
        assert "shapes" in text
        text = text.replace("FeatureQueue(1024", "FeatureQueue(256").replace("in range(2)", "in range(4)")
        text = text.replace("        optimizer.step()", "        optimizer.step(); losses.append(float(loss.detach()))")
        torch.manual_seed(0)
        exec(text, names)
        losses = names["losses"]
        assert len(losses) == 20
        assert sum(losses[-4:]) < sum(losses[3:7]) - 0.4, losses


def test_the_documents_train_on_a_torch_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets

    class Few(torch.utils.data.Dataset[Any]):
        def __init__(self, root: str, train: bool) -> None:
            self.images = shapes(40 if train else 20)
            self.targets = self.images.labels.tolist()

        def __len__(self) -> int:
            return len(self.targets)

        def __getitem__(self, index: int) -> Any:
            return self.images.load(index), self.targets[index]

    # The class itself is left alone: one that had a __new__ for a while no longer takes arguments.
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", Few)
    monkeypatch.setattr(selfsup, "load_recipe", lambda name: tiny_run(tmp_path / "run", root="", data=selfsup.Data()))
    names: dict[str, Any] = {}
    exec(told_in_readme("CIFAR10", "docs/library.md"), names)
    assert names["figures"]["reason"] == "finished"


def test_the_readme_embeds_files(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "my_photos").symlink_to(run)
    for name, size in (("a.jpg", (20, 30)), ("b.png", (50, 40))):
        PIL.Image.new("RGB", size, (200, 100, 0)).save(tmp_path / name)
    names: dict[str, torch.Tensor] = {}
    exec(told_in_readme("selfsup.load("), names)
    assert names["features"].shape == (2, 32)


def test_the_documents_search(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "my_photos").symlink_to(run)
    for number, name in enumerate(("a.jpg", "b.png", "c.png")):
        PIL.Image.fromarray(shapes(3).images[number].permute(1, 2, 0).numpy()).save(tmp_path / name)
    names: dict[str, Any] = {}
    exec(told_in_readme("Index.build", "docs/search.md"), names)
    assert names["rows"][0, 0] == 0
    assert len(names["subset"]) == 2


def test_the_documents_load_weights_of_another_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    FILES["moco"]().write(tmp_path).rename(tmp_path / "moco_v2_800ep_pretrain.pth.tar")
    names: dict[str, Any] = {}
    exec(told_in_readme("moco_v2_800ep", "docs/weights.md"), names)
    assert isinstance(names["encoder"], selfsup.LoadedEncoder)


def test_layouts_and_formats_of_the_documents_can_be_made() -> None:
    names: dict[str, Any] = {"Layout": Layout, "TORCHVISION": TORCHVISION, "SequentialHead": SequentialHead}
    exec(told_in_readme("LAYOUT = Layout", "docs/weights.md"), names)
    assert names["LAYOUT"].name == "mine"
    names = {"Format": Format, **dict.fromkeys(("write", "read", "usage"), lambda outgoing, path: None)}
    exec(told_in_readme("FORMAT = Format", "docs/export.md"), names)
    assert names["FORMAT"].endings == (".mine",)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("public") / "run"
    selfsup.pretrain(tiny_run(folder, epochs=1))
    return folder


def test_features_are_those_of_the_evaluations(run: Path) -> None:
    encoder = selfsup.load(run, device="cpu")
    source = shapes(6)
    pixels = source.images
    expected = extract(encoder.exported.encoder, source, encoder.exported.feed.center(), torch.device("cpu")).features
    found = encoder.embed(pixels, batch_size=4)
    assert found.shape == (6, encoder.feature_dim)
    assert torch.allclose(found.double(), expected.double(), atol=1e-5)
    as_array = encoder.embed(pixels.permute(0, 2, 3, 1).numpy())
    assert torch.allclose(as_array, found, atol=1e-5)
    assert encoder.embed(pixels, layer="embedding").shape == (6, 16)


def test_files_pictures_and_arrays_are_one(run: Path, tmp_path: Path) -> None:
    encoder = selfsup.load(run / "encoder.safetensors", device="cpu")
    size = encoder.exported.feed.size
    pixels = np.random.default_rng(0).integers(0, 255, (3, size, size, 3), dtype=np.uint8)
    paths = []
    for number, image in enumerate(pixels):
        paths.append(tmp_path / f"{number}.png")
        PIL.Image.fromarray(image).save(paths[-1])
    expected = encoder.preprocess(pixels)
    for images in (paths, [str(path) for path in paths], [PIL.Image.open(path) for path in paths]):
        assert torch.equal(encoder.preprocess(images), expected)
    assert torch.equal(encoder.preprocess(paths[1]), expected[1:2])
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match=r"broken\.png"):
        encoder.embed([paths[0], tmp_path / "broken.png"])


def test_an_opened_picture_is_what_its_file_is(run: Path, tmp_path: Path) -> None:
    """Turned by EXIF, transparent, of 16 bits: as every evaluation reads it from the disk."""
    encoder = selfsup.load(run, device="cpu")
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 4), dtype=np.uint8)
    turned = PIL.Image.fromarray(pixels[..., :3])
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    PIL.Image.fromarray(pixels).save(tmp_path / "transparent.png")
    PIL.Image.fromarray(pixels[..., 0].astype(np.uint16) * 256).save(tmp_path / "deep.png")
    for path in sorted(tmp_path.iterdir()):
        assert torch.equal(encoder.preprocess(PIL.Image.open(path)), encoder.preprocess(path)), path.name
    assert torch.equal(
        encoder.preprocess(np.asarray(turned)),
        encoder.preprocess(torch.from_numpy(pixels[None, ..., :3]).permute(0, 3, 1, 2)),
    )


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (torch.zeros(2, 3, 8, 8), "float32"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "give .N, 3, H, W."),
        (np.zeros((2, 3, 8, 8), dtype=np.uint8), "N, H, W, 3"),
        ([], "no images"),
        ([3], "int"),
    ],
)
def test_other_forms_are_refused(run: Path, images: object, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        selfsup.load(run, device="cpu").embed(images)  # type: ignore[arg-type]


def test_without_a_classifier_nothing_is_classified(run: Path) -> None:
    encoder = selfsup.load(run, device="cpu")
    assert encoder.class_names == ()
    with pytest.raises(ValueError, match="selfsup finetune"):
        encoder.classify(np.zeros((1, 8, 8, 3), dtype=np.uint8))
