"""One number that is not finite, in one process: all leave the step out, and nothing but the position has moved."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from selfsup.monitor.observer import Diverged, Taken
from selfsup.optim.optimizers import AdamW
from selfsup.pretraining import Run, pretrain
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.replay import run_replay
from selfsup.stages.settings import Replay
from selfsup.storage import checkpoint
from selfsup.training import nonfinite
from selfsup.training.undo import Undo
from tests.contracts import on_device
from tests.contracts.case import Case
from tests.contracts.cases import CASES
from tests.support.planted import PLACES, ROW, Place, outcome, planted
from tests.support.processes import run_processes
from tests.support.tiny import METHODS, QUICK, tiny_run


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_left_out(found: dict[str, Any], step: int) -> None:
    assert found["left_out"] == [step]
    assert found["unchanged"]
    assert found["finite"]
    assert not found["stopped"]


@pytest.mark.parametrize("method", QUICK)
def test_a_step_that_is_not_finite_changes_nothing(method: str, tmp_path: Path) -> None:
    for place in PLACES:
        run = tiny_run(tmp_path / place, method, epochs=1, max_steps=5, log_every=1)
        assert_left_out(outcome(run, place, (3,)), 3)
        logged = [line for line in lines(tmp_path / place / "metrics.jsonl") if "skipped_steps" in line]
        assert [line["skipped_steps"] for line in logged] == [0, 0, 0, 1, 1]
        assert logged[3]["loss"] == logged[2]["loss"]  # of the last step that counted
        kind = "gradient" if place == "gradient" else "loss"
        (noted,) = lines(tmp_path / place / "skipped.jsonl")
        assert noted["step"] == 4
        assert kind in noted["wrong"][0]
        assert len(noted["images"]) == (1 if place == "input" else 0)
        assert checkpoint.steps(tmp_path / place / "captured") == [4]


def kept_of(folder: Path) -> list[Any]:
    """What a run leaves behind of its steps, as plain data."""
    found = [(folder / kind, step) for kind in ("checkpoints", "captured") for step in checkpoint.steps(folder / kind)]
    states = [checkpoint.load(place / f"step_{step:08d}") for place, step in found]
    tensors = [
        {f"{group}/{name}": value.tolist() for group, part in state.tensors.items() for name, value in part.items()}
        for state in states
    ]
    clock = ("time", "images_per_second", "seconds", "seconds_training", "seconds_evaluation")
    logged = [{k: v for k, v in line.items() if k not in clock} for line in lines(folder / "metrics.jsonl")]
    return [tensors, logged, (folder / "skipped.jsonl").read_text()]


@pytest.mark.parametrize("method", [*QUICK, "metric_proxy", "moco_v3"])
def test_the_device_decides_as_the_host_would(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step behind: steps in a row, the first one, the last one, and with a report between: the same to the bit."""
    changes: dict[str, Any] = {"epochs": 1, "max_steps": 8, "log_every": 3, "max_bad_steps": 3}
    changes |= {"save_steps": 2, "keep_last": 9}
    if method == "moco_v3":
        changes["optimizer"] = AdamW.Config(learning_rate=1e-3)  # which counts its steps on the CPU
    runs = {name: tiny_run(tmp_path / name, method, **changes) for name in ("host", "device")}
    steps = (0, 2, 3, 5, 7)
    waited = outcome(runs["host"], "loss", steps)
    monkeypatch.setattr(nonfinite, "may_fall_behind", lambda device: True)
    behind = outcome(runs["device"], "loss", steps)
    assert waited["left_out"] == list(steps)
    assert behind["left_out"] == []  # none of them at once
    assert behind["finite"]
    assert behind["after"] == waited["after"]
    assert kept_of(tmp_path / "device") == kept_of(tmp_path / "host")


def test_what_the_optimizer_keeps_on_the_host_is_put_back() -> None:
    """As Adam's count of steps is beside parameters on a GPU."""
    layer = torch.nn.Linear(3, 2, device="meta")
    optimizer = torch.optim.AdamW(layer.parameters(), foreach=True)
    optimizer.state[layer.weight] = {"step": torch.tensor(4.0), "exp_avg": torch.zeros_like(layer.weight)}
    undo = Undo(layer, optimizer)
    kept = undo.keep()
    optimizer.state[layer.weight]["step"] += 1
    undo.where_bad(torch.tensor(False, device="meta"))
    assert optimizer.state[layer.weight]["step"] == 5
    undo.put_back(kept)
    assert optimizer.state[layer.weight]["step"] == 4


def outcomes_behind(runs: list[tuple[Run, Place, int]]) -> list[dict[str, Any]]:
    with mock.patch.object(nonfinite, "may_fall_behind", return_value=True):
        return [outcome(run, place, (1, 10), rank) for run, place, rank in runs]


