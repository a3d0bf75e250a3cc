"""Fine-tuning: the published settings, what is trained and how fast, the same bits after any interruption."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from selfsup.batch import Batch
from selfsup.data.labelled import Labelled
from selfsup.data.settings import Data
from selfsup.data.sources import open_source
from selfsup.evaluation.encoder import Exported, load_encoder
from selfsup.methods.simclr import SimCLR
from selfsup.models.heads import Classifier, Head
from selfsup.optim.optimizers import LARS, SGD
from selfsup.optim.schedules import Horizon
from selfsup.pretraining import pretrain
from selfsup.stages import commands
from selfsup.stages.base import data_of
from selfsup.stages.finetune import _build, _resolved, run_finetune
from selfsup.stages.finetune_settings import PROTOCOLS, Finetune, finetune_settings
from selfsup.stages.finetuned import FineTuned
from selfsup.storage import checkpoint
from tests.support.exact import assert_equal_to_rounding, in_double
from tests.support.processes import run_processes
from tests.support.tiny import tiny_run

DATA = Data(root="shapes:128")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose head has two hidden layers with batch norm, as SimCLRv2's."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    head = Head.Config(hidden_layers=2, hidden_dim=12, output_dim=16, batch_norm="all")
    pretrain(replace(tiny_run(folder, epochs=1), method=SimCLR.Config(head=head)))
    return folder


def settings(folder: Path | None = None, protocol: str = "sgd", **changes: Any) -> Finetune:
    """8 steps in 4 epochs over 4 images of each class."""
    small = {"epochs": 4, "batch_size": 20, "device": "cpu", "workers": 0, "labelled": Labelled(per_class=4)}
    place = {"folder": str(folder)} if folder else {}
    return replace(finetune_settings(protocol, DATA), **(small | place | changes))


def built(run: Path, **changes: Any) -> tuple[FineTuned, Exported]:
    exported = load_encoder(run)
    resolved, _ = _resolved(settings(**changes), exported, 40)
    again = load_encoder(run)  # the method takes it over
    torch.manual_seed(0)
    return _build(resolved, again, ("a", "b", "c")), exported


def tensors(folder: Path) -> dict[str, Tensor]:
    """Of the exported encoder and classifier."""
    exported = load_encoder(folder)
    return {**exported.encoder.state_dict(), **{f"head.{k}": v for k, v in exported.classifier[1].state_dict().items()}}


def test_published_settings() -> None:
    presets = {name: finetune_settings(name, Data()) for name in PROTOCOLS}
    first, second, plain = (presets[name] for name in ("simclr_v1", "simclr_v2", "sgd"))
    assert [p.epochs for p in (first, second, plain)] == [60, 60, 20]
    assert [p.batch_size for p in (first, second, plain)] == [4096, 1024, 256]
    assert first.optimizer.peak(4096) == pytest.approx(0.8)
    assert second.optimizer.peak(1024) == pytest.approx(0.16)
    assert plain.optimizer.peak(256) == pytest.approx(0.005)
    assert plain.optimizer.peak(256) * plain.classifier_rate == pytest.approx(0.5)
    assert isinstance(first.optimizer, SGD.Config)
    assert first.optimizer.nesterov
    assert isinstance(second.optimizer, LARS.Config)
    assert second.optimizer.momentum == 0.9
    assert [first.layer, second.layer, plain.layer] == [0, None, 0]
    assert [p.crop_sampler for p in (first, second, plain)] == ["tensorflow", "tensorflow", "torchvision"]
    # barlowtwins evaluate.py:100-104 and 203: rates as they stand, whatever the batch; a cosine from epoch to epoch.
    assert plain.optimizer.peak(64) == pytest.approx(0.005)
    steps = [plain.schedule(step, Horizon(12811, 256, 20)) for step in (0, 49, 50, 99)]
    assert steps == pytest.approx([1.0, 1.0, 0.5 * (1 + math.cos(math.pi / 20)), 0.5 * (1 + math.cos(math.pi / 20))])
    horizon = Horizon(12811, 1024, 60)
    for preset in presets.values():
        assert preset.optimizer.weight_decay == 0
        assert preset.train_after == -1
        assert [preset.schedule(step, horizon) for step in (0, 360)] == pytest.approx([1, 0.5])  # no warm-up, cosine
        assert preset.evaluate_every == 0
    with pytest.raises(ValueError, match="there is no protocol 'simclr'"):
        finetune_settings("simclr", Data())


@pytest.mark.parametrize("protocol", ["simclr_v2", "sgd"])
def test_it_starts_from_the_layer_that_was_asked_for(finished: Path, protocol: str) -> None:
    """The first hidden layer is SimCLRv2's own choice; the third one is the projection, which is thrown away."""
    features = torch.randn(6, 32)
    method, exported = built(finished, protocol=protocol)
    assert isinstance(exported.head, Head)
    expected = exported.head.hidden(features, 1) if protocol == "simclr_v2" else features
    method.eval()
    torch.testing.assert_close(method.head.hidden(features), expected, rtol=0, atol=0)
    two, _ = built(finished, protocol=protocol, layer=2)
    torch.testing.assert_close(two.eval().head.hidden(features), exported.head.hidden(features, 2), rtol=0, atol=0)
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(method.embed(images), exported.encoder(images))
    weight = method.head.linear.weight
    assert weight.std().item() == pytest.approx(0.01, rel=0.3) if protocol == "sgd" else not weight.any()
    with pytest.raises(ValueError, match=r"layer is 3, .* there are 2; give 0 to 2"):
        built(finished, layer=3)


