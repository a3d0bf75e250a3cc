"""Checkpoints that are whole and well sealed, and make no sense: refused by file and field before training."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor

from selfsup.data.sources import open_source
from selfsup.memory.saved import Limits
from selfsup.optim.optimizers import AdamW
from selfsup.pretraining import build_method, pretrain
from selfsup.run_folder.folder import RunFolder
from selfsup.storage import checkpoint
from selfsup.training.checkpoints import Checkpoints
from selfsup.training.state import check_state
from tests.support.sealed_files import put_tensors, replace_in_checkpoint
from tests.support.tiny import METHODS, tiny_run

IMAGES = 64
STEPS = 2  # after which the runs were stopped, of 8


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function: the run folder of a method, stopped after two steps, and copied; each is trained once."""
    place = tmp_path_factory.mktemp("begun")

    def run(method: str, to: Path) -> Path:
        if not (place / method).exists():
            pretrain(tiny_run(place / method, method, f"shapes:{IMAGES}", max_steps=STEPS))
        return shutil.copytree(place / method, to)

    return run


def newest(run: Path) -> Path:
    return max(run.glob("checkpoints/step_*"))


def stated(place: Path, **fields: Any) -> None:
    """Other fields in state.json, sealed as right."""
    text = json.dumps(json.loads((place / "state.json").read_text()) | fields).encode()
    replace_in_checkpoint(place, "state.json", text)


class Loading:
    """The state of a run, to be loaded again and again."""

    def __init__(self, run: Path, method: str) -> None:
        settings = tiny_run(run, method, f"shapes:{IMAGES}")
        source = open_source(f"shapes:{IMAGES}", "train")
        if method == "spcl_domains":
            labels = torch.cat([source.labels, torch.full_like(source.labels, -1)])
            source = cast(Any, Both(labels, source.classes))
        self.method = build_method(settings, source)
        optimizer = settings.optimizer.build(self.method.named_parameters(), 16)
        accelerator = cast(Accelerator, SimpleNamespace(scaler=None, device=torch.device("cpu")))
        self.state = Checkpoints(self.method, optimizer, accelerator, RunFolder(run), settings, 4)
        self.limits = Limits(steps=8, images=len(source), classes=len(source.classes))

    def refusal(self) -> str:
        """What the checkpoint is refused with; empty where it is not."""
        try:
            self.state.load(self.limits)
        except ValueError as error:
            return str(error)
        return ""

    def told(self, tensors: dict[str, Tensor]) -> str:
        """What the method's tensors are refused with."""
        try:
            check_state(self.method, tensors, self.limits._replace(steps=STEPS))
        except ValueError as error:
            return str(error)
        return ""


class Both:
    """Facts of images in two domains."""

    def __init__(self, labels: Tensor, classes: tuple[str, ...]) -> None:
        self.labels, self.classes = labels, classes

    def __len__(self) -> int:
        return len(self.labels)


def changed(value: Tensor, to: float) -> Tensor:
    """The last of its numbers is another one."""
    value = value.clone()
    value.view(-1)[-1] = to
    return value


# Numbers that are only counted, and never read: any number of batches does no harm.
COUNTED = "num_batches_tracked"


@pytest.mark.parametrize("method", METHODS)
def test_numbers_that_no_run_can_have_written_are_refused(method: str, tmp_path: Path) -> None:
    """Every whole number, every number of memories, and weights and statistics of the encoder."""
    loading = Loading(tmp_path / "run", method)
    tensors = {name: value.clone() for name, value in loading.method.state_dict().items()}
    if "memory.initialised" in tensors:
        tensors["memory.initialised"].fill_(True)
    assert not loading.told(tensors)
    whole = [name for name, value in tensors.items() if not value.is_floating_point() and value.dtype != torch.bool]
    for name in whole:
        for number in (-1, 2**40, -(2**40)):
            unknown = number == -1 and name.endswith(("queue.labels", "queue.indices"))  # rows of no image, of no class
            if unknown or (number > 0 and name.endswith(COUNTED)):
                continue
            told = loading.told(tensors | {name: changed(tensors[name], number)})
            assert told.startswith(f"method.safetensors: {name} holds {number};"), (name, told)
        for other in (tensors[name].to(torch.int32), tensors[name].reshape(1, -1)):
            assert loading.told(tensors | {name: other}).startswith(f"method.safetensors: {name} is of ")
    own = [name for name in set(tensors) - set(whole) if not name.startswith(("encoder.", "key_encoder."))]
    for name in [*own, "encoder.conv1.weight", "encoder.bn1.running_var"]:
        # There is no threshold as long as there is no cluster.
        for number in (torch.inf,) if name == "threshold" else (torch.nan, torch.inf):
            if tensors[name].is_floating_point():
                told = loading.told(tensors | {name: changed(tensors[name], number)})
                assert told == f"method.safetensors: {name} holds {number}; wanted finite numbers"


