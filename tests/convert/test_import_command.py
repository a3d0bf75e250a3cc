"""`selfsup import`, and other projects' files in the place of a run."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import selfsup
from selfsup import cli
from selfsup.config.recipe_files import load_recipe
from selfsup.convert.table import table
from selfsup.data.sources import open_source
from selfsup.evaluation.encoder import load_encoder
from selfsup.methods.moco import MoCo
from selfsup.models.heads import Head
from selfsup.models.resnet import ResNet
from selfsup.pretraining import build_method, pretrain
from tests.support.foreign_files import FILES
from tests.support.places import ROOT
from tests.support.tiny import tiny_run

ON = ["--data.root", "shapes:60", "--device", "cpu", "--workers", "0"]


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["selfsup", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def result(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    out, err = capsys.readouterr()
    return json.loads(out.splitlines()[-1]), err


@pytest.fixture(scope="module")
def moco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FILES["moco"]().write(tmp_path_factory.mktemp("moco"))


def test_an_imported_encoder_is_one_for_every_stage(
    moco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "weights"
    assert call(monkeypatch, "import", moco, "--out", out, "--size", 32) == 0
    told, said = result(capsys)
    assert (told["layout"], told["network"], told["head"], told["feature_dim"]) == ("moco", "query", True, 32)
    assert told["left_out"] == {"the key network": 124, "the queue": 2, "state of the optimizer": 1}
    for words in (
        "is of the layout moco, its query network: a ResNet-18 of width 0.0625, imagenet stem, with its head",
        "left out: ",
        "images: mean (0.485, 0.456, 0.406)",
        "so says the layout moco, and --size",
    ):
        assert words in said
    exported = load_encoder(out)
    assert exported.made_by["source"] == moco.name
    assert exported.made_by["source_sha256"] == told["source_sha256"]
    assert exported.feed.size == 32
    assert isinstance(exported.head, Head)
    assert call(monkeypatch, "import", moco, "--out", out, "--size", 32) == 0  # again, and nothing changes
    capsys.readouterr()
    assert call(monkeypatch, "knn", out, *ON) == 0
    figures, _ = result(capsys)
    assert figures["encoder_sha256"] == told["encoder_sha256"]
    loaded = selfsup.load(moco, device="cpu")
    assert loaded.exported.sha256 == told["encoder_sha256"]
    pixels = torch.zeros(2, 3, 40, 40, dtype=torch.uint8)
    assert loaded.embed(pixels, layer="embedding").shape == (2, 8)


def test_a_file_stands_where_a_run_does(
    moco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "knn", moco, *ON) == 0
    figures, said = result(capsys)
    assert "is of the layout moco" in said
    assert 0 <= figures["knn_top1"] <= 1
    few = ["--labelled.fraction", "0.5", "--epochs", "1", "--folder", tmp_path / "fine", "--crop-scale", "0.5", "1"]
    assert call(monkeypatch, "finetune", moco, *ON, *few) == 0  # from the first layer of its head
    tuned = load_encoder(tmp_path / "fine")
    assert tuned.head is not None
    assert tuned.head.config.layer == 1  # type: ignore[union-attr]
    assert tuned.made_by["from"] == figures["encoder_sha256"]


def test_pretraining_goes_on_from_a_file_with_its_head(moco: Path, tmp_path: Path) -> None:
    encoder = ResNet.Config(depth=18, width=0.0625)
    run = tiny_run(tmp_path / "run", "moco", start=str(moco), encoder=encoder, epochs=1, max_steps=1)
    head = Head.Config(hidden_layers=1, output_dim=8)
    with_head = replace(run, start_head=True, method=replace(run.method, head=head))
    method = build_method(with_head, open_source("shapes:128"))
    assert isinstance(method, MoCo)
    content = torch.load(moco, weights_only=True)["state_dict"]
    for part in (method.head, method.key_head):
        assert torch.equal(part.layers[0][0].weight, content["module.encoder_q.fc.0.weight"])
        assert torch.equal(part.layers[1][0].bias, content["module.encoder_q.fc.2.bias"])
    for part in (method.encoder, method.key_encoder):
        assert torch.equal(part.state_dict()["conv1.weight"], content["module.encoder_q.conv1.weight"])
    without = build_method(replace(with_head, start_head=False), open_source("shapes:128"))
    assert not torch.equal(without.head.layers[0][0].weight, method.head.layers[0][0].weight)  # type: ignore[union-attr]
    pretrain(with_head)
    with pytest.raises(ValueError, match="start_head"):  # another start is another run
        pretrain(replace(with_head, start_head=False))
    with pytest.raises(ValueError, match=r"the head of .* is not the one of this run: head\.output_dim: 8 -> 16"):
        build_method(
            replace(with_head, method=replace(run.method, head=replace(head, output_dim=16))), open_source("shapes:128")
        )
    with pytest.raises(ValueError, match="start_head is given without start"):
        replace(with_head, start="")


def test_help_shows_flags_examples_and_all_layouts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "import", "--help") == 0
    shown = capsys.readouterr().out
    assert "selfsup import moco_v2_800ep_pretrain.pth.tar --out weights/moco_v2" in shown
    for word in ("--layout", "--network", "--architecture", "--heads", "--mean", *table()):
        assert word in shown, word
    assert call(monkeypatch, "--help") == 0
    assert "selfsup import FILE --out DIR" in capsys.readouterr().out


def test_wrong_uses_are_answered_with_what_to_do(
    moco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    torch.save({"a": torch.ones(2), "b.weight": torch.ones(2)}, tmp_path / "other.pth")
    used = tmp_path / "used"
    assert call(monkeypatch, "import", FILES["torchvision"]().write(tmp_path / "tv"), "--out", used) == 0
    capsys.readouterr()
    for words, told in [
        ([moco], "--out is missing; give the folder"),
        ([tmp_path / "absent.pth", "--out", "x"], "there are no weights at"),
        (["--out", "x"], "the file of weights is missing\nusage: selfsup import FILE --out DIR"),
        ([moco, "--out", tmp_path / "full"], "is not empty and holds no encoder; give another --out"),
        ([moco, "--out", used], "holds another encoder; give another --out"),
        ([moco, "--out", "x", "--layout", "moko"], "there is no layout moko; choose one of barlow_twins"),
        ([moco, "--out", "x", "--layout", "simclr"], "is not of the layout simclr"),
        ([moco, "--out", "x", "--layot", "moco"], "unknown flag --layot; did you mean --layout?"),
        ([tmp_path / "other.pth", "--out", "x"], "its first names are a, b.weight\nthe nearest layouts:"),
        ([moco, "--out", "x", "--heads", "0"], "heads is 0; give at least 1"),
        ([moco, "--out", "x", "--heads", "3"], "heads is 3, which plays no part in a ResNet"),
    ]:
        assert call(monkeypatch, "import", *words) == 2
        said = capsys.readouterr().err
        assert told in said, (words, said)
        assert "Traceback" not in said
        assert len(said.splitlines()) <= 6
    assert not Path("x").exists()


def test_the_command_is_in_the_table_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "selfsup import FILE --out DIR" in readme
    assert load_recipe("simclr_cifar10").start == ""