def test_two_processes_decide_alike_on_the_device(tmp_path: Path) -> None:
    """Memory that each epoch's clusters put into other tensors, too."""
    sharded: Any = replace(METHODS["spcl"], shard_memory=True)  # type: ignore[type-var]
    runs: list[tuple[Run, Place, int]] = [
        (tiny_run(tmp_path / "moco", "moco", max_steps=12, log_every=9), "loss", 1),
        (replace(tiny_run(tmp_path / "spcl", "spcl", max_steps=12, log_every=9), method=sharded), "input", 0),
    ]
    first, second = run_processes(2, outcomes_behind, runs)
    for one, other, (run, _, _) in zip(first, second, runs, strict=True):
        assert one["finite"]
        assert other["finite"]
        assert [line["step"] for line in lines(Path(run.folder) / "skipped.jsonl")] == [2, 11]
    assert first[0] == second[0]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_to_decide_is_not_to_wait_for_the_device(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole step with the guard, on a device where asking for a value raises: how much is copied is its only cost."""
    monkeypatch.setattr(nonfinite, "may_fall_behind", lambda device: True)
    run, step = tiny_run(tmp_path), on_device.Step(case)
    method = step.run.method
    optimizer = run.optimizer.build(method.named_parameters(), run.batch_size)
    views, batch = step.batch()
    with step.counting():  # the first step begins the optimizer's state
        method(views, batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        accelerator: Any = SimpleNamespace(device=on_device.DEVICE, scaler=None)
        source: Any = SimpleNamespace(labels=torch.zeros(0), classes=())
        guard = nonfinite.Guard(method, run, RunFolder(tmp_path), source, accelerator, 0, optimizer)
    assert guard.behind == 1
    views, batch = step.batch()
    with step.counting() as operations:
        guard.before_step(0, views)
        out = method(views, batch)
        out.loss.backward()
        taken = Taken(step=0, views=views, batch=batch, loss=out.loss, update=out.update, norm=None)
        assert guard.allows(taken)
        optimizer.step()
        method.after_step(out.update, 0.5)
        guard.written(taken)
        assert guard.left_out(everything=False) is None
    assert operations.names["_foreach_copy_"] + operations.names["_foreach_copy_ of whole numbers"] <= 4


@pytest.mark.parametrize("changes", [{"clip_norm": 1.0}, {"precision": "bf16"}, {"grad_cache_chunk": 8}])
@pytest.mark.parametrize("place", PLACES)
def test_every_way_to_take_a_step_is_guarded(place: Place, changes: dict[str, Any], tmp_path: Path) -> None:
    assert_left_out(outcome(tiny_run(tmp_path / "run", max_steps=3, **changes), place, (1,)), 1)


def outcomes(runs: list[tuple[Run, Place, int]]) -> list[dict[str, Any]]:
    return [outcome(run, place, (1,), rank) for run, place, rank in runs]


def test_two_processes_leave_out_the_same_step(tmp_path: Path) -> None:
    places: list[tuple[str, Place, bool]] = [
        ("moco", "loss", False),
        ("moco", "gradient", False),
        ("spcl", "loss", False),
        ("moco", "input", False),
        ("instdisc", "input", False),
        ("simclr", "loss", True),
        ("moco_symmetric", "input", True),
    ]
    runs = [
        (
            tiny_run(tmp_path / f"{method}_{place}", method, epochs=1, max_steps=3, log_every=1, shard_encoder=sharded),
            place,
            number % 2,
        )
        for number, (method, place, sharded) in enumerate(places)
    ]
    first, second = run_processes(2, outcomes, runs)
    assert first == second  # their states after the last step, too
    for found, (run, place, rank) in zip(first, runs, strict=True):
        assert_left_out(found, 1)
        (noted,) = lines(Path(run.folder) / "skipped.jsonl")
        if place == "loss":
            assert noted["wrong"] == [["loss"] if number == rank else [] for number in (0, 1)]
        if place == "input":  # what two processes captured is run again in one
            again = run_replay(Path(run.folder) / "captured" / "step_00000002", Replay())
            assert again["reproduced"]
            assert [image["row"] for image in again["images"]] == [8 * rank + ROW]


def test_running_on_is_as_if_the_batch_had_not_been(tmp_path: Path) -> None:
    """Stopped after a step that was left out, resumed without any fault: the same as never having been stopped."""
    run = tiny_run(tmp_path / "whole", "moco", log_every=1)
    found = outcome(run, "loss", (5, 9))
    assert found["left_out"] == [5, 9]
    cut = replace(run, folder=str(tmp_path / "cut"))
    for step in (6, 8, 10):
        outcome(replace(cut, max_steps=step), "loss", (5, 9))
    pretrain(cut)
    states = [checkpoint.load_newest(tmp_path / name / "checkpoints")[0] for name in ("whole", "cut")]
    assert states[0] is not None
    assert states[1] is not None
    for name, value in states[0].tensors["method"].items():
        assert torch.equal(value, states[1].tensors["method"][name]), name
    counted = [
        [line["skipped_steps"] for line in lines(tmp_path / name / "metrics.jsonl")] for name in ("whole", "cut")
    ]
    assert counted[0] == counted[1] == [0] * 5 + [1] * 4 + [2] * 7


def test_several_in_a_row_stop_the_run(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", max_bad_steps=3)
    assert not outcome(replace(run, max_steps=4), "loss", (1, 2, 3))["stopped"]  # as many as are allowed
    assert outcome(replace(run, max_steps=6), "loss", (4,))["stopped"]  # counted on after a stop
    fresh = replace(run, folder=str(tmp_path / "fresh"))
    found = outcome(fresh, "input", (2, 4, 5, 6, 7, 8))
    assert found["left_out"] == [2, 4, 5, 6]  # the one that stops is not returned from
    assert "step 8 are not finite (loss, gradient, memory or running statistics)" in found["stopped"]
    assert ", nor were the 3 before it; views that are not finite: shapes-train[" in found["stopped"]
    assert f"selfsup replay {fresh.folder}/captured/step_" not in found["stopped"]  # the first three are kept
    assert checkpoint.steps(tmp_path / "fresh" / "captured") == [3, 5, 6]
    assert len(found["stopped"].splitlines()) <= 3


def test_the_first_step_may_be_left_out_as_well(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", "moco", log_every=1)
    assert_left_out(outcome(replace(run, max_steps=1), "input", (0,)), 0)
    assert "loss" not in lines(tmp_path / "run" / "metrics.jsonl")[0]
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [1]
    pretrain(replace(run, max_steps=2))
    assert lines(tmp_path / "run" / "metrics.jsonl")[1]["skipped_steps"] == 1


def test_none_at_all_may_be_allowed(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", max_bad_steps=0, save_steps=1)
    found = outcome(run, "gradient", (2,))
    assert "the loss or the weights at step 3 are not finite (gradient)" in found["stopped"]
    assert f"selfsup replay {run.folder}/captured/step_00000003" in found["stopped"]
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [1, 2]


def test_nobody_looks_where_nobody_is_asked_to(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", max_bad_steps=None, log_every=4)
    assert "the loss or the weights at step 4 are not finite" in outcome(run, "input", (1,))["stopped"]
    assert not (tmp_path / "run" / "captured").exists()
    with pytest.raises(ValueError, match="max_bad_steps is -1"):
        tiny_run(tmp_path, max_bad_steps=-1)


def test_a_batch_that_cannot_be_kept_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path / "run", max_steps=3)
    assert outcome(replace(run, folder=str(tmp_path / "roomy")), "loss", (1,))["left_out"] == [1]
    sizes = [
        (tmp_path / f"roomy/captured/step_00000002/{name}.safetensors").stat().st_size for name in ("method", "batch")
    ]
    free = 6 * sizes[0] + sizes[1]  # enough for what is captured, not for two checkpoints beside it
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_SPARE", 0)
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        assert outcome(run, "loss", (1,))["left_out"] == [1]
    assert checkpoint.steps(tmp_path / "run" / "captured") == []
    in_the_way = tmp_path / "other"
    pretrain(tiny_run(in_the_way, max_steps=1))
    (in_the_way / "captured").write_text("a file")
    assert outcome(tiny_run(in_the_way, max_steps=3), "loss", (1,))["left_out"] == [1]


@pytest.fixture
def overflowing() -> Iterator[None]:
    """A view that is finite, and whose variance is not."""
    with planted("mark", (1,), value=1e30):
        yield


def test_running_statistics_stay_finite_where_all_else_is(overflowing: None, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", max_steps=3)
    pretrain(run)
    found, _ = checkpoint.load_newest(tmp_path / "run" / "checkpoints")
    assert found is not None
    assert all(value.isfinite().all() for value in found.tensors["method"].values())
    assert lines(tmp_path / "run" / "skipped.jsonl")[0]["step"] == 2


def test_diverged_says_what_to_do(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run")
    run = replace(run, optimizer=replace(run.optimizer, learning_rate=1e30))
    with pytest.raises(Diverged, match=r"nor were the 5 before it(.|\n)*selfsup replay|try a lower"):
        pretrain(run)