def test_without_a_head_simclr_v2_says_that_it_takes_the_features(finished: Path, tmp_path: Path) -> None:
    for name in ("encoder.safetensors", "encoder.json"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    alone = load_encoder(tmp_path)
    resolved, remarks = _resolved(settings(protocol="simclr_v2"), alone, 1000)
    assert resolved.layer == 0
    assert remarks == ["no hidden layer of a head was exported; the classifier stands on the features"]
    with pytest.raises(ValueError, match=r"layer is 1, .* there are 0; give 0$"):
        _resolved(settings(layer=1), alone, 1000)
    assert _resolved(settings(layer=1), load_encoder(finished), 1000)[1] == []


def test_a_step_is_cross_entropy_on_the_logits(finished: Path) -> None:
    method, _ = built(finished, label_smoothing=0.1)
    torch.nn.init.normal_(method.head.linear.weight)
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 3
    step = method([images], Batch((), labels, torch.arange(8)))
    logits = method.head(method.encoder(images)).detach().double()
    own = -logits.log_softmax(dim=1)
    expected = sum(0.9 * own[n, labels[n]] + 0.1 * own[n].mean() for n in range(8)) / 8
    assert float(step.loss.detach()) == pytest.approx(float(expected), rel=1e-5)
    assert float(step.metrics["accuracy"]) == float((logits.argmax(dim=1) == labels).double().mean())


@pytest.mark.parametrize("train_after", [-1, 0, 2, 3])
def test_frozen_parts_stay_as_they_are_and_all_else_moves(finished: Path, tmp_path: Path, train_after: int) -> None:
    run_finetune(finished, settings(tmp_path / "f", train_after=train_after, layer=1, epochs=2))
    frozen = [] if train_after < 0 else ["conv1.", "bn1.", *(f"layer{n + 1}." for n in range(train_after))]
    before, after = load_encoder(finished).encoder.state_dict(), tensors(tmp_path / "f")
    for name, value in before.items():
        assert torch.equal(value, after[name]) == name.startswith(tuple(frozen)), name  # running statistics, too
    head = load_encoder(finished).head
    assert isinstance(head, Head)
    for name, value in head.layers[:1].state_dict().items():
        assert not torch.equal(value, after[f"head.hidden.{name}"]), name


def test_rates_by_stage(finished: Path) -> None:
    method, _ = built(finished, layer_decay=0.5, classifier_rate=10.0, layer=1)
    optimizer = SGD.Config(learning_rate=1.0, scaling="none").build(method.named_parameters(), 20, method.rates())
    rates = {parameter: group["peak_lr"] for group in optimizer.param_groups for parameter in group["params"]}
    found: dict[str, set[float]] = {}
    for name, parameter in method.named_parameters():
        part = name.split(".")[1]
        found.setdefault(part, set()).add(rates[parameter])
    stages = {"conv1": {0.125}, "bn1": {0.125}, "layer1": {0.25}, "layer2": {0.5}, "layer3": {1.0}}
    assert found == {**stages, "hidden": {1.0}, "linear": {10.0}}
    partly, _ = built(finished, layer_decay=0.5, train_after=1)
    assert partly.rates() == {"encoder.layer2.": 0.5, "head.linear.": 100.0}
    assert built(finished, protocol="simclr_v2")[0].rates() == {}


def test_lars_adapts_all_but_the_new_layer(finished: Path) -> None:
    """Its norm is 0 at the start; the published code leaves it out by its name."""
    method, _ = built(finished, protocol="simclr_v2")
    optimizer = finetune_settings("simclr_v2", DATA).optimizer.build(method.named_parameters(), 1024, method.rates())
    adapted = {id(p) for group in optimizer.param_groups if group["adapt"] for p in group["params"]}
    for name, parameter in method.named_parameters():
        assert (id(parameter) in adapted) == (parameter.ndim > 1 and name != "head.linear.weight"), name


def test_interrupted_anywhere_it_ends_with_the_same_bits(finished: Path, tmp_path: Path) -> None:
    whole, cut = (
        settings(tmp_path / "whole", train_after=1, layer=1),
        settings(tmp_path / "cut", train_after=1, layer=1),
    )
    expected = run_finetune(finished, whole).results[0]
    for step in (1, 2, 5):
        stopped = run_finetune(finished, replace(cut, max_steps=step))
        assert (stopped.results, stopped.reason) == ([], "max-steps")
        assert not (tmp_path / "cut" / "encoder.safetensors").exists()
    assert run_finetune(finished, cut).results[0] == expected
    assert run_finetune(finished, cut).results[0] == expected  # finished already
    with pytest.raises(ValueError, match=r"another configuration: .*labelled\.per_class: 4 -> 5"):
        run_finetune(finished, replace(cut, labelled=Labelled(per_class=5)))


def finetuned(run: str, task: Finetune) -> Tensor:
    return torch.tensor(run_finetune(Path(run), task).results[0].figures["finetune_top1"])


def test_two_processes_are_one(finished: Path, tmp_path: Path) -> None:
    one = settings(tmp_path / "one", layer=1, train_after=0, epochs=2)
    both = replace(one, folder=str(tmp_path / "both"))
    found = float(in_double(finetuned, str(finished), one))
    for figure in run_processes(2, in_double, finetuned, str(finished), both):
        assert float(figure) == pytest.approx(found, abs=1.5 / 128)
    states = [checkpoint.load_newest(tmp_path / name / "checkpoints")[0] for name in ("one", "both")]
    assert states[0] is not None
    assert states[1] is not None
    assert_equal_to_rounding(states[1].tensors["method"], states[0].tensors["method"])


def test_the_folder_is_a_run_with_a_classifier(finished: Path, tmp_path: Path) -> None:
    task = settings(tmp_path / "f", layer=1, labelled=Labelled(fraction=0.3, seed=2), evaluate_every=4)
    evaluated = run_finetune(finished, task)
    result = evaluated.results[0]
    assert (result.stage, evaluated.folder) == ("finetune", tmp_path / "f")
    exported = load_encoder(tmp_path / "f")
    test = open_source("shapes:128", "test")
    images = exported.feed.center()(test.images, None, torch.device("cpu"))  # type: ignore[attr-defined]
    with torch.no_grad():
        logits = exported.classifier(images)
    assert result.figures["finetune_top1"] == float((logits.argmax(dim=1) == test.labels).double().mean())
    assert torch.equal(exported.network("embedding")(images), exported.classifier(images))
    assert exported.class_names == test.classes
    assert result.about["encoder_sha256"] == exported.sha256
    assert result.about["pretrained_sha256"] == load_encoder(finished).sha256
    assert (result.protocol["labels"], result.about["labelled_seed"]) == ("30pct", 2)
    assert json.loads(json.dumps(result.protocol)) == result.protocol
    assert data_of(tmp_path / "f") == DATA
    logged = (tmp_path / "f" / "metrics.jsonl").read_text()
    assert f'"top1": {result.figures["finetune_top1"]}' in logged
    with pytest.raises(ValueError, match="no classifier; make one by selfsup finetune"):
        _ = load_encoder(finished).classifier
    # The list that it wrote makes the same run again.
    names = (tmp_path / "f" / "labelled.txt").read_text().splitlines()
    assert len(names) == result.protocol["labelled_images"]
    listed = replace(task, folder=str(tmp_path / "again"), labelled=Labelled(file=str(tmp_path / "f" / "labelled.txt")))
    assert run_finetune(finished, listed).results[0].about["encoder_sha256"] == exported.sha256
    # A classifier can be tuned further, from its own hidden layer.
    method, _ = built(tmp_path / "f", protocol="simclr_v2")
    assert isinstance(exported.head, Classifier)
    features = torch.randn(5, 32)
    torch.testing.assert_close(method.eval().head.hidden(features), exported.head.hidden(features), rtol=0, atol=0)


def test_from_scratch_it_is_the_same_network_drawn_anew(finished: Path) -> None:
    random, exported = built(finished, protocol="simclr_v2", start="random")
    trained, _ = built(finished, protocol="simclr_v2")
    assert {n: p.shape for n, p in random.named_parameters()} == {n: p.shape for n, p in trained.named_parameters()}
    torch.manual_seed(0)
    expected = exported.config.build().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in random.encoder.state_dict().items())
    assert not torch.equal(random.head.hidden[0][0].weight, trained.head.hidden[0][0].weight)
    result = run_finetune(finished, settings(start="random", epochs=1))
    assert result.folder == finished / "supervised_4_per_class"
    assert result.results[0].stage == "supervised"
    assert result.results[0].about["pretrained_sha256"] is None