@pytest.mark.parametrize(
    ("method", "name", "value", "told"),
    [
        ("moco", "queue.pointer", torch.tensor(40), "0 to 39"),
        ("moco", "queue.pointer", torch.tensor(31), "queue.pointer holds 31 where queue.filled holds 32"),
        ("moco", "queue.filled", torch.tensor(41), "0 to 40"),
        ("moco", "queue.labels", torch.full((40,), 10), "-1 to"),
        ("moco", "queue.indices", torch.full((40,), IMAGES), f"-1 to {IMAGES - 1}"),
        ("moco", "steps", torch.tensor(STEPS + 1), f"0 to {STEPS}"),
        ("moco", "encoder.bn1.running_var", torch.full((4,), -1.0), "at least 0"),
        ("spcl", "memory.labels", torch.full((IMAGES,), IMAGES), f"0 to {IMAGES - 1}"),
        ("spcl", "memory.initialised", torch.tensor(False), "no cluster was ever found"),
        ("spcl", "threshold", torch.tensor(1.5, dtype=torch.float64), "0 to 1"),
        ("xbm", "feature_drift", torch.tensor(-1.0), "at least 0"),
    ],
)
def test_what_is_just_beyond_is_refused(
    method: str, name: str, value: Tensor, told: str, begun: Any, tmp_path: Path
) -> None:
    run = begun(method, tmp_path / "run")
    tensors = load_file(newest(run) / "method.safetensors")
    if tensors[name].shape != value.shape:
        value = value.flatten()[:1].expand(tensors[name].shape).clone()
    put_tensors(newest(run), "method.safetensors", tensors | {name: value.to(tensors[name].dtype)})
    refusal = Loading(run, method).refusal()
    assert name in refusal
    assert told in refusal


def test_tensors_too_many_and_too_few_are_named(begun: Any, tmp_path: Path) -> None:
    run = begun("moco", tmp_path / "run")
    tensors = load_file(newest(run) / "method.safetensors")
    put_tensors(newest(run), "method.safetensors", tensors | {"other": torch.zeros(1)})
    assert "method.safetensors: other is not of this method" in Loading(run, "moco").refusal()
    del tensors["queue.features"]
    put_tensors(newest(run), "method.safetensors", tensors)
    assert "method.safetensors: queue.features is missing" in Loading(run, "moco").refusal()


def test_batches_that_were_counted_change_nothing(begun: Any, tmp_path: Path) -> None:
    """The only whole numbers that may be any: a run from there on is the same in all else."""
    runs = [begun("moco", tmp_path / name) for name in ("run", "counted")]
    tensors = load_file(newest(runs[1]) / "method.safetensors")
    counted = {name: changed(value, 2**40) for name, value in tensors.items() if name.endswith(COUNTED)}
    assert counted
    put_tensors(newest(runs[1]), "method.safetensors", tensors | counted)
    for run in runs:
        pretrain(tiny_run(run, "moco", f"shapes:{IMAGES}", max_steps=STEPS + 2))
    one, other = (load_file(newest(run) / "method.safetensors") for run in runs)
    assert [name for name in one if not one[name].equal(other[name])] == list(counted)


# The step, and what the optimizer remembers


@pytest.mark.parametrize("step", [9, 2**40, 2**63, 0, 1, -1])
def test_a_step_that_is_not_that_of_the_folder_or_of_the_run(step: int, begun: Any, tmp_path: Path) -> None:
    run = begun("moco", tmp_path / "run")
    stated(newest(run), step=step)
    with pytest.raises(ValueError, match=r"state\.json"):
        pretrain(tiny_run(run, "moco", f"shapes:{IMAGES}"))
    if step > 8:
        newest(run).rename(run / "checkpoints" / f"step_{step:08d}")
        with pytest.raises(ValueError, match=rf"state\.json: step is {step}; wanted 0 to 8, the steps of this run"):
            pretrain(tiny_run(run, "moco", f"shapes:{IMAGES}"))
    assert not (run / "encoder.json").exists()


def adamw(run: Path) -> Any:
    return tiny_run(run, "simclr", f"shapes:{IMAGES}", optimizer=AdamW.Config())


@pytest.fixture(scope="module")
def by_adamw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("adamw") / "run"
    pretrain(tiny_run(run, "simclr", f"shapes:{IMAGES}", optimizer=AdamW.Config(), max_steps=STEPS))
    return run


