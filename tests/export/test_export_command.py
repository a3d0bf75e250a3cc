"""`selfsup export`: from every kind of encoder, wrong uses, and help."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import selfsup
from selfsup import cli
from selfsup.export.table import table
from selfsup.pretraining import pretrain
from selfsup.stages.exporting import Export, run_export
from tests.support.exporting import CLASSES, SMALL, drawn
from tests.support.places import ROOT
from tests.support.tiny import tiny_run


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["selfsup", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory.mktemp("tuned"), SMALL, CLASSES)


def test_an_unfinished_run_goes_out_with_its_head_and_is_an_encoder_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "out" / "x.safetensors"
    pretrain(tiny_run(run, max_steps=3))
    shapes = selfsup.load(run, device="cpu")
    capsys.readouterr()
    assert call(monkeypatch, "export", run, "--to", "safetensors", "--part", "head", "--out", out) == 0
    said, err = capsys.readouterr()
    told: dict[str, Any] = json.loads(said.splitlines()[-1])
    assert told["difference"] <= 1e-5
    assert (told["format"], told["part"], told["images"]) == ("safetensors", "head", 8)
    assert told["encoder_sha256"] == shapes.exported.sha256
    for words in ("the encoder is that of step 3", "greatest difference", "selfsup.load("):
        assert words in err
    pixels = torch.randint(0, 256, (3, 3, 20, 20), dtype=torch.uint8)
    again = selfsup.load(out, device="cpu")
    for layer in ("backbone", "embedding"):
        assert torch.equal(again.embed(pixels, layer), shapes.embed(pixels, layer))  # type: ignore[arg-type]
    assert call(monkeypatch, "import", out, "--out", tmp_path / "in", "--size", 8) == 2
    assert "says itself what it holds; leave --size out" in capsys.readouterr().err


def test_real_images_are_compared_where_they_are_given(tuned: Path, tmp_path: Path) -> None:
    import PIL.Image

    PIL.Image.new("RGB", (40, 50), (200, 100, 0)).save(tmp_path / "a.png")
    settings = Export(to="safetensors", out=str(tmp_path / "x.safetensors"), images=(str(tmp_path / "a.png"),))
    assert run_export(tuned / "encoder.safetensors", settings)["images"] == 1


def test_wrong_uses_are_answered_with_what_to_do(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.pth").write_text("mine")
    plain = drawn(tmp_path / "plain", SMALL)
    for words, told in [
        ([], "the run folder or encoder file is missing\nusage: selfsup export RUN --to FORMAT --out PATH"),
        ([tuned, "--to", "onnx"], "--out is missing; give the name of the file or folder"),
        ([tuned, "--out", "x.pth"], "--to is missing; give one of huggingface, onnx, safetensors, timm, torch.export"),
        ([tuned, "--to", "onyx", "--out", "x.onnx"], "there is no format onyx; did you mean onnx"),
        ([tuned, "--to", "torchvision", "--out", "x.pt"], "--out is x.pt; torchvision wants a name such as FILE.pth"),
        ([tuned, "--to", "huggingface", "--out", "x.onnx"], "huggingface wants a folder, a name without an ending"),
        ([tuned, "--to", "torchvision", "--out", tmp_path / "mine.pth"], "there is something at"),
        ([tuned, "--to", "safetensors", "--part", "head", "--out", "x.safetensors"], "use --part classifier"),
        ([plain, "--to", "safetensors", "--part", "classifier", "--out", "x.safetensors"], "by selfsup finetune"),
        (
            [tuned, "--to", "torchvision", "--preprocessing", "--out", "x.pth"],
            "holds weights, and no preprocessing; leave --preprocessing out, or give --to onnx, torch.export",
        ),
        ([tmp_path / "absent", "--to", "timm", "--out", "x.pth"], "there is no encoder at"),
        (
            [tuned, "--to", "timm", "--out", tmp_path / "mine.pth" / "x.pth"],
            f"cannot make the folder {tmp_path / 'mine.pth'} for x.pth: ",
        ),
    ]:
        assert call(monkeypatch, "export", *words) == 2
        said = capsys.readouterr().err
        assert told in said, (words, said)
        assert "Traceback" not in said
        assert len(said.splitlines()) <= 4
    assert (tmp_path / "mine.pth").read_text() == "mine"
    assert not [name for name in Path().iterdir() if name.name.startswith(("x.", ".x."))]


def test_a_package_that_is_missing_is_named_with_the_command_that_adds_it(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"needs transformers, which is not installed: pip install 'selfsup\[hugg"):
        run_export(tuned, Export(to="huggingface", out=str(tmp_path / "x")))
    for name in ("onnx", "onnxruntime", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"which are not installed: .*\[onnx\]', or pip install onnx onnxscript onnxr"):
        run_export(tuned, Export(to="onnx", out=str(tmp_path / "x.onnx")))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("[", "is not valid JSON"),
        ("[]", "holds a list; wanted a JSON object"),
        ('{"schema": 2}', "what .* says of itself cannot be read: 'encoder' is missing"),
        ('{"schema": 99}', "was written by a newer version"),
    ],
)
def test_what_a_file_says_of_itself_may_come_from_anyone(said: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, {"selfsup": said})
    with pytest.raises(ValueError, match=told):
        selfsup.load(path)


def test_a_file_that_holds_other_tensors_than_it_says_is_refused(tuned: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    run_export(tuned, Export(to="safetensors", out=str(path)))
    with safetensors.safe_open(path, "pt") as file:
        about = file.metadata()
    safetensors.torch.save_file({"conv1.weight": torch.zeros(1)}, path, about)
    with pytest.raises(ValueError, match="does not hold what is said beside it"):
        selfsup.load(path)


def test_help_has_examples_and_every_format(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "export", "--help") == 0
    shown = capsys.readouterr().out
    assert "selfsup export runs/my_photos --to torchvision --out my_photos.pth" in shown
    for word in ("--to", "--out", "--part", "--preprocessing", "--images", *table()):
        assert word in shown, word
    assert call(monkeypatch, "--help") == 0
    assert "selfsup export RUN --to FORMAT --out PATH" in capsys.readouterr().out
    for document in ("README.md", "docs/export.md"):
        assert "selfsup export" in (ROOT / document).read_text()