def test_a_batch_is_at_most_all_labelled_images(finished: Path) -> None:
    resolved, remarks = _resolved(settings(batch_size=512), load_encoder(finished), 40)
    assert resolved.batch_size == 40
    assert "40 labelled images are one batch" in remarks[0]
    assert _resolved(settings(batch_size=40), load_encoder(finished), 40)[0].batch_size == 40


def test_the_command(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = "--protocol sgd --labelled.per-class 3 --epochs 1 --batch-size 10 --device cpu --crop-scale 0.5 1".split()
    assert commands.run_stage("finetune", [str(finished), *flags]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["run"] == str(finished / "finetune_3_per_class")
    kept = json.loads((finished / "finetune_3_per_class" / "results" / "finetune.json").read_text())["results"]
    assert kept[0]["figures"]["finetune_top1"] == said["finetune_top1"]
    assert kept[0]["protocol"]["crop_scale"] == [0.5, 1.0]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"train_after": 4}, "train_after is 4, but the encoder has 3 stages; give -1 to 3"),
        ({"labelled": Labelled(fraction=0.01)}, "leaves classes disc, ring.* smallest that would do is"),
        ({"labelled": Labelled(per_class=99)}, "per_class is 99, but of classes disc"),
        ({"data": replace(DATA, labels="none")}, "images have no labels"),
    ],
)
def test_what_does_not_fit_is_refused(finished: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        run_finetune(finished, settings(finished / "never", **changes))
    assert not (finished / "never").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"layer": -1}, "layer is -1"),
        ({"train_after": -2}, "train_after is -2"),
        ({"layer_decay": 0.0}, r"layer_decay is 0\.0"),
        ({"protocol": "simclr_v2", "layer_decay": 0.5}, "LARS sets the rate of every layer"),
        ({"initial_std": -1.0}, "initial_std is -1"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1"),
    ],
)
def test_settings_without_meaning(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        settings(**changes)
