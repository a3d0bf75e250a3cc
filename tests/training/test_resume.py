"""Interrupted anywhere, resumed by the same call: the same weights, bit for bit."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from selfsup.pretraining import Run, pretrain
from selfsup.run_folder.folder import RunFolder
from selfsup.storage import checkpoint
from tests.support.processes import run_processes
from tests.support.tiny import QUICK, photographs, tiny_run


def encoder_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "encoder.safetensors").read_bytes()).hexdigest()


def final_state(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    found, damage = checkpoint.load_newest(folder / "checkpoints")
    assert found is not None
    assert not damage
    return found.tensors


def assert_same(one: Path, other: Path) -> None:
    assert encoder_hash(one) == encoder_hash(other)
    first, second = final_state(one), final_state(other)
    for group in ("method", "optimizer"):
        assert first[group].keys() == second[group].keys()
        for name, value in first[group].items():
            assert torch.equal(value, second[group][name]), name


@pytest.fixture(scope="module", params=QUICK)
def uninterrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param) / "whole"
    result = pretrain(tiny_run(folder, request.param))
    assert result["reason"] == "finished"
    return request.param, folder


def test_interrupted_at_every_step(uninterrupted: tuple[str, Path], tmp_path: Path) -> None:
    method, whole = uninterrupted
    chain = tmp_path / "chain"  # stopped and resumed after each of the 16 steps
    for step in range(1, 16):
        result = pretrain(tiny_run(chain, method, max_steps=step))
        assert (result["step"], result["reason"]) == (step, "max-steps")
    assert pretrain(tiny_run(chain, method))["reason"] == "finished"
    assert_same(whole, chain)


def test_a_finished_run_is_left_as_it_is(uninterrupted: tuple[str, Path]) -> None:
    method, whole = uninterrupted
    before = encoder_hash(whole)
    assert pretrain(tiny_run(whole, method))["reason"] == "finished"
    assert encoder_hash(whole) == before


def test_metrics_of_an_interrupted_run_have_each_step_once(uninterrupted: tuple[str, Path], tmp_path: Path) -> None:
    method, _ = uninterrupted
    run = tiny_run(tmp_path / "cut", method, log_every=1)
    pretrain(replace(run, max_steps=5))
    with open(tmp_path / "cut" / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 6, "loss": 1.0}) + '\n{"step": 7, "lo')  # what a crash leaves behind
    pretrain(run)
    lines = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 17))
    clusters = [line["step"] for line in lines if "clusters" in line]
    assert clusters == ([1, 9] if method == "spcl" else [])


def test_another_configuration_is_refused_and_listed(uninterrupted: tuple[str, Path]) -> None:
    method, whole = uninterrupted
    with pytest.raises(ValueError, match=r"another configuration: batch_size: 16 -> 32; seed: 0 -> 5") as error:
        pretrain(tiny_run(whole, method, batch_size=32, seed=5))
    assert len(str(error.value).splitlines()) <= 3
    with pytest.raises(ValueError, match=r"other data; images: 64 images removed, the first \[64\]"):
        pretrain(replace(tiny_run(whole, method), data=replace(tiny_run(whole).data, root="shapes:64")))


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("hello")
    with pytest.raises(ValueError, match="not empty and holds no run"):
        pretrain(tiny_run(tmp_path))


def test_workers_and_interruptions_change_nothing(tmp_path: Path) -> None:
    root = photographs(tmp_path / "photos")
    run = tiny_run(tmp_path / "none", "moco")
    run = replace(run, data=replace(run.data, root=str(root)), epochs=2)
    pretrain(run)
    two = replace(run, folder=str(tmp_path / "two"), workers=2)
    pretrain(replace(two, max_steps=3))
    pretrain(replace(two, max_steps=6, workers=0))
    pretrain(two)
    assert_same(tmp_path / "none", tmp_path / "two")


def run_all(runs: list[Run]) -> list[int]:
    """`pretrain` of each in turn, everything built anew, in a process group that exists already."""
    return [int(pretrain(run)["step"]) for run in runs]


def test_two_processes_resume_exactly(tmp_path: Path) -> None:
    runs = []
    for method in QUICK:
        cut = tiny_run(tmp_path / f"{method}_cut", method, epochs=1)
        runs += [replace(cut, folder=str(tmp_path / f"{method}_whole")), replace(cut, max_steps=3), cut]
    assert run_processes(2, run_all, runs) == [[8, 3, 8] * len(QUICK)] * 2
    for method in QUICK:
        assert_same(tmp_path / f"{method}_whole", tmp_path / f"{method}_cut")


_COMMAND = [sys.executable, "-m", "selfsup", "pretrain"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_and_the_same_command_goes_on(tmp_path: Path, number: int) -> None:
    recipe = tmp_path / "recipe.py"
    folder = tmp_path / "cut"
    recipe.write_text(
        "from pathlib import Path\n"
        f"from tests.support.tiny import tiny_run\nrecipe = tiny_run(Path({str(folder)!r}), epochs=30, log_every=1)\n"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*_COMMAND, str(recipe)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    metrics = folder / "metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and metrics.read_text().count("\n") > 3):
        time.sleep(0.02)
    process.send_signal(number)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number, errors
    stopped = json.loads(out.splitlines()[-1])
    assert stopped["reason"] == "signal"
    assert 3 < stopped["step"] < 240
    assert checkpoint.steps(folder / "checkpoints")[-1] == stopped["step"]


def test_max_minutes_saves_and_stops(tmp_path: Path) -> None:
    result = pretrain(tiny_run(tmp_path / "run", max_minutes=0.0))
    assert (result["step"], result["reason"]) == (1, "max-minutes")
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [1]


def test_a_loss_that_is_not_finite_stops_before_it_is_saved(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", log_every=1)
    run = replace(run, optimizer=replace(run.optimizer, learning_rate=1e30))
    with pytest.raises(ValueError, match=r"the loss or the weights at step"):
        pretrain(run)
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == []


def photo_recipe(tmp_path: Path) -> tuple[Path, Path]:
    """A recipe over streamed photographs with two workers, and its run folder."""
    root, folder, recipe = photographs(tmp_path / "photos"), tmp_path / "run", tmp_path / "recipe.py"
    recipe.write_text(
        "from pathlib import Path\n"
        "from dataclasses import replace\nfrom tests.support.tiny import tiny_run\n"
        f"run = tiny_run(Path({str(folder)!r}), epochs=300, log_every=1, workers=2)\n"
        f"recipe = replace(run, data=replace(run.data, root={str(root)!r}))\n"
    )
    return recipe, folder


def test_a_signal_to_the_whole_group_reaches_no_worker(tmp_path: Path) -> None:
    """Launchers and terminals signal every process of a group; the step is finished with the workers' help."""
    recipe, folder = photo_recipe(tmp_path)
    process = subprocess.Popen(
        [*_COMMAND, str(recipe)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    metrics = folder / "metrics.jsonl"
    while process.poll() is None and not (metrics.is_file() and metrics.read_text().count("\n") > 3):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert checkpoint.steps(folder / "checkpoints")[-1] == json.loads(out.splitlines()[-1])["step"]


def test_two_runs_in_one_folder_keep_out_of_each_others_way(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", precision="fp32")
    pretrain(replace(run, max_steps=2))
    first = RunFolder(tmp_path / "run")
    facts = json.loads((first.path / "config.json").read_text())["result"]["facts"]
    with (
        first.claimed(run, facts, torch.device("cpu")),
        pytest.raises(ValueError, match="another process is at work"),
    ):
        pretrain(run)
    assert pretrain(run)["reason"] == "finished"


def test_a_stop_at_the_end_of_an_epoch_still_judges_it(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", evaluate_every=1, epochs=1, max_minutes=0.0)
    for _ in range(8):
        result = pretrain(run)
    assert result["reason"] == "finished"  # the time was up, and so was the work
    assert 0 < result["knn_top1"] <= 1


def test_ruined_weights_are_not_saved(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", max_steps=1)
    run = replace(run, optimizer=replace(run.optimizer, learning_rate=1e38, weight_decay=0.0, scaling="none"))
    with pytest.raises(ValueError, match="not finite"):
        pretrain(replace(run, optimizer=replace(run.optimizer, learning_rate=3e38, weight_decay=3e38)))
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == []
