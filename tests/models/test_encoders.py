"""Every method and stage with encoders that are no ResNet of ours: those of timm, and one of a user's own.

Every method with a transformer, every encoder with SimCLR.
"""

import hashlib
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import selfsup
from selfsup.augment import presets
from selfsup.augment.views import Augment
from selfsup.data.settings import Data
from selfsup.models.encoder import Encoder
from selfsup.models.resnet import ResNet
from selfsup.pretraining import Run, pretrain
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.distill import run_distill
from selfsup.stages.distill_settings import distill_settings
from selfsup.stages.finetune import run_finetune
from selfsup.stages.finetune_settings import finetune_settings
from selfsup.stages.knn import STAGE as KNN
from selfsup.stages.linear import STAGE as LINEAR
from tests.support.processes import run_command, run_processes
from tests.support.tiny import METHODS, tiny_run
from tests.training.test_resume import final_state, run_all

timm = pytest.importorskip("timm")

from selfsup.models.timm import Timm  # noqa: E402  (its tests are passed over where timm is missing)

VIT = Timm.Config(
    name="vit_tiny_patch16_224",
    image_size=16,
    patch_size=4,
    embed_dim=32,
    depth=2,
    num_heads=2,
    drop_path=0.2,
    dropout=0.1,
)
CONVNEXT = Timm.Config(name="test_convnext", drop_path=0.2)


class Pixels(Encoder):
    """A user's own, of one piece."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Encoder.Config):
        stored_as: ClassVar[str] = "pixels"
        feature_dim: int = 12

        def build(self) -> "Pixels":
            return Pixels(self.feature_dim)

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.layers = nn.Sequential(nn.Conv2d(3, feature_dim, 5, 4), nn.GELU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).flatten(1)


ENCODERS: dict[str, Encoder.Config] = {"vit": VIT, "convnext": CONVNEXT, "own": Pixels.Config()}


def run_of(folder: Path, encoder: Encoder.Config, method: str = "simclr", **changes: Any) -> Run:
    settings: dict[str, Any] = {"encoder": encoder, "root": "shapes:64"}
    if encoder == CONVNEXT:  # which makes images 32 times smaller
        settings["augment"] = presets.moco_cifar(size=32)
    return tiny_run(folder, method, **(settings | changes))


def weights(run: Run) -> dict[str, Tensor]:
    return final_state(Path(run.folder))["method"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_a_transformer_and_goes_on_to_the_same_bits(method: str, tmp_path: Path) -> None:
    """Drop-path and dropout among what is random: they are a function of the step too."""
    root = "shapes:128"
    whole = run_of(tmp_path / "whole", VIT, method, root=root)
    pretrain(whole)
    parted = replace(whole, folder=str(tmp_path / "parted"))
    pretrain(replace(parted, max_steps=5))
    pretrain(parted)
    expected, found = weights(whole), weights(parted)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name
    trained = [name for name in expected if name.startswith("encoder.network.blocks")]
    torch.manual_seed(whole.seed)
    first = VIT.build().state_dict()
    assert any(not torch.equal(expected[name], first[name.removeprefix("encoder.")]) for name in trained)


@pytest.fixture(scope="module", params=ENCODERS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of each encoder."""
    run = run_of(tmp_path_factory.mktemp(request.param) / "run", ENCODERS[request.param], grad_cache_chunk=8)
    pretrain(run)
    return run


def test_stages_that_read_features(run: Run) -> None:
    folder = Path(run.folder)
    for stage, protocol in ((KNN, ""), (LINEAR, "features")):
        settings = stage.defaults(folder, protocol)
        settings = replace(settings, l2=(0.01,), iterations=20) if protocol else settings
        (result,) = stage.run(folder, settings).results[:1]
        assert all(0 <= value <= 1 for name, value in result.figures.items() if "top" in name)
    features = selfsup.load(folder, device="cpu").embed(np.zeros((2, 20, 20, 3), dtype=np.uint8))
    assert features.shape == (2, run.encoder.build().feature_dim)


