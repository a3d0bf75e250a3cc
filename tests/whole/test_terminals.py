"""What people see: recorded terminals, compared with stored texts in which figures are placeholders.

`python -m tests.whole.test_terminals` writes the texts anew; read them before they are committed.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from selfsup.monitor import log, reporter
from selfsup.monitor.reporter import Reporter
from selfsup.optim.schedules import Horizon
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.base import Result, keep
from selfsup.stages.in_words import in_words
from tests.support.places import ROOT
from tests.support.terminals import TERMINALS, Terminal, shown, with_placeholders

STORED = ROOT / "tests" / "golden" / "terminals"
RUN = (
    "pretrain simclr_cifar10_cpu --data shapes:64 --data.limit None --encoder.width 0.25 --batch-size 16 --epochs 2 "
    "--evaluate-every 1 --log-every 1 --device cpu --workers 0 --no-report --folder run"
).split()


def judged(folder: Path, **figures: float) -> None:
    """A run with results, by its files alone."""
    for stage in ("knn", "retrieval"):
        found = {name: value for name, value in figures.items() if name.startswith("knn") == (stage == "knn")}
        if found:
            about = {"encoder_sha256": str(folder)}
            protocol = {"k": 20, "temperature": 0.1} if stage == "knn" else {"split": "each left out"}
            keep(RunFolder(folder), [Result(stage=stage, figures=found, protocol=protocol, about=about)])


def recorded(name: str) -> str:
    """The transcript of a pretraining, kNN and a comparison on one of the terminals, in the current folder."""
    terminal = TERMINALS[name]
    recalls = {f"recall_at_{k}": 0.25 for k in (1, 2, 4, 8)}
    judged(Path("first"), knn_top1=0.5, knn_top5=0.75, map=0.25, **recalls, recall_at_10=0.25)
    judged(
        Path("a_second_run_with_a_longer_name"), knn_top1=0.625, knn_top5=0.7, map=0.125, **recalls, recall_at_10=0.5
    )
    judged(Path("third"), knn_top1=0.25, knn_balanced_accuracy=0.125)
    parts = []
    for words in (RUN, ["knn", "run", "--device", "cpu"]):
        parts += [f"$ selfsup {' '.join(words)}", *with_placeholders(shown(terminal, *words)), ""]
    words = ["compare", "first", "a_second_run_with_a_longer_name", "third"]
    parts += [f"$ selfsup {' '.join(words)}", *shown(terminal, *words)]
    return "\n".join([*parts, ""])


def stored(name: str) -> Path:
    return STORED / f"{name.replace(' ', '_')}.txt"


@pytest.mark.parametrize("name", TERMINALS)
def test_terminals_show_what_is_stored(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert recorded(name) == stored(name).read_text()


@pytest.mark.parametrize("name", ["80 columns", "160 columns", "dumb"])
def test_no_line_is_wider_than_the_terminal(name: str) -> None:
    text = stored(name).read_text()
    compared = text[text.index("$ selfsup compare") :].splitlines()[1:]
    assert compared
    assert max(map(len, compared)) <= TERMINALS[name].columns


def test_a_terminal_gets_json_when_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        judged(Path(name), knn_top1=0.5)
    for words in (["compare", "one", "two", "--json"], ["--json", "compare", "one", "two"]):
        assert [row["name"] for row in json.loads(shown(Terminal(), *words)[-1])["rows"]] == ["one", "two"]
    assert not any(line.startswith("{") for line in shown(Terminal(), "compare", "one", "two"))


# The line of an epoch


def test_what_is_no_classification_is_not_called_accuracy_and_labels_decide_what_is_told() -> None:
    figures = {"loss": 2.34567, "accuracy": 0.4321, "feature_std": 0.712, "feature_rank": 41.4, "rank_me": 3.0}
    told = log.told(figures, "contrastive accuracy")
    assert told == ["loss 2.346", "contrastive accuracy 43.2 %", "feature std 0.71, rank 41"]
    assert log.told(figures | {"knn_top1": 0.6127}, "accuracy")[1:] == ["accuracy 43.2 %", "kNN 61.3 %"]
    assert log.told({"loss": 1.0}, "accuracy") == ["loss 1"]


def test_times_that_are_left_are_as_exact_as_an_estimate() -> None:
    durations = {
        0: "0 s",
        45.4: "45 s",
        99: "99 s",
        100: "2 min",
        3540: "59 min",
        3599: "1 h 00 min",
        12_000: "3 h 20 min",
    }
    assert {seconds: log.duration(seconds) for seconds in durations} == durations


class Noted:
    """In place of a log: what it is told is left."""

    def __init__(self) -> None:
        self.left: list[tuple[str, int, float | None]] = []

    def advance(self, step: int, left: float | None) -> None:
        self.left.append(("step", step, left))

    def epoch(self, epoch: int, epochs: int, left: float | None) -> None:
        self.left.append(("epoch", epoch, left))


def test_there_is_one_estimate_of_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar and the line of an epoch go by the same: steps after the first one, with evaluations."""
    clock = iter([0.0, 100.0, 110.0, 120.0, 150.0, 150.0, 160.0])
    monkeypatch.setattr(reporter.time, "monotonic", lambda: next(clock))
    noted: Any = Noted()
    watching = Reporter(noted, Horizon(30, 10, 2), None, 0)  # type: ignore[arg-type]  # 3 steps an epoch; made at 0
    for step in (1, 2, 3):  # the first takes 100 seconds, the others 10 each
        watching.after_step(step, None)
    watching.after_epoch(3, {})  # after an evaluation of 30 seconds
    watching.after_step(4, None)
    assert noted.left == [
        ("step", 1, None),
        ("step", 2, 4 * 10.0),
        ("step", 3, 3 * 10.0),
        ("epoch", 1, 3 * 25.0),
        ("step", 4, 2 * 20.0),
    ]


