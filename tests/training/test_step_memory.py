"""The memory of a step, counted before it is taken; and what is said of a run that does not fit."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from selfsup.data import free_memory
from selfsup.optim.optimizers import AdamW
from selfsup.pretraining import prepared, pretrain
from selfsup.training import memory_check, step_memory
from selfsup.training.live_bytes import LiveBytes
from selfsup.training.step_memory import Line, StepMemory, Uncountable
from tests.support.tiny import photographs, tiny_run

CPU = torch.device("cpu")
GIB = 2**30
Told = Callable[[], str]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What the check of memory has said so far."""
    lines: list[str] = []
    monkeypatch.setattr(memory_check, "message", lines.append)
    return lambda: "\n".join(lines)


# Counting


def test_memory_counts_from_when_it_is_taken_until_it_is_let_go() -> None:
    known = torch.zeros(1000)
    live = LiveBytes([known])
    with live:
        known.add_(1)
        assert live.now == 0
        first = torch.ones(1000)
        view = first.view(10, 100).t()
        assert live.now == 4000
        del first
        assert live.now == 4000, "the view holds it"
        second = view.double()
        del view
        assert (live.now, live.peak) == (8000, 12_000)
        weight = torch.ones(1000, requires_grad=True)
        loss = (second.flatten() * weight).exp().sum()
        del second
        # Backward needs the weight's factor and what exp gave.
        assert live.now == weight.nbytes + 2 * 8000 + loss.nbytes
        loss.backward()  # type: ignore[no-untyped-call]
        del loss
        assert live.now == 2 * weight.nbytes  # with its gradient


@pytest.mark.parametrize("method", ["instdisc", "moco", "simclr", "spcl_domains"])
def test_a_count_without_computing_is_that_of_a_computed_step(method: str, tmp_path: Path) -> None:
    ready = prepared(tiny_run(tmp_path / "run", method))
    before = {name: value.clone() for name, value in ready.method.state_dict().items()}
    drawn = torch.get_rng_state()
    memory = StepMemory(ready.method, ready.run, ready.shapes, CPU)
    assert memory.embedding(16) == memory._count(16, fake=False) > memory.trained
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(parameter.grad is None for parameter in ready.method.parameters())
    for name, value in ready.method.state_dict().items():
        assert torch.equal(value.nan_to_num(), before[name].nan_to_num()), f"counting has changed {name}"
    assert memory.line.at(64) == pytest.approx(memory.embedding(64), rel=0.05)


