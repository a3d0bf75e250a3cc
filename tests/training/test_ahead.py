"""Views that are made ahead: the same ones in the same order, what waits for what, and how a run ends."""

import json
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from selfsup.augment import presets
from selfsup.augment.views import Views
from selfsup.batch import Batch
from selfsup.data.base import ArraySource, Source, TooManyUnreadable
from selfsup.data.loader import Loader
from selfsup.data.shapes import shapes
from selfsup.data.sources import open_source
from selfsup.methods.base import Step
from selfsup.pretraining import Run, pretrain
from selfsup.runtime.watchdog import Watch
from selfsup.storage import checkpoint
from selfsup.training import ahead as module
from selfsup.training import nonfinite
from selfsup.training.ahead import Ahead, SideStream
from selfsup.training.trainer import Trainer
from tests.support.planted import outcome
from tests.support.streams import CPU, Streams, pretended_streams
from tests.support.tiny import photographs, tiny_run
from tests.support.waiting import no_waits
from tests.training.test_resume import assert_same

Pair = tuple[Batch, list[Tensor]]
VIEWS = Views(presets.moco_cifar(size=16), seed=3)


# Batches and views


class Mapped(ArraySource):
    """Images in the file that they are mapped from, of which some were chosen."""

    mapped = True


def source_of(kind: str, folder: Path) -> Source:
    drawn = shapes(40)
    if kind == "streamed":
        return open_source(str(photographs(folder / "images", 40)), "train")
    if kind == "mapped":
        return Mapped(drawn.images, drawn.labels).select(torch.arange(39, -1, -1))
    return ArraySource(drawn.images, drawn.labels)


def loader_of(source: Source, workers: int = 1) -> Loader:
    crop = None if isinstance(source, ArraySource) else VIEWS.crop
    return Loader(source, batch_size=8, seed=1, device=CPU, workers=workers, crop=crop)


def assert_equal(found: list[Pair], expected: list[Pair]) -> None:
    assert len(found) == len(expected)
    for (batch, views), (other, others) in zip(found, expected, strict=True):
        assert torch.equal(batch.indices, other.indices)
        assert torch.equal(batch.labels, other.labels)
        assert all(torch.equal(*pair) for pair in zip(views, others, strict=True))


def taken(loader: Loader, side: SideStream | None, start: int = 0, steps: int = 99) -> Iterator[Pair]:
    """As a trainer takes them, up to so many steps."""
    coming = Ahead(loader.epoch(1, start), partial(VIEWS, epoch=1, device=CPU), side)
    for batch in coming:
        yield batch, coming.views()
        steps -= 1
        if not steps:
            coming.close()
            return
        coming.prepare()