def test_fine_tuning_with_rates_and_frozen_parts_and_distillation_into_a_resnet(run: Run, tmp_path: Path) -> None:
    folder, data = Path(run.folder), Data(root="shapes:64")
    stages = len(run.encoder.build().stages)
    small = {"epochs": 1, "batch_size": 16, "device": "cpu", "workers": 0}
    tuned = finetune_settings("sgd", data)
    settings = replace(
        tuned, layer_decay=0.5, train_after=min(1, stages), folder=str(tmp_path / "tuned"), label_smoothing=0.1, **small
    )
    run_finetune(folder, settings)
    before, after = (selfsup.load(place, device="cpu").exported.encoder for place in (folder, tmp_path / "tuned"))
    frozen = after.frozen(min(1, stages))
    held = [id(p) for part in frozen for p in ([part] if isinstance(part, Tensor) else part.parameters())]
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.equal(old, new) or id(new) not in held, name
    assert stages == 0 or any(
        not torch.equal(old, new) for old, new in zip(before.parameters(), after.parameters(), strict=True)
    )
    student = ResNet.Config(depth="small", stem="small", width=0.25)
    distilled = replace(distill_settings("features", data, student), folder=str(tmp_path / "student"), **small)
    run_distill(folder, distilled)
    assert isinstance(selfsup.load(tmp_path / "student", device="cpu").exported.encoder, ResNet)


