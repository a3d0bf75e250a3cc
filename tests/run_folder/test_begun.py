"""Runs of earlier times: they go on with the defaults they were begun with, and with their number of processes."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from selfsup.config.settings import changed_default, dump, restore
from selfsup.pretraining import Run, pretrain
from selfsup.run_folder.begun import as_begun, completed
from tests.support.processes import run_processes
from tests.support.sealed_files import rewrite
from tests.support.tiny import METHODS, tiny_run

WAS = {
    ("instdisc", "batch_norm"): "plain",
    ("spcl", "batch_norm"): "plain",
    ("spcl", "neighbours"): "exact",
    ("metric_proxy", "batch_norm"): "plain",
    ("xbm", "batch_norm"): "plain",
    ("moco", "batch_norm"): "auto",
}


@dataclass(frozen=True, kw_only=True)
class Part:
    size: int = changed_default(4, before=2, in_number=1)
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Whole:
    part: Part = field(default_factory=Part)
    parts: tuple[Part, ...] = (Part(), Part(size=9))


def test_a_default_of_its_time_stays_and_what_is_asked_for_counts() -> None:
    saved = dump(Whole(part=Part(size=2, rate=0.1), parts=(Part(size=2), Part(size=2))))
    now, notes = as_begun(Whole(), saved, 0)
    assert now == Whole(part=Part(size=2), parts=(Part(size=2), Part(size=9)))  # 9 is no default
    assert notes == ["part.size is 2", "parts.0.size is 2"]
    assert as_begun(Whole(), saved, 1) == (Whole(), [])  # a run of today that was told to take 2
    assert as_begun(Whole(), dump(Whole()), 0) == (Whole(), [])  # a run of then that was told to take 4


def test_what_a_stored_run_lacks_had_the_first_default() -> None:
    saved = dump(Whole())
    del saved["part"]["size"], saved["parts"]
    assert completed(saved, Whole())["part"]["size"] == 2
    assert restore(saved, Whole).part.size == 2
    with_factory = {key: value for key, value in dump(Whole()).items() if key != "part"}
    assert completed(with_factory, Whole())["part"] == dump(Part())


@pytest.mark.parametrize(("method", "setting"), list(WAS))
def test_every_changed_default_knows_what_it_was(method: str, setting: str) -> None:
    saved = dump(METHODS[method])
    del saved[setting]
    assert getattr(restore(saved, type(METHODS[method])), setting) == WAS[method, setting]
    assert getattr(METHODS[method], setting) != WAS[method, setting]


def begin(folder: Path) -> tuple[Run, Run]:
    """A run as it was begun when batch norm was plain by default, and the same as it is asked for now."""
    now = tiny_run(folder, "instdisc", epochs=1)
    then = replace(now, method=replace(now.method, batch_norm="plain"), max_steps=2)
    return then, now


def made_old(folder: Path) -> None:
    """Take away what runs have noted since: the number of the defaults, and the number of processes."""

    def change(content: dict[str, Any]) -> None:
        del content["defaults"], content["result"]["facts"]["method"]["processes"]

    rewrite(folder / "config.json", change)


def refusal(run: Run) -> str:
    try:
        pretrain(run)
    except ValueError as error:
        return str(error)
    return ""


def in_two(then: Run, now: Run) -> list[Any]:
    """Begin and go on in two processes, where a run of one process was left in the folder `alone`."""
    alone = str(Path(then.folder).parent / "alone")
    refused = [refusal(replace(run, folder=alone)) for run in (then, now)]
    pretrain(then)
    return refused


def test_runs_with_plain_batch_norm_go_on_as_they_were_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    then, now = begin(tmp_path / "two")
    alone = replace(then, folder=str(tmp_path / "alone"))
    pretrain(alone)
    made_old(tmp_path / "alone")
    for refused in run_processes(2, in_two, then, now):
        assert all("it was begun with 1 and there are 2 now" in text and "go on with 1" in text for text in refused)
    assert "begun with 2 and there are 1 now" in refusal(then)
    assert 'method.batch_norm: "plain" -> "sync"' in refusal(now)  # a run of today was told to be plain
    made_old(tmp_path / "two")
    assert "begun with 2 and there are 1 now" in refusal(now)  # as its launches say
    capsys.readouterr()
    result = pretrain(replace(now, folder=str(tmp_path / "alone")))
    assert result["reason"] == "finished"
    assert "defaults it was begun with: method.batch_norm is plain" in capsys.readouterr().err
    saved = json.loads((tmp_path / "alone" / "config.json").read_text())
    assert saved["defaults"] == 0
    assert saved["run"]["method"]["batch_norm"] == "plain"
    assert saved["result"]["facts"]["method"] == {"processes": 1}
    again = replace(now, folder=str(tmp_path / "again"), method=replace(now.method, batch_norm="plain"))
    pretrain(again)
    one, other = ((tmp_path / name / "encoder.safetensors").read_bytes() for name in ("alone", "again"))
    assert one == other
