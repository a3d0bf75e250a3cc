"""The proofs of the record of reliability, on their smallest scale; each of them notices what it is there to notice."""

import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfsup.batch import Batch
from selfsup.distributed import is_distributed
from selfsup.methods.base import RunContext, Step
from selfsup.methods.simclr import SimCLR
from selfsup.pretraining import Run, pretrain
from tests.contracts.case import Case
from tests.contracts.cases import CASES, HEAD
from tests.contracts.naive_simclr import simclr_loss
from tests.reliability import content, equivalence, lasting, moving, omitted, resume, watched
from tests.reliability.figure import Figure, Measured
from tests.reliability.record import measure as measure_one
from tests.support.tiny import tiny_run
from tools import reliability

NAMED = {case.name: case for case in CASES}


class WithoutGradient(SimCLR):
    """Planted fault: the columns that other processes hold are constants, as a plain gather makes them."""

    @dataclass(frozen=True, kw_only=True)
    class Config(SimCLR.Config):
        def build(self, encoder: nn.Module, context: RunContext) -> SimCLR:
            return WithoutGradient(self, encoder, context)

    def objective(self, embeddings: list[Tensor], views: list[Tensor], batch: Batch) -> Step:
        with pytest.MonkeyPatch.context() as patch:
            gather = sys.modules["selfsup.methods.simclr"].gather
            if is_distributed():
                patch.setattr("selfsup.methods.simclr.gather", lambda rows: gather(rows.detach()))
            return super().objective(embeddings, views, batch)


def test_processes_are_equal_and_a_gather_without_gradient_is_not() -> None:
    cases = [
        Case(name=name, config=kind(temperature=0.2, head=HEAD), naive=simclr_loss, batch_norm=False)
        for name, kind in (("sound", SimCLR.Config), ("faulty", WithoutGradient.Config))
    ]
    cases.append(NAMED["moco_shuffled"])
    two = equivalence.Way(2)
    rows = equivalence.matrix(cases, (two,))
    assert rows["sound"][two].good
    assert rows["moco_shuffled"][two].good  # on a net without batch norm
    assert not rows["faulty"][two].good
    assert rows["faulty"][two].distances["gradients"] > 1e-3
    shown = equivalence.table(cases, {name: dict.fromkeys(equivalence.WAYS, row[two]) for name, row in rows.items()})
    assert all(line.count("|") == 5 and "| |" not in line for line in shown.splitlines() if line.startswith("| "))


