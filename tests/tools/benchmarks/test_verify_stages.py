"""The tools that verify: jobs in their order, and what pretraining is worth, on generated images."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfsup.data.settings import Data
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.base import read
from tests.support.tiny import tiny_run
from tools.benchmarks import verify_stages as tool


def job(place: Path, name: str, after: tuple[str, ...] = (), code: str = "pass", **more: Any) -> Any:
    """A job that notes in `order` when it began, and leaves a file behind."""
    words = f"open(r'{place / 'order'}', 'a').write('{name} '); {code}; open(r'{place / name}', 'w')"
    command = [sys.executable, "-S", "-c", words]
    return tool.Job(name, command, place / f"{name}.log", lambda: (place / name).is_file(), after, **more)


def test_jobs_wait_for_what_they_need(tmp_path: Path) -> None:
    jobs = [
        job(tmp_path, "last", after=("middle", "first")),
        job(tmp_path, "middle", after=("first",)),
        job(tmp_path, "first", alone=True),
        job(tmp_path, "there"),
    ]
    (tmp_path / "there").touch()  # done before: not done again
    ended: list[bool] = []
    tool.work_off(jobs, 2, lambda: ended.append((tmp_path / "middle").is_file()))
    assert (tmp_path / "order").read_text().split() == ["first", "middle", "last"]
    assert ended == [False, True, True]


def test_a_failed_job_is_named_and_the_others_are_done(tmp_path: Path) -> None:
    jobs = [
        job(tmp_path, "bad", code="raise SystemExit(1)"),
        job(tmp_path, "needs", after=("bad",)),
        job(tmp_path, "good"),
    ]
    with pytest.raises(ValueError, match="1 failed: bad"):
        tool.work_off(jobs, 1, lambda: None)
    assert (tmp_path / "order").read_text().split() == ["bad", "good"]


def test_nothing_sees_test_images_before_the_end_and_both_starts_have_equal_steps() -> None:
    data = Data(root="shapes:300")
    assert tool.pretraining(data).evaluate_every == 0
    for choice in tool.FEW:
        tuned, scratch = (tool.finetuning(data, choice, 1, start) for start in ("pretrained", "random"))
        assert tuned.evaluate_every == scratch.evaluate_every == 0
        assert (tuned.epochs, tuned.batch_size, tuned.labelled) == (
            scratch.epochs,
            scratch.batch_size,
            scratch.labelled,
        )
        assert tuned.labelled.seed == 1
    parts = tool.parts(data)
    names = [part.name for part in parts]
    assert len(set(names)) == len(names)
    for part in parts:
        assert set(part.after) <= set(names[: names.index(part.name)])
        assert part.stage in ("pretrain", "finetune", "supervised", "distill")


def test_every_kind_of_part_is_carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Data(root="shapes:1000")
    monkeypatch.setattr(tool, "pretraining", lambda data: tiny_run(tmp_path / "unused", epochs=1, data=data))
    few, student = tool.finetuning, tool.distilling
    monkeypatch.setattr(
        tool, "finetuning", lambda *words: replace(few(*words), epochs=2, device="cpu", precision="fp32")
    )
    monkeypatch.setattr(
        tool,
        "distilling",
        lambda *words: replace(student(*words), epochs=1, batch_size=50, device="cpu", precision="fp32"),
    )
    wanted = ["pretrain", "finetune_1pct", "supervised_1pct", "distill_self_1pct"]
    parts = {part.name: part for part in tool.parts(data)}
    found = []
    for name in wanted:
        part = replace(parts[name], alone=True)  # leaves the number of threads as it is
        tool.carry_out(part, tmp_path)
        (result,) = read(RunFolder(tmp_path / name), part.stage)
        found.append({"name": name, **result.__dict__})
    tool.write(found, tmp_path / "out")
    (table,) = (tmp_path / "out").glob("stages_*.md")
    kept = json.loads(table.with_suffix(".json").read_text())
    assert [row["name"] for row in kept["rows"]] == wanted
    tuned, scratch = (kept["rows"][place]["figures"]["finetune_top1"] for place in (1, 2))
    assert f"| 1 % | 10 | {scratch:.4f} | {tuned:.4f} | {tuned - scratch:+.4f} |" in table.read_text()


def test_what_is_not_as_expected_is_said() -> None:
    unmet = tool.unmet
    good = {
        "finetune_1pct": {"finetune_top1": 0.5},
        "finetune_1pct_seed1": {"finetune_top1": 0.48},
        "supervised_1pct": {"finetune_top1": 0.42},
        "supervised_1pct_seed1": {"finetune_top1": 0.43},
        "distill_smaller_10pct": {"distill_top1": 0.77, "teacher_top1": 0.8},
        "distill_self_1pct": {"distill_top1": 0.51, "teacher_top1": 0.5},
    }
    assert unmet(good) == []
    (said,) = unmet(good | {"supervised_1pct": {"finetune_top1": 0.44}})
    assert "+0.0550" in said
    (said,) = unmet(good | {"distill_smaller_10pct": {"distill_top1": 0.759, "teacher_top1": 0.8}})
    assert "below 0.95" in said
    (said,) = unmet(good | {"distill_self_1pct": {"distill_top1": 0.5, "teacher_top1": 0.5}})
    assert "not above" in said
