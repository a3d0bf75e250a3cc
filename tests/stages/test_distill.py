"""The stage of distillation: what the student sees, what is written, interrupted or not, what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from selfsup.config.settings import dump, restore
from selfsup.data.labelled import Labelled
from selfsup.data.settings import Data
from selfsup.data.sources import open_source
from selfsup.evaluation.encoder import load_encoder
from selfsup.models.heads import Classifier, Head
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import SGD
from selfsup.pretraining import pretrain
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.distill import STAGE, run_distill
from selfsup.stages.distill_settings import Distill, distill_settings
from selfsup.stages.finetune import run_finetune
from selfsup.stages.finetune_settings import finetune_settings
from selfsup.storage import checkpoint
from tests.support.tiny import tiny_run

DATA = Data(root="shapes:96")
SMALL: dict[str, Any] = {"epochs": 1, "batch_size": 32, "device": "cpu", "workers": 0}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    pretrain(tiny_run(folder, epochs=1, data=DATA))
    return folder


@pytest.fixture(scope="module")
def teacher(pretrained: Path) -> Path:
    settings = replace(finetune_settings("simclr_v2", DATA), labelled=Labelled(per_class=4), **SMALL)
    folder = run_finetune(pretrained, settings).folder
    assert folder is not None
    return folder


def settings(teacher: Path, protocol: str = "self", **changes: Any) -> Distill:
    defaults: Distill = STAGE.defaults(teacher, protocol)
    return replace(defaults, **(SMALL | {"optimizer": SGD.Config(learning_rate=0.1)} | changes))


def test_published_settings_are_as_published() -> None:
    teacher = ResNet.Config(depth=50)
    own, smaller = (distill_settings(protocol, Data(), teacher) for protocol in ("self", "smaller"))
    assert (own.temperature, smaller.temperature) == (0.1, 1.0)
    assert own.optimizer.peak(4096) == pytest.approx(6.4)
    assert (own.epochs, own.batch_size, own.optimizer.weight_decay, own.alpha) == (400, 4096, 1e-4, 1.0)
    assert (own.tau_squared, own.student, smaller.student.width) == (False, teacher, 0.5)
    assert restore(dump(own), Distill) == own


def test_a_student_like_its_teacher_becomes_one(teacher: Path) -> None:
    evaluated = run_distill(teacher, settings(teacher, start="teacher", optimizer=SGD.Config(learning_rate=1e-12)))
    (result,) = evaluated.results
    assert evaluated.folder == teacher / "distill_self"
    assert set(result.figures) == {"distill_top1", "distill_top5", "teacher_top1", "agreement"}
    # Its weights have not moved; its batch norm has.
    taught, student = load_encoder(teacher), load_encoder(teacher / "distill_self")
    for name, value in student.classifier.named_parameters():
        torch.testing.assert_close(value, taught.classifier.get_parameter(name), rtol=1e-5, atol=1e-9)
    assert isinstance(student.head, Classifier)
    assert student.head.config == taught.head.config  # type: ignore[union-attr]
    assert result.about["encoder_sha256"] == student.sha256
    assert result.about["teacher_sha256"] == taught.sha256
    assert result.protocol["labelled_images"] == 0
    facts, of = RunFolder(teacher / "distill_self").read_json("config.json")["result"]["facts"], "sha256"
    exported = RunFolder(teacher).read_json("encoder.json")
    assert (facts["teacher"], facts["classifier"]) == (exported[of], exported["head"][of])


def test_the_figures_are_those_of_the_exported_student(teacher: Path) -> None:
    wanted = settings(teacher, "smaller", folder=str(teacher.parent / "smaller"))
    assert wanted.student.width == load_encoder(teacher).config.width / 2
    (result,) = run_distill(teacher, wanted).results
    images = open_source("shapes:96", "test")
    own, taught = (
        load_encoder(path).classifier(load_encoder(teacher).feed.center()(images.images, None, torch.device("cpu")))
        for path in (teacher.parent / "smaller", teacher)
    )
    chosen = own.argmax(dim=1)
    assert result.figures["distill_top1"] == pytest.approx((chosen == images.labels).double().mean().item())
    assert result.figures["teacher_top1"] == pytest.approx(
        (taught.argmax(dim=1) == images.labels).double().mean().item()
    )
    assert result.figures["agreement"] == pytest.approx((chosen == taught.argmax(dim=1)).double().mean().item())
    (again,) = run_distill(teacher, wanted).results  # finished already: judged again from its checkpoint
    assert again == result


def test_labels_are_not_looked_at(teacher: Path, tmp_path: Path) -> None:
    """With and without labels in the data, the same student."""
    folders = [tmp_path / "with", tmp_path / "without"]
    for folder, labels in zip(folders, ("auto", "none"), strict=True):
        data = Data(root="shapes:96", labels=labels)  # type: ignore[arg-type]
        (result,) = run_distill(teacher, settings(teacher, data=data, folder=str(folder))).results
    assert set(result.figures) == {"agreement"}
    assert result.protocol["judged_on"] == "training images"
    assert load_encoder(folders[0]).sha256 == load_encoder(folders[1]).sha256


def test_alpha_uses_the_labels_that_the_teacher_had(teacher: Path, tmp_path: Path) -> None:
    listed = len((teacher / "labelled.txt").read_text().splitlines())
    results = [
        run_distill(teacher, settings(teacher, alpha=0.5, labelled=labelled, folder=str(tmp_path / name))).results[0]
        for name, labelled in (("a", Labelled()), ("b", Labelled(per_class=4)), ("c", Labelled(fraction=1.0)))
    ]
    assert [result.protocol["labelled_images"] for result in results] == [listed, listed, 96]
    assert [result.protocol["labels"] for result in results] == ["the teacher's", "4_per_class", "100pct"]
    digests = [result.about["encoder_sha256"] for result in results]
    assert digests[0] == digests[1] != digests[2]


def test_labels_must_be_named_where_the_teacher_lists_none(teacher: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(teacher, copy, ignore=shutil.ignore_patterns("labelled.txt", "distill*"))
    with pytest.raises(ValueError, match=r"no labelled\.txt"):
        run_distill(copy, settings(copy, alpha=0.5))


def test_interrupted_at_every_step(teacher: Path, tmp_path: Path) -> None:
    whole = settings(teacher, alpha=0.5, epochs=2, folder=str(tmp_path / "whole"))
    expected = run_distill(teacher, whole).results
    for step in range(1, 6):
        evaluated = run_distill(teacher, replace(whole, folder=str(tmp_path / "cut"), max_steps=step))
        assert (evaluated.results, evaluated.reason) == ([], "max-steps")
    assert run_distill(teacher, replace(whole, folder=str(tmp_path / "cut"))).results == expected
    saved = checkpoint.load_newest(tmp_path / "cut" / "checkpoints")[0]
    assert saved is not None
    assert {name.partition(".")[0] for name in saved.tensors["method"]} == {"encoder", "head"}


def test_another_teacher_is_refused_on_resume(pretrained: Path, teacher: Path, tmp_path: Path) -> None:
    """One that differs in its classifier only: the encoders are equal, as nothing below was trained."""
    frozen = replace(finetune_settings("sgd", DATA), labelled=Labelled(per_class=4), train_after=3, **SMALL)
    for name, epochs in (("short", 1), ("long", 2)):
        run_finetune(pretrained, replace(frozen, epochs=epochs, folder=str(tmp_path / name)))
    assert load_encoder(tmp_path / "short").sha256 == load_encoder(tmp_path / "long").sha256
    changes = {"max_steps": 1, "folder": str(tmp_path / "student")}
    run_distill(tmp_path / "short", settings(tmp_path / "short", **changes))
    with pytest.raises(ValueError, match=r"another configuration: facts\.classifier"):
        run_distill(tmp_path / "long", settings(tmp_path / "short", **changes))


def test_features_of_a_backbone_without_classifier(pretrained: Path) -> None:
    student = replace(load_encoder(pretrained).config, width=0.125)
    changes = {"student": student, "epochs": 6, "optimizer": SGD.Config(learning_rate=4.0)}
    (result,) = run_distill(pretrained, settings(pretrained, "features", **changes)).results
    assert result.figures["distill_cosine"] > 0.8
    exported = load_encoder(pretrained / "distill_features_smallx0.125_small")
    assert isinstance(exported.head, Head)
    images = open_source("shapes:96", "test").images
    crops = exported.feed.center()(images, None, torch.device("cpu"))
    cosine = F.cosine_similarity(exported.network("embedding")(crops), load_encoder(pretrained).encoder(crops))
    assert cosine.mean().item() == pytest.approx(result.figures["distill_cosine"], abs=1e-5)


@pytest.mark.parametrize("depth", ["small", 18])
def test_the_total_stride_is_that_of_the_network(depth: Any) -> None:
    for stem in ("imagenet", "small", "cifar"):
        for last_stride in (1, 2):
            config = ResNet.Config(depth=depth, stem=stem, width=0.05, last_stride=last_stride)  # type: ignore[arg-type]
            with torch.device("meta"):
                small = config.build().feature_map(torch.empty(1, 3, 64, 64))
            assert config.stride == 64 // small.shape[-1]


def test_a_student_starts_from_any_encoder(pretrained: Path, teacher: Path, tmp_path: Path) -> None:
    """Such as the one that the teacher was fine-tuned from; what it is, not where, is told in the protocol."""
    still = settings(
        teacher, start=str(pretrained), optimizer=SGD.Config(learning_rate=1e-12), folder=str(tmp_path / "a")
    )
    (result,) = run_distill(teacher, still).results
    first, student = load_encoder(pretrained), load_encoder(tmp_path / "a")
    for name, value in student.encoder.named_parameters():
        torch.testing.assert_close(value, first.encoder.get_parameter(name), rtol=1e-5, atol=1e-9)
    assert result.protocol["start"] == "encoder"
    assert result.about["start_sha256"] == first.sha256
    with pytest.raises(ValueError, match=r"cannot start from .*: student.width"):
        run_distill(teacher, replace(still, protocol="smaller", student=replace(still.student, width=0.5)))


def test_bad_input_is_named(pretrained: Path, teacher: Path) -> None:
    with pytest.raises(ValueError, match="has no classifier to distil; make one by selfsup finetune"):
        run_distill(pretrained, settings(pretrained))
    own = settings(teacher)
    with pytest.raises(ValueError, match="student shrinks images 32 times, more than the 16 pixels"):
        run_distill(teacher, replace(own, protocol="smaller", student=ResNet.Config(depth=18)))
    with pytest.raises(ValueError, match=r"not like its teacher: student.width: 0.25 -> 0.5; give --protocol smaller"):
        run_distill(teacher, replace(own, student=replace(own.student, width=0.5)))
    with pytest.raises(ValueError, match=r"cannot start from its teacher: student\.depth"):
        run_distill(teacher, replace(own, start="teacher", student=replace(own.student, depth=18)))
    with pytest.raises(ValueError, match="temperature is 0"):
        replace(own, temperature=0)
    with pytest.raises(ValueError, match=r"alpha is 1\.5"):
        replace(own, alpha=1.5)
    with pytest.raises(ValueError, match="features have no classes"):
        replace(own, protocol="features", alpha=0.5)


def test_data_of_other_classes_are_refused(teacher: Path, tmp_path: Path) -> None:
    import numpy as np

    images, labels = np.zeros((40, 16, 16, 3), dtype=np.uint8), np.arange(40) % 2
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    with pytest.raises(ValueError, match=r"the data have 2 others \(0, 1, \.\.\)"):
        run_distill(teacher, settings(teacher, data=Data(root=str(tmp_path / "a.npz"))))