def test_a_student_is_named_by_a_run(run: Run, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    size = 32 if run.encoder == CONVNEXT else 16
    pretrain(tiny_run(teacher, root="shapes:64", augment=presets.moco_cifar(size=size)))
    small = {"epochs": 1, "batch_size": 16, "device": "cpu", "workers": 0}
    settings = distill_settings("features", Data(root="shapes:64"), ResNet.Config(depth="small"))
    settings = replace(settings, student_like=run.folder, folder=str(tmp_path / "student"), **small)
    run_distill(teacher, settings)
    assert selfsup.load(tmp_path / "student", device="cpu").exported.config == run.encoder
    with pytest.raises(ValueError, match="there is no recipe"):
        run_distill(teacher, replace(settings, student_like="simclr_cifar10_cpuu"))


def test_a_student_for_images_of_another_size_is_refused(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    pretrain(tiny_run(teacher, root="shapes:64", max_steps=1))
    settings = distill_settings("features", Data(root="shapes:64"), ResNet.Config(depth="small"))
    settings = replace(settings, student=replace(VIT, image_size=32), folder=str(tmp_path / "student"), device="cpu")
    with pytest.raises(ValueError, match="built for images of 32 x 32 pixels"):
        run_distill(teacher, settings)
    assert not (tmp_path / "student").exists()


def test_every_encoder_of_a_method_is_compiled(tmp_path: Path) -> None:
    with mock.patch.object(Encoder, "compile") as compiled:
        pretrain(tiny_run(tmp_path / "run", "moco", compile=True, max_steps=1))
    assert compiled.call_count == 2  # that of queries and that of keys


@pytest.mark.parametrize("encoder", [VIT, CONVNEXT], ids=["vit", "convnext"])
def test_two_processes_share_the_weights(encoder: Timm.Config, tmp_path: Path) -> None:
    """The same end as one process, to the rounding of few steps; what is dropped is drawn by each process."""
    plain = replace(encoder, drop_path=0.0, dropout=0.0)
    augment = presets.moco_cifar(size=16 if encoder == VIT else 32)
    one = run_of(tmp_path / "one", plain, max_steps=2, augment=augment)
    two = replace(one, folder=str(tmp_path / "two"), shard_encoder=True)
    pretrain(one)
    run_processes(2, run_all, [two])
    expected, found = weights(one), weights(two)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


def test_weights_of_a_file_are_what_training_starts_from(tmp_path: Path) -> None:
    torch.manual_seed(7)
    known = VIT.build().network
    torch.save({"state_dict": known.state_dict() | {"head.weight": torch.zeros(3, 32)}}, tmp_path / "known.pth")
    config = replace(VIT, pretrained=str(tmp_path / "known.pth"))
    run = run_of(tmp_path / "run", config, max_steps=1)
    encoder = config.build()
    config.load_pretrained(encoder)
    for name, value in known.state_dict().items():
        assert torch.equal(encoder.network.state_dict()[name], value)
    pretrain(run)
    other = torch.load(tmp_path / "known.pth") | {"of": torch.zeros(1)}
    torch.save(other, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"belongs to another configuration: facts.pretrained"):
        pretrain(replace(run, encoder=replace(config, pretrained=str(tmp_path / "other.pth"))))
    (tmp_path / "known.pth").unlink()
    pretrain(replace(run, max_steps=None))  # goes on from its own weights
    with pytest.raises(ValueError, match=r"there is no file .*known.pth"):
        pretrain(replace(run, folder=str(tmp_path / "other")))
    torch.save({"model": {"patch_embed.proj.weight": torch.zeros(3)}}, tmp_path / "known.pth")
    with pytest.raises(ValueError, match=r"are not of vit_tiny_patch16_224: .* missing or of another shape"):
        pretrain(replace(run, folder=str(tmp_path / "other")))
    (tmp_path / "known.pth").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="holds no weights that can be read"):
        pretrain(replace(run, folder=str(tmp_path / "other")))


def test_what_does_nothing_and_what_may_not_be_meant_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(VIT.build().network.state_dict(), "known.pth")
    run = run_of(tmp_path / "run", replace(VIT, pretrained="known.pth"), "moco", max_steps=1)
    pretrain(run)
    said = capsys.readouterr().err
    assert 'the encoder has no batch norm: method.batch_norm "groups" acts nowhere' in said
    assert "were trained on images with mean (0.5, 0.5, 0.5) and the views have (0.4914, 0.4822, 0.4465)" in said
    assert "give --augment.views.0.mean (and of the other views) 0.5 0.5 0.5 to feed them as then" in said
    assert RunFolder(tmp_path / "run").saved_run()["encoder"]["pretrained"] == str(tmp_path / "known.pth")
    like = tuple(replace(view, mean=(0.5,) * 3, std=(0.5,) * 3) for view in run.augment.views)
    pretrain(run_of(tmp_path / "quiet", run.encoder, augment=Augment(views=like), max_steps=1))
    said = capsys.readouterr().err
    assert "were trained on images" not in said
    assert "no batch norm" in said
    pretrain(run_of(tmp_path / "v3", VIT, "moco_v3", max_steps=1))
    assert "acts only in the head" in capsys.readouterr().err
    pretrain(tiny_run(tmp_path / "resnet", root="shapes:64", max_steps=1))
    assert "no batch norm" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"name": "vit_tinny_patch16_224"},
            "no network vit_tinny_patch16_224; did you mean vit_tiny_patch16_",
        ),
        ({"name": "test_convnext"}, r"timm cannot build test_convnext with \{'patch_size': 4"),
        ({"num_heads": 5}, "dim should be divisible by num_heads"),
        (
            {"image_size": None},
            "for images of 224 x 224 pixels, and views are 16 x 16; give --encoder.image-size",
        ),
    ],
)
def test_what_cannot_be_built_is_told_before_the_first_step(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        pretrain(run_of(tmp_path / "run", replace(VIT, **changes)))
    with pytest.raises(
        ValueError,
        match=r"32 times smaller, more than the 16 pixels of their side, and views are 16 x 16; .* --size 32$",
    ):
        pretrain(run_of(tmp_path / "run", CONVNEXT, augment=presets.moco_cifar(size=16)))
    assert not (tmp_path / "run").exists()


OWN = """
from dataclasses import dataclass, replace
from pathlib import Path

from tests.models.test_encoders import Pixels
from tests.support.tiny import tiny_run


class Mine(Pixels):
    @dataclass(frozen=True, kw_only=True)
    class Config(Pixels.Config):
        stored_as = "mine_of_a_recipe"

        def build(self):
            return Mine(self.feature_dim)


recipe = tiny_run(Path("run"), root="shapes:64", encoder=Mine.Config(), epochs=1)
"""


def test_the_commands_read_an_encoder_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)

    def selfsup_(*words: str) -> tuple[int, str]:
        code, out, errors = run_command(tmp_path, *words)
        return code, out + errors

    assert selfsup_("pretrain", "own.py")[0] == 0
    code, said = selfsup_("knn", "run", "--recipe", "own.py", "--workers", "0")
    assert (code, "top1" in said) == (0, True), said
    code, said = selfsup_("knn", "run")
    assert code == 2
    assert "'mine_of_a_recipe'" in said
    assert "one of your own: add --recipe FILE.py" in said
    kept = tmp_path / "run" / "code" / "own.py"
    assert str(kept.relative_to(tmp_path)) in said
    assert kept.read_text() == OWN
    launches = json.loads((tmp_path / "run" / "environment.json").read_text())["launches"]
    assert launches[-1]["code"]["own.py"] == hashlib.sha256(OWN.encode()).hexdigest()
    (tmp_path / "own.py").write_text(f"{OWN}# changed\n")
    code, said = selfsup_("pretrain", "own.py")
    assert (code, "own.py has changed since this run began" in said) == (0, True), said
    assert kept.read_text() == OWN
    assert len(list(kept.parent.glob("own_*.py"))) == 1
    (tmp_path / "own.py").unlink()
    assert selfsup_("knn", "run", "--recipe", "run/code/own.py", "--workers", "0")[0] == 0