# Results in words

KNN = {
    "knn_top1": 0.6127,
    "knn_top5": 0.9,
    "knn_balanced_accuracy": 0.6,
    "k": 20,
    "temperature": 0.07,
    "query_images": 300,
    "classes": 10,
    "split": "train to test",
}
PRETRAINED = {"run": "runs/a", "step": 40, "total_steps": 40, "reason": "finished", "seconds": 63.4, "device": "cpu"}
BESIDE = {"untrained_knn_top1": 0.4104, "pixels_knn_top1": 0.3817}


@pytest.mark.parametrize(
    ("of", "result", "line"),
    [
        ("knn", KNN, "kNN 61.3 % on 300 test images; chance is 10.0 %"),
        ("knn", KNN | {"split": "leave one out"}, "kNN 61.3 % on 300 training images, each left out in turn; chance"),
        ("knn", KNN | {"others": [KNN | {"k": 200}]}, "  200  0.07  61.3 %  90.0 %    60.0 %"),
        (
            "pretrain",
            PRETRAINED | {"report": KNN | BESIDE},
            "kNN 61.3 % on 300 test images; untrained 41.0 %, raw pixels 38.2 %",
        ),
        ("pretrain", PRETRAINED | {"knn_top1": 0.5, "linear_top1": 0.25}, "kNN 50.0 %, linear probe 25.0 % (last"),
        ("pretrain", PRETRAINED | {"report": {"feature_std": 0.7, "feature_rank": 41.4}}, "features differ in 41 dir"),
        ("pretrain", PRETRAINED | {"reason": "max-steps", "step": 9}, "stopped at step 9 of 40 (max-steps); the same"),
        ("finetune", {"run": "a", "reason": "signal", "signal": 15}, "stopped (signal 15); the same command"),
        (
            "linear_features_1pct",
            {"linear_top1": 0.5, "linear_top5": 0.75, "test_images": 1000, "train_images": 1},
            "top-5 75.0 %; learnt from 1 labelled image",
        ),
        ("evaluate", {"per_class": {"a": {"recall": 0.25, "images": 4}, "b": {"recall": None, "images": 0}}}, "a  "),
        ("retrieval", {"recall_at_1": 0.5, "map_at_r": 0.25, "query_images": 1234}, "  Recall@1  50.0 %"),
        (
            "cluster_dbscan",
            {"clusters": 3, "images": 9, "nmi": 0.5, "ari": 0.25, "noise": 0.1},
            "10.0 % of them in none",
        ),
        ("cluster_kmeans", {"clusters": 2, "images": 9, "smallest_cluster": 4}, "images in a cluster: smallest 4"),
        ("distill", {"distill_cosine": 0.9876, "judged_images": 5, "judged_on": "test images"}, "a cosine of 0.988"),
        ("semi", {"gain_top1": -0.031}, "3.1 points worse than training from scratch"),
        ("predict", {"images": 2, "unreadable_images": 1, "out": "a.csv"}, "2 images, 1 of them unreadable, a row"),
        ("embed", {"images": 2, "dimension": 512, "out": "a.npy"}, "2 images, 512 numbers of each, in a.npy"),
        ("new", {"a_share": 0.12345, "count": 1234, "names": ["x", "y"], "inside": {"a": 1}}, "  a share  0.1235"),
    ],
)
def test_results_in_words(of: str, result: dict[str, Any], line: str) -> None:
    others = {"evaluate_top1": 0.5, "evaluate_top5": 1.0, "evaluate_balanced_accuracy": 0.5, "evaluate_ece": 0.1}
    sizes = {"median_cluster": 4, "largest_cluster": 5}
    needed = {"evaluate": others | {"images": 4}, "cluster_kmeans": sizes}.get(of, {})
    lines = in_words(of, result | needed, kept="a/results/x.json")
    assert any(line in each for each in lines), lines
    assert lines[-1].endswith(": a/results/x.json")
    assert not any("{" in each for each in lines)


def test_other_commands_speak_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their own results, whose names the words go by."""
    monkeypatch.chdir(tmp_path)
    shown(Terminal(piped=True), *RUN, "--evaluate-every", "0", "--epochs", "1")
    said = {"retrieval": "retrieval, mean over 64 queries", "cluster": "10 clusters of 64 images"}
    for command, line in said.items():
        lines = shown(Terminal(), command, "run", "--device", "cpu")
        assert any(each.startswith(line) for each in lines), lines
        assert any(each.startswith("all figures and how they came about: run/results/") for each in lines), lines


def main() -> None:
    STORED.mkdir(exist_ok=True)
    for name in TERMINALS:
        with tempfile.TemporaryDirectory() as place:
            os.chdir(place)
            text = recorded(name)
            os.chdir(ROOT)
        stored(name).write_text(text)


if __name__ == "__main__":
    main()
