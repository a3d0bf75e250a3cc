"""How long until an accuracy is reached: thresholds that are met, and such that never are."""

import importlib.util
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.tiny import tiny_run
from tools.benchmarks import time_to_accuracy as tool
from tools.benchmarks.epochs import Epoch, epochs_of, first_to_reach
from tools.benchmarks.time_to_accuracy import Learnt, summary


def learnt(seed: int, *knn: float, begin: float = 100.0, pace: float = 10.0) -> Learnt:
    """Epochs that take `pace` seconds each, and one second for the evaluation."""
    epochs = [Epoch(n, pace, n * pace, one, begin + n * (pace + 1)) for n, one in enumerate(knn, start=1)]
    return Learnt(seed, begin, epochs)


def test_a_threshold_is_reached_by_the_first_epoch_that_has_it() -> None:
    epochs = learnt(0, 0.2, 0.4, 0.3, 0.5).epochs
    assert first_to_reach(epochs, 0.2) == epochs[0]
    assert first_to_reach(epochs, 0.35) == epochs[1]
    assert first_to_reach(epochs, 0.41) == epochs[3]
    assert first_to_reach(epochs, 0.6) is None
    assert first_to_reach([], 0.1) is None


def test_thresholds_are_summed_up_over_the_seeds_that_reached_them() -> None:
    ours = [learnt(0, 0.2, 0.4), learnt(1, 0.4, 0.4, begin=500.0)]
    theirs = [learnt(0, 0.1, 0.3, pace=21.0), learnt(1, 0.1, 0.4, pace=21.0)]
    assert summary("ours", 0.3, ours, ours) == {
        "name": "time_to_accuracy/ours",
        "threshold": 0.3,
        "seeds": [0, 1],
        "reached_by": [0, 1],
        "training_seconds": [15.0, 10.0, 20.0],
        "seconds": [16.5, 11.0, 22.0],
        "epochs": [1.5, 1.0, 2.0],
        "over_ours": 1.0,
    }
    assert summary("lightly", 0.3, theirs, ours)["over_ours"] == pytest.approx(44 / 16.5, rel=1e-3)
    one = summary("lightly", 0.4, theirs, ours)
    assert (one["reached_by"], one["epochs"]) == ([1], [2.0, 2.0, 2.0])
    assert "over_ours" not in one  # of other seeds than ours
    never = summary("ours", 0.9, ours, ours)
    assert (never["reached_by"], never["seconds"], never["training_seconds"], never["epochs"]) == ([], None, None, None)


def test_a_run_is_read_epoch_by_epoch(tmp_path: Path) -> None:
    """Of a real run: the seconds of its epochs are those that its rates say, and none is left out."""
    begin = time.time()
    run = tiny_run(tmp_path / "run", epochs=2, root="shapes:64")
    run = replace(run, evaluate_every=1, probe_l2=None, log_every=1_000_000, report=False, log_to=())
    epochs = tool.ours(run, 0)
    assert [epoch.epoch for epoch in epochs] == [1, 2]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
    assert [epoch.seconds for epoch in epochs] == pytest.approx([64 / rate for rate in rates])
    assert epochs[1].training_seconds == pytest.approx(sum(epoch.seconds for epoch in epochs))
    assert begin < epochs[0].time < epochs[1].time <= time.time() + 1
    assert epochs[1].training_seconds < epochs[1].time - begin
    line = tool.curve("ours", Learnt(0, begin, epochs))
    assert line["knn_top1"] == pytest.approx([one["knn_top1"] for one in lines if "knn_top1" in one], rel=1e-3)


def test_programs_take_turns_and_one_that_fails_has_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", "cifar10.npz", "--seeds", "3", "5"]
    monkeypatch.setattr(sys, "argv", ["time_to_accuracy", *words])
    monkeypatch.setattr(tool.importlib.util, "find_spec", lambda name: object())
    asked: list[tuple[str, str]] = []

    def answered(command: list[str], **options: object) -> "subprocess.CompletedProcess[str]":
        given = dict(zip(command[-6::2], command[-5::2], strict=True))
        asked.append((given["--program"], given["--seeds"]))
        assert command[3 : 3 + len(words)] == words
        assert given["--run"] == str(tmp_path / "_".join(asked[-1]))
        if asked[-1][0] == "lightly":
            return subprocess.CompletedProcess(command, 1, "", "Traceback\nValueError: there is no cifar10.npz\n")
        return subprocess.CompletedProcess(command, 0, json.dumps({"epochs": learnt(0, 0.5).epochs}) + "\n", "")

    monkeypatch.setattr(tool.subprocess, "run", answered)
    found = tool.train(tool.parsed(), tmp_path)
    assert asked == [("ours", "3"), ("lightly", "3"), ("ours", "5")]
    assert {name: [(one.seed, one.epochs) for one in trainings] for name, trainings in found.items()} == {
        "ours": [(seed, learnt(0, 0.5).epochs) for seed in (3, 5)]
    }
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in lines] == ["learning/ours", "learning/lightly", "learning/ours"]
    assert lines[1]["failed"] == "ValueError: there is no cifar10.npz"
    assert lines[2]["knn_top1"] == [0.5]
    assert (lines[2]["images"], lines[2]["batch"]) == (30_000, 256)  # as the recipe has it


def test_half_a_line_is_no_epoch(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    assert epochs_of(metrics, 10, 8) == []
    metrics.write_text(
        '{"step": 10, "images_per_second": 40.0}\n{"step": 10, "knn_top1": 0.5, "time": 7.0}\n{"step": 20'
    )
    assert epochs_of(metrics, 10, 8) == [Epoch(1, 2.0, 2.0, 0.5, 7.0)]


@pytest.mark.skipif(importlib.util.find_spec("lightly") is None, reason="lightly is not installed")
def test_the_plain_loop_has_an_epoch_for_each_of_ours(tmp_path: Path) -> None:
    run = replace(tiny_run(tmp_path / "run", epochs=2, root="shapes:64"), evaluate_every=1, probe_l2=None)
    assert [epoch.epoch for epoch in tool.lightlys(run, 0)] == [1, 2]


@pytest.mark.parametrize(
    ("words", "said"), [(["--thresholds", "40"], "such as 0.4"), (["--seeds", "1", "1"], "each once")]
)
def test_wrong_words_are_refused(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["time_to_accuracy", *words])
    with pytest.raises(SystemExit):
        tool.parsed()
    assert said in capsys.readouterr().err