def test_a_transformer_as_in_moco_v3(tmp_path: Path) -> None:
    """Positions by the formula, entry by entry; patches frozen in pretraining alone."""
    config = replace(VIT, variant="moco_v3", embed_dim=16, depth=1)
    torch.manual_seed(0)
    network = config.build().network
    assert not network.pos_embed.requires_grad
    assert network.pos_embed.shape == (1, 17, 16)
    assert not network.pos_embed[0, 0].any()  # the class token has no position
    for row in range(4):
        for column in range(4):
            for place, first in ((row, 0), (column, 8)):
                for n in range(4):
                    angle = place / 10_000 ** (n / 4)
                    found = network.pos_embed[0, 1 + 4 * row + column, [first + n, first + 4 + n]].tolist()
                    assert found == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-6)
    bound = math.sqrt(6 / (3 * 16 + 16))
    assert 0.9 * bound < float(network.patch_embed.proj.weight.detach().abs().max()) <= bound
    run = run_of(tmp_path / "run", config, "moco_v3")
    pretrain(run)
    trained = weights(run)
    torch.manual_seed(run.seed)
    first = config.build().state_dict()
    still = [name for name in first if torch.equal(first[name], trained[f"encoder.{name}"])]
    assert still == ["network.pos_embed", "network.patch_embed.proj.weight", "network.patch_embed.proj.bias"]
    settings = finetune_settings("sgd", Data(root="shapes:64"))
    small = {"epochs": 1, "batch_size": 16, "device": "cpu", "workers": 0, "folder": str(tmp_path / "tuned")}
    run_finetune(tmp_path / "run", replace(settings, **small))
    after = selfsup.load(tmp_path / "tuned", device="cpu").exported.encoder.state_dict()
    still = [name for name in first if torch.equal(after[name], trained[f"encoder.{name}"])]
    assert still == ["network.pos_embed"]
    with pytest.raises(ValueError, match="test_convnext has no positions of patches to fix"):
        replace(CONVNEXT, variant="moco_v3").build()
    with pytest.raises(ValueError, match="18 features cannot hold sines and cosines of rows and columns"):
        replace(config, embed_dim=18).build()


@pytest.mark.parametrize(
    ("settings", "random"),
    [({}, False), ({"drop_path": 0.5}, True), ({"dropout": 0.5}, True)],
    ids=["nothing", "drop_path", "dropout"],
)
def test_what_is_left_out_in_training_is_what_the_settings_say(settings: dict[str, float], random: bool) -> None:
    encoder = replace(VIT, **({"drop_path": 0.0, "dropout": 0.0} | settings)).build()
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    first, second = encoder(images), encoder(images)
    assert torch.equal(first, second) != random
    encoder.eval()
    assert torch.equal(encoder(images), encoder(images))


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"drop_path is 1.0; it must be at least 0 and below 1"):
        replace(VIT, drop_path=1.0)
    with pytest.raises(ValueError, match="depth is 0; give at least 1"):
        replace(VIT, depth=0)