def test_half_precision_and_adam_are_counted(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", "simclr")
    ready = prepared(run)
    single, half = (
        StepMemory(ready.method, replace(ready.run, precision=precision), ready.shapes, CPU).line.per_row
        for precision in ("fp32", "bf16")
    )
    assert 0.45 * single < half < 0.75 * single
    adam = replace(ready.run, optimizer=AdamW.Config())
    assert StepMemory(ready.method, adam, ready.shapes, CPU).optimizer == 2 * sum(
        parameter.nbytes for parameter in ready.method.parameters()
    )


def test_views_that_are_there_at_once_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the next step, and of the last one where it may be taken again; a smaller batch fits then."""
    ready = prepared(tiny_run(tmp_path / "run", "simclr"))
    bare = StepMemory(ready.method, replace(ready.run, max_bad_steps=None), ready.shapes, CPU)
    again = StepMemory(ready.method, ready.run, ready.shapes, CPU)
    free = 400 * 2**20
    before = bare.largest_batch(free)
    assert bare.views_at_once(16) == bare.views(16) == 16 * 2 * 3 * 16 * 16 * 4
    monkeypatch.setattr(step_memory, "makes_ahead", lambda device: True)
    monkeypatch.setattr(step_memory, "room_for_undo", lambda *_: 2**40)
    assert bare.views_at_once(16) == 3 * bare.views(16)  # two views: as much as two stages of one
    assert bare.largest_batch(free) < before
    assert bare.beside == 0, "nothing is taken back without the guard"
    assert again.beside == again.state
    assert again.views_at_once(16) == 4 * again.views(16)


def test_what_cannot_be_counted_is_computed_with_few_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = prepared(tiny_run(tmp_path / "run", "simclr"))
    known = StepMemory(ready.method, ready.run, ready.shapes, CPU).line
    embed = type(ready.method).embed

    def by_numbers(self: object, view: torch.Tensor) -> torch.Tensor:
        return embed(self, view if float(view.sum()) < 1e9 else -view)  # type: ignore[arg-type]

    monkeypatch.setattr(type(ready.method), "embed", by_numbers)
    memory = StepMemory(ready.method, ready.run, ready.shapes, CPU)
    with pytest.raises(Uncountable):
        memory.embedding(16)
    assert memory.line.per_row == pytest.approx(known.per_row, rel=0.35)


def test_lines() -> None:
    line = Line(100, 10)
    assert line.at(5) == 150
    assert [line.rows(room) for room in (50, 100, 109, 110, 159)] == [0, 0, 0, 1, 5]


# How much there is


@pytest.mark.parametrize("version", [1, 2])
def test_containers_have_what_they_are_granted(version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least of all groups from the own to the outermost, of which cached files are given back."""
    top = tmp_path / "cgroup" / ("" if version == 2 else "memory")
    own = top / "outer" / "inner"
    own.mkdir(parents=True)
    limit, used, cached = free_memory._FILES["" if version == 2 else "memory"]
    unlimited = "max" if version == 2 else str(2**63 - 4096)
    for folder, most, now, files in ((own, unlimited, 50, 10), (own.parent, "1000", 400, 300)):
        (folder / limit).write_text(f"{most}\n")
        (folder / used).write_text(f"{now}\n")
        (folder / "memory.stat").write_text(f"anon 5\n{cached} {files}\n")
    groups = tmp_path / "own"
    groups.write_text("3:cpu,cpuacct:/other\n" + ("0::" if version == 2 else "4:memory:") + "/outer/inner\n")
    monkeypatch.setattr(free_memory, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(free_memory, "_OWN", groups)
    assert free_memory.total_memory() == 1000
    assert free_memory.free_memory() == 900
    (own.parent / limit).write_text(unlimited)
    assert free_memory.total_memory() > 1000
    monkeypatch.setattr(free_memory, "_OWN", tmp_path / "not_there")
    assert free_memory.total_memory() > free_memory.free_memory() > 1000


# The check


def test_a_run_that_cannot_fit_is_refused_before_it_has_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    run = tiny_run(tmp_path / "run", "simclr", max_steps=1)
    monkeypatch.setattr(memory_check, "total_memory", lambda: 500_000)
    monkeypatch.setattr(memory_check, "free_memory", lambda: 400_000)
    with pytest.raises(ValueError, match=r"this run needs about .* GiB of the memory of this machine") as refusal:
        pretrain(run)
    for remedy in ("a step of 16 images", "--grad-cache-chunk auto", "--batch-size", "--size", "--no-check-memory"):
        assert remedy in str(refusal.value)
    assert not (tmp_path / "run").exists()
    assert pretrain(replace(run, check_memory=False))["step"] == 1
    assert told().startswith("this run needs about")


def test_a_run_that_needs_more_than_is_free_goes_on_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    monkeypatch.setattr(memory_check, "total_memory", lambda: 10**9)
    monkeypatch.setattr(memory_check, "free_memory", lambda: 400_000)
    assert pretrain(tiny_run(tmp_path / "run", "simclr", max_steps=1))["step"] == 1
    assert re.search(r"GiB are free now: a step of 16 images", told())


def test_images_to_be_decoded_count_and_have_a_remedy_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(tmp_path / "run", "simclr", root=str(photographs(tmp_path / "images")))
    run = replace(run, data=replace(run.data, canvas=256))
    monkeypatch.setattr(memory_check, "total_memory", lambda: 64 * 3 * 256**2)
    monkeypatch.setattr(memory_check, "free_memory", lambda: 64 * 3 * 256**2)
    with pytest.raises(ValueError, match=r"--data\.canvas None"):
        pretrain(run)


def test_where_there_is_plenty_nothing_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "free_memory", lambda: 8 * GIB)
    monkeypatch.setattr(step_memory, "_counted", lambda *_: pytest.fail("this takes time"))
    assert pretrain(tiny_run(tmp_path / "run", "moco", max_steps=1))["step"] == 1