NAME = "encoder.conv1.weight"
SENSELESS: dict[str, tuple[Any, str]] = {
    "a negative count": (lambda t: {f"{NAME}/step": torch.tensor(-3.0)}, f"{NAME}/step holds -3"),
    "a count above the step": (lambda t: {f"{NAME}/step": torch.tensor(3.0)}, f"{NAME}/step holds 3"),
    "a count that is a tensor": (lambda t: {f"{NAME}/step": torch.ones(3)}, f"{NAME}/step is"),
    "a count that is whole": (lambda t: {f"{NAME}/step": torch.tensor(2)}, f"{NAME}/step is torch.int64"),
    "half precision": (lambda t: {f"{NAME}/exp_avg": t[f"{NAME}/exp_avg"].half()}, f"{NAME}/exp_avg is torch.float16"),
    "one number": (lambda t: {f"{NAME}/exp_avg": torch.tensor(1.0)}, f"{NAME}/exp_avg is"),
    "a negative square": (lambda t: {f"{NAME}/exp_avg_sq": -1 - t[f"{NAME}/exp_avg_sq"]}, "at least 0"),
    "an entry of no optimizer": (lambda t: {f"{NAME}/other": torch.zeros(1)}, f"{NAME}/other, which this optimizer"),
    "a missing entry": (lambda t: {f"{NAME}/exp_avg_sq": None}, f"{NAME}/exp_avg_sq is missing"),
}


@pytest.mark.parametrize("case", SENSELESS)
def test_what_the_optimizer_cannot_have_written_is_named(case: str, by_adamw: Path, tmp_path: Path) -> None:
    run = shutil.copytree(by_adamw, tmp_path / "run")
    tensors = load_file(newest(run) / "optimizer.safetensors")
    change, told = SENSELESS[case]
    new = {name: value for name, value in (tensors | change(tensors)).items() if value is not None}
    put_tensors(newest(run), "optimizer.safetensors", new)
    with pytest.raises(ValueError, match=rf"(?s)step_.*optimizer\.safetensors: .*{re.escape(told)}"):
        pretrain(adamw(run))


@pytest.mark.parametrize(
    "lines",
    ["[1]", '{"step": "2"}', '{"stop": 2}', '{"step": 1e999}', '{"step": true}', "[" * 100_000 + "}", "x}"],
)
def test_a_list_of_skipped_steps_that_is_none_is_named(lines: str, begun: Any, tmp_path: Path) -> None:
    run = begun("moco", tmp_path / "run")
    (run / "skipped.jsonl").write_text(lines + "\n")
    with pytest.raises(ValueError, match=r"skipped\.jsonl.* line 1 "):
        pretrain(tiny_run(run, "moco", f"shapes:{IMAGES}"))


def test_a_line_that_a_crash_cut_off_is_none_of_them(begun: Any, tmp_path: Path) -> None:
    run = begun("moco", tmp_path / "run")
    (run / "skipped.jsonl").write_text('{"step": 2}\n{"step": 2, "wr')
    assert pretrain(tiny_run(run, "moco", f"shapes:{IMAGES}", max_steps=STEPS + 1))["step"] == STEPS + 1
    assert (run / "skipped.jsonl").read_text() == '{"step": 2}\n'


@pytest.mark.parametrize(
    "scaler",
    [5, {}, {"scale": -1.0}, {"scale": float("inf")}, {"growth_interval": 0}, {"_growth_tracker": -1}],
)
def test_a_loss_scale_that_is_none_is_named(scaler: Any, begun: Any, tmp_path: Path) -> None:
    good = {"scale": 2.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 9, "_growth_tracker": 1}
    run = begun("moco", tmp_path / "run")
    loading = Loading(run, "moco")
    loading.state.scaler = cast(Any, SimpleNamespace(load_state_dict=lambda state: None))
    stated(newest(run), scaler=good)
    assert not loading.refusal()
    stated(newest(run), scaler=good | scaler if scaler and isinstance(scaler, dict) else scaler or {"scale": 2.0})
    assert "state.json: scaler" in loading.refusal()


def test_replay_refuses_them_too(begun: Any, tmp_path: Path) -> None:
    """What was captured is a state like any other."""
    from selfsup.stages.replay import run_replay
    from selfsup.stages.settings import Replay

    run = begun("moco", tmp_path / "run")
    held = checkpoint.load(newest(run))
    source = open_source(f"shapes:{IMAGES}", "train")
    batch = {
        "labels": source.labels[:16].clone(),
        "indices": torch.arange(16),
        "all_labels": source.labels,
        "view_0": torch.zeros(16, 3, 16, 16),
        "view_1": torch.zeros(16, 3, 16, 16),
    }
    facts = {
        "wrong": [["loss"]],
        "seed": 0,
        "precision": "fp32",
        "processes": 1,
        "resolved": {},
        "classes": list(source.classes),
        "images": ["a"] * 16,
    }
    place = checkpoint.save(run / "captured", 3, {"method": held.tensors["method"], "batch": batch}, facts, 3)
    run_replay(place, Replay(device="cpu"))
    for group, name, number in (("method", "queue.pointer", 40), ("batch", "indices", IMAGES), ("batch", "labels", 10)):
        tensors = held.tensors["method"] if group == "method" else batch
        put_tensors(place, f"{group}.safetensors", tensors | {name: changed(tensors[name], number)})
        with pytest.raises(ValueError, match=rf"{group}\.safetensors: {name} holds {number}"):
            run_replay(place, Replay(device="cpu"))
        put_tensors(place, f"{group}.safetensors", tensors)