def test_other_values_and_missing_ones_are_far() -> None:
    one = {"weight": torch.tensor([2.0, -4.0]), "pointer": torch.tensor(3), "threshold": torch.tensor(torch.nan)}
    assert equivalence.distance(dict(one), one) == 0
    assert equivalence.distance(one | {"weight": torch.tensor([2.0, -4.5])}, one) == 0.125
    for other in ({"pointer": torch.tensor(4)}, {"threshold": torch.tensor(0.5)}, {"more": torch.tensor(0.0)}):
        assert equivalence.distance(one | other, one) == float("inf")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of the smallest method with most items of state, with a checkpoint of every step."""
    folder = tmp_path_factory.mktemp("proofs")
    images = resume.array_file(folder / "shapes.npz", 128)
    return omitted.train(folder / "whole", "moco", images)


def test_an_omitted_item_is_noticed_by_what_it_changes(whole: Any, tmp_path: Path) -> None:
    kinds = omitted.items(whole.fresh, {"encoder.conv1.weight/momentum_buffer": torch.zeros(1)})
    found = {}
    for item in ("queue.indices", "queue.labels", "key_encoder: weights", "encoder: momentum_buffer"):
        group, names = kinds[item]
        assert omitted.lost(whole, tmp_path / item, group, names)
        found[item] = omitted.noticed(whole, tmp_path / item, names)
    assert list(found.values()) == ["trained", "itself", "trained", "trained"]
    assert omitted.noticed(whole, _resumable(whole.run, tmp_path / "nothing"), []) == "nothing"


def _resumable(run: Run, folder: Path) -> Path:
    resume.copy_at(Path(run.folder), folder, omitted.STEP)
    return folder


def test_an_omission_that_nobody_notices_misses_the_goal() -> None:
    rows = {"moco": {"steps": "trained", "queue.filled": "itself"}, "spcl": {"threshold": "nothing", "step": "trained"}}
    missed = omitted.judged(rows)
    assert (missed.good, missed.figure[:26]) == (False, "3 of 4 omissions caught (1")
    assert "spcl: threshold nothing" in missed.reason
    constant = omitted.judged({"moco": {"steps": "constant"}})  # by no intention
    assert constant.good is False
    assert omitted.judged({"instdisc_softmax": {"log_normaliser": "constant", "step": "trained"}}).good


def test_another_view_of_an_image_is_seen_and_another_figure_is_found(whole: Any, tmp_path: Path) -> None:
    run = replace(whole.run, folder=str(tmp_path / "other"), max_steps=2)
    with watched.watched() as seen:
        pretrain(run)
    assert seen == whole.seen[:2]
    with watched.watched() as other_seed:
        pretrain(replace(run, folder=str(tmp_path / "seed"), seed=1))
    assert other_seed != seen
    assert watched.differing(Path(whole.run.folder), tmp_path / "other") == {}
    metrics = tmp_path / "other" / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    lines[1]["loss"] += 1e-6
    metrics.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert watched.differing(Path(whole.run.folder), tmp_path / "other") == {2: ["logged loss"]}


def test_any_value_of_a_view_and_any_label_are_told_apart() -> None:
    batch, views = Batch((), torch.arange(3), torch.tensor([7, 5, 9])), [torch.zeros(3, 3, 2, 2) for _ in range(2)]
    before = watched.digests(batch, views)
    views[1][2, 0, 1, 1] = 1e-30
    after = watched.digests(batch._replace(labels=torch.tensor([0, 4, 2])), views)
    assert [index for index, _ in after] == [7, 5, 9]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, False]


def test_a_chain_is_exact_and_a_restart_of_the_optimizer_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resume.array_file(tmp_path / "shapes.npz", 128)
    trial = resume.Trial("xbm", "xbm", changes=(("max_steps", 4),))
    monkeypatch.setattr(resume, "STEPS", 4)
    assert resume.interrupted([trial], str(tmp_path)) == {"xbm": {"resumes": 3, "inexact": {}}}
    monkeypatch.setattr("selfsup.training.checkpoints.restore_optimizer", lambda *_: None)
    found = resume.interrupted([trial], str(tmp_path))
    assert list(found["xbm"]["inexact"]) == ["step 2", "step 3", "step 4"]
    assert resume.judged({1: found}).good is False


def test_data_that_are_mistaken_and_data_that_are_refused_are_counted() -> None:
    sound = {name: dict.fromkeys(content.CONSUMERS, change.equal) for name, change in content.CHANGES.items()}
    assert content.judged(sound).good
    for name, words in (("moved", "moved: embed"), ("file renamed", "file renamed: embed")):
        wrong = sound | {name: sound[name] | {"embed": not sound[name]["embed"]}}
        assert (content.judged(wrong).good, content.judged(wrong).reason) == (False, words)


def test_samples_that_are_lost_or_move_are_counted(tmp_path: Path) -> None:
    steps = [[0, [[4, "a"], [7, "b"]]], [0, [[1, "c"], [2, "d"]]]]
    assert moving.misplaced(steps, [[0, [[4, "a"], [7, "b"]]], [0, [[1, "c"], [2, "d"]]]]) == 0
    assert moving.misplaced(steps, [[0, [[4, "a"], [7, "x"]]], [0, [[1, "c"], [1, "c"]]]]) == 2
    assert moving.misplaced(steps, steps[:1]) == 4
    run = tiny_run(tmp_path / "run", epochs=1, log_every=1)
    legs = (moving.Leg(3, 1, 0), moving.Leg(8, 1, 0))
    (seen,) = moving.over_legs([run], legs)
    assert sorted(index for _, rows in seen for index, _ in rows) == list(range(128))


def test_a_leak_is_told_from_a_cache_that_fills_late() -> None:
    steps = list(range(0, 20_000, 100))
    cache = [1000.0 + 5000 * (step > 9000) + (7 * step) % 300 for step in steps]
    assert abs(lasting.slope(steps, cache)) < lasting.KB_PER_1000_STEPS
    assert lasting.slope(steps, [value + 0.5 * step for value, step in zip(cache, steps, strict=True)]) > 400
    readings = [lasting.Reading(step, 0.0, 12 + step // 10_000) for step in steps]
    assert lasting.more_handles(readings) == 1
    on_their_way = [item._replace(handles=12 + 4 * (n % 3)) for n, item in enumerate(readings)]
    assert lasting.more_handles(on_their_way) == 0
    begun = [item._replace(handles=8 if n == 0 else item.handles) for n, item in enumerate(on_their_way)]
    assert lasting.more_handles(begun) == 0
    leaking = [item._replace(handles=item.handles + n // 5) for n, item in enumerate(on_their_way)]
    assert lasting.more_handles(leaking) > 20


# tools/reliability.py


def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["reliability.py", "--runs", str(tmp_path / "runs"), *words])
    return int(reliability.main())


@pytest.fixture
def two_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(folder: Path, quick: bool) -> Any:
        (folder / "left.txt").write_text("behind")
        return Measured(figure="3 of 4 kept", good=False, reason="one was lost", table="| a |\n|---|\n| b |")

    def skip(folder: Path, quick: bool) -> Any:
        return Measured(figure="-", good=None, reason="no network namespaces here")

    both = [Figure("A1", "4 of 4 kept", 1, measure), Figure("A2", "it works", 1, skip)]
    monkeypatch.setattr(reliability, "figures", lambda: both)

    def at_once(jobs: list[Any], number: int, told: Any) -> None:
        for job in jobs:
            if not job.done():
                figure = next(figure for figure in both if figure.name == job.name)
                measure_one(figure, Path(job.log).parent, "--quick" in job.command)
        told()

    monkeypatch.setattr(reliability, "work_off", at_once)


@pytest.mark.usefixtures("two_figures")
def test_a_missed_goal_is_written_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert record(tmp_path, monkeypatch, "--out", str(tmp_path / "docs")) == 1
    text = (tmp_path / "docs" / "reliability.md").read_text()
    assert "| A1 | 4 of 4 kept | 3 of 4 kept (one was lost) | NO |" in text
    assert "| A2 | it works | - (no network namespaces here) | not run |" in text
    assert "## A1\n\n| a |" in text
    saved = json.loads((tmp_path / "docs" / "reliability.json").read_text())
    assert [row["good"] for row in saved["figures"]] == [False, None]
    assert saved["packages"]["torch"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["A1.json", "A2.json"]


@pytest.mark.usefixtures("two_figures")
def test_what_is_measured_is_kept_until_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, kept = ("--out", str(tmp_path / "docs")), tmp_path / "runs" / "A1.json"
    record(tmp_path, monkeypatch, *out)
    kept.write_text(kept.read_text().replace("3 of 4", "2 of 4"))
    record(tmp_path, monkeypatch, *out)
    assert "2 of 4 kept" in (tmp_path / "docs" / "reliability.md").read_text()
    record(tmp_path, monkeypatch, *out, "A1")
    assert "3 of 4 kept" in (tmp_path / "docs" / "reliability.md").read_text()


@pytest.mark.usefixtures("two_figures")
def test_one_figure_of_a_new_checkout_leaves_the_others_in_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ("--out", str(tmp_path / "docs"))
    record(tmp_path, monkeypatch, *out)
    shutil.rmtree(tmp_path / "runs")
    record(tmp_path, monkeypatch, *out, "A1")
    text = (tmp_path / "docs" / "reliability.md").read_text()
    assert text.index("| A1 | 4 of 4 kept | 3 of 4 kept") < text.index("| A2 | it works |")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["A1.json"]


@pytest.mark.usefixtures("two_figures")
def test_a_quick_look_writes_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "docs"
    record(tmp_path, monkeypatch, "--quick", "--out", str(out))
    assert not out.exists()
    assert "NO" in (tmp_path / "runs" / "reliability.md").read_text()
    record(tmp_path, monkeypatch, "--out", str(out))  # a quick figure does not stand for a full one
    assert not json.loads((tmp_path / "runs" / "A1.json").read_text())["quick"]


def test_an_unknown_figure_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record(tmp_path, monkeypatch, "R1", "R99") == 2
    assert "there is no figure 'R99'; there are equivalence, R21, R1, " in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_every_figure_has_a_name_of_its_own() -> None:
    names = [figure.name for figure in reliability.figures()]
    assert len(names) == len(set(names))
    assert {"equivalence", "R1", "R1-stages", "R2", "R12", "R14", "R16"} <= set(names)
    assert all(figure.goal and 0 < figure.minutes <= 15 for figure in reliability.figures())