@pytest.mark.parametrize("kind", ["resident", "mapped", "streamed"])
def test_batches_and_views_are_those_made_one_by_one(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole epoch, one from its middle on, and one that is left early, which ends the workers."""
    loader = loader_of(source_of(kind, tmp_path))
    expected = [(batch, VIEWS(batch, 1, CPU)) for batch in loader.epoch(1)]
    pretended_streams(monkeypatch)
    for side in (None, SideStream(CPU)):
        assert_equal(list(taken(loader, side)), expected)
        assert_equal(list(taken(loader, side, start=2)), expected[2:])
        assert_equal(list(taken(loader, side, steps=2)), expected[:2])
        assert not multiprocessing.active_children()
    loader.close()


def test_too_many_damaged_files_are_met_at_their_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = photographs(tmp_path / "images", 40).rglob("*.jpg")
    loader = loader_of(open_source(str(tmp_path / "images"), "train"), workers=0)
    order = torch.cat([batch.indices for batch in loader.epoch(1)])
    names = [loader.source.name(int(order[place])) for place in (17, 22)]  # both in the third batch
    for path in [path for path in files if path.as_posix().endswith(tuple(names))]:
        path.write_bytes(b"no image")
    streams = pretended_streams(monkeypatch)
    for side in (None, SideStream(CPU)):
        found: list[Pair] = []
        with pytest.raises(TooManyUnreadable):
            found.extend(taken(loader_of(open_source(str(tmp_path / "images"), "train"), workers=0), side))
        assert len(found) == 2
        assert bool(streams.kept) == (side is not None)


# Streams


def test_who_waits_for_whom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Views wait for what was uploaded and for no step; a step waits for its views, and their memory for the step."""
    streams = pretended_streams(monkeypatch)
    streams.slow = True
    streams.do("upload")

    def make(batch: Batch) -> list[Tensor]:
        number = int(batch.labels)
        assert "upload" in streams.side.done
        assert f"step {number - 1}" not in streams.side.done
        streams.do(f"views {number}")
        assert {f"batch {number}", f"views {number}"} <= streams.side.done
        return [torch.zeros(1), torch.zeros(1)]

    images = [[torch.zeros(1)], [torch.zeros(1), torch.zeros(1)]]  # whole, and cropped for each view

    def batches() -> Iterator[Batch]:
        for number in range(6):
            streams.do(f"batch {number}")
            yield Batch(images[0][0] if number % 2 else tuple(images[1]), torch.tensor(number), torch.zeros(1))

    coming = Ahead(batches(), make, SideStream(CPU))
    for number, batch in enumerate(coming):
        views = coming.views()
        assert f"views {number}" in streams.training.done
        assert f"views {number + 1}" not in streams.training.done
        assert all(streams.keeps(tensor) for tensor in [*views, batch.labels, *images[1 - number % 2]])
        streams.do(f"step {number}")
        assert len(streams.waited) == max(0, number - 2)
        coming.prepare()
        if number >= 2:  # the device may have two steps before it
            assert f"step {number - 2}" in streams.waited[-1]
            assert f"step {number - 1}" not in streams.waited[-1]
    streams.slow, before = False, len(streams.waited)
    for _ in range(4):
        coming.prepare()
    assert len(streams.waited) == before


# Runs


def noted(patch: pytest.MonkeyPatch, streams: Streams | None) -> list[str]:
    """What a run does, in its order; that steps have what they need is checked on the way."""
    told: list[str] = []
    at, step, report, save, draw = Watch.at, Trainer.step, Trainer.report, Trainer.save, Views.__call__
    made: dict[int, int] = {}  # step by the memory of its first view

    def noted_at(watch: Watch, phase: Any, number: int) -> None:
        told.append(f"at {phase} {number}")
        at(watch, phase, number)

    def noted_draw(views: Views, batch: Batch, epoch: int, device: torch.device) -> list[Tensor]:
        found = draw(views, batch, epoch, device)
        number = sum(line.startswith("views") for line in told)
        made[id(found[0])] = number
        told.append(f"views {number}")
        if streams:
            streams.do(told[-1])
        return found

    def noted_step(trainer: Trainer, number: int, views: list[Tensor], batch: Batch) -> Step | None:
        told.append(f"step {made[id(views[0])]}")
        if streams:
            assert f"views {made[id(views[0])]}" in streams.training.done
            assert all(streams.keeps(tensor) for tensor in [*views, batch.labels])
        return step(trainer, number, views, batch)

    def noted_report(trainer: Trainer, number: int, batch: Batch) -> dict[str, float] | None:
        found = report(trainer, number, batch)
        told.extend([f"report {number}"] if found else [])
        return found

    def noted_save(trainer: Trainer, number: int, last: bool = False) -> None:
        told.append(f"save {number}")
        save(trainer, number, last)

    patch.setattr(Watch, "at", noted_at)
    patch.setattr(Views, "__call__", noted_draw)
    for name, put in (("step", noted_step), ("report", noted_report), ("save", noted_save)):
        patch.setattr(Trainer, name, put)
    return told


def ran(run: Run, ahead: bool) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        told = noted(patch, pretended_streams(patch) if ahead else None)
        pretrain(run)
        return told


def test_the_order_of_a_run(tmp_path: Path) -> None:
    """Two epochs of 4 steps, the second one left before its end; reports every second step. In line, and ahead."""
    run = tiny_run(tmp_path / "inline", batch_size=32, max_steps=7, log_every=2)
    inline, ahead = ran(run, ahead=False), ran(replace(run, folder=str(tmp_path / "ahead")), ahead=True)
    for told, is_ahead in ((inline, False), (ahead, True)):
        expected: list[str] = []
        for step in range(7):
            expected += [f"at clustering {step}"] if step % 4 == 0 else []
            first, more = step % 4 == 0, step not in (3, 6)
            loading, views = f"at loading {step}", f"views {step}"
            if is_ahead:
                expected += [loading, *([views] if first else []), f"at step {step}", f"step {step}"]
                expected += [f"at loading {step + 1}", f"views {step + 1}", f"at step {step}"] if more else []
            else:
                expected += [loading, f"at step {step}", views, f"step {step}"]
            expected += [f"report {step + 1}"] if step % 2 or step == 6 else []
            expected += [f"at deciding {step + 1}"]
            expected += ["at evaluating 4", "at loading 4"] if step == 3 else []
        assert told == [*expected, "save 7", "at saving 7"]


def test_a_run_that_is_left_and_gone_on_with_is_the_same_to_the_bit(tmp_path: Path) -> None:
    """After a time limit, and within an epoch; of pictures that workers read, who end where the steps do."""
    root = str(photographs(tmp_path / "images", 32))
    run = tiny_run(tmp_path / "inline", root=root, workers=1)
    pretrain(run)
    with pytest.MonkeyPatch.context() as patch:
        streams = pretended_streams(patch)
        cut = replace(run, folder=str(tmp_path / "ahead"))
        assert pretrain(replace(cut, max_minutes=0.0))["step"] == 1
        assert not multiprocessing.active_children()
        end, left = Trainer._outcome, []
        patch.setattr(
            Trainer, "_outcome", lambda *given: (left.extend(multiprocessing.active_children()), end(*given))[1]
        )
        assert pretrain(replace(cut, max_steps=3))["step"] == 3
        assert not left  # before the loader is closed
        assert pretrain(replace(cut, max_steps=4))["step"] == 4  # a whole epoch, whose workers may stay until then
        assert not multiprocessing.active_children()
    assert streams.kept
    assert_same(tmp_path / "inline", tmp_path / "ahead")


def test_an_error_of_the_next_batch_costs_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is raised where that batch is asked for; the step before it is reported and saved."""
    epoch = Loader.epoch

    def failing(self: Loader, number: int, start: int = 0) -> Iterator[Batch]:
        for count, batch in enumerate(epoch(self, number, start)):
            if count == 3:
                raise TooManyUnreadable("too many")
            yield batch

    monkeypatch.setattr(Loader, "epoch", failing)
    for name in ("inline", "ahead"):
        run = tiny_run(tmp_path / name, log_every=1, save_steps=1)
        with pytest.MonkeyPatch.context() as patch:
            told = noted(patch, pretended_streams(patch) if name == "ahead" else None)
            with pytest.raises(TooManyUnreadable, match="too many"):
                pretrain(run)
        assert [line for line in told if line.startswith(("step", "report", "save"))] == [
            f"{what} {number + (what != 'step')}" for number in range(3) for what in ("step", "report", "save")
        ]
        assert checkpoint.steps(tmp_path / name / "checkpoints")[-1] == 3
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]


def test_steps_are_taken_again_on_views_made_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After one that the device has left out, of which the host learns one step later."""
    run = tiny_run(tmp_path / "host", "instdisc", epochs=1, max_steps=4)
    waited = outcome(run, "loss", (0, 2))
    monkeypatch.setattr(nonfinite, "may_fall_behind", lambda device: True)
    pretended_streams(monkeypatch)
    behind = outcome(replace(run, folder=str(tmp_path / "device")), "loss", (0, 2))
    assert behind["left_out"] == []
    assert behind["after"] == waited["after"]


@pytest.mark.gpu
def test_on_a_gpu_a_run_ends_with_the_same_bits_and_preparing_waits_for_nothing(tmp_path: Path) -> None:
    prepare = Trainer.prepare

    def watched(trainer: Trainer, coming: Ahead, number: int) -> None:
        with no_waits(number > 2):  # kernels are loaded, memory is taken
            prepare(trainer, coming, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "prepare", watched)
        pretrain(tiny_run(tmp_path / "ahead", device="auto"))
        patch.setattr(module, "makes_ahead", lambda device: False)
        pretrain(tiny_run(tmp_path / "inline", device="auto"))
    assert_same(tmp_path / "inline", tmp_path / "ahead")
