"""Chunks of gradient caching that a run chooses itself: the largest that fit, kept from then on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from selfsup import distributed
from selfsup.config.flags import parse
from selfsup.methods.base import Method
from selfsup.models.resnet import ResNet
from selfsup.pretraining import Prepared, prepared, pretrain
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.finetune import run_finetune
from selfsup.stages.finetune_settings import finetune_settings
from selfsup.training import chunk_choice, step_memory
from selfsup.training.chunk_choice import chosen
from selfsup.training.gradient_cache import possible_chunks
from selfsup.training.step_memory import MARGIN, StepMemory
from tests.support.exact import assert_equal_to_rounding, double_precision
from tests.support.tiny import tiny_run
from tests.training.test_resume import final_state

CPU = torch.device("cpu")


@contextmanager
def memory_for(rows: int) -> Iterator[list[int]]:
    """A device whose memory runs out where more images go through the encoder at a time; how many went is noted."""
    forward, seen = ResNet.forward, list[int]()

    def limited(self: ResNet, x: Tensor) -> Tensor:
        if len(x) > rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        seen.append(len(x))
        return forward(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResNet, "forward", limited)
        patch.setattr(chunk_choice, "by_trying", lambda *_: True)
        yield seen


@contextmanager
def images_that_do_not_meet() -> Iterator[None]:
    """Batch norm stays as it is drawn, so that chunks give what the whole batch does."""

    def train(self: Method, mode: bool = True) -> Method:
        nn.Module.train(self, mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Method, "train", train)
        yield


def chunk_of(folder: Path) -> Any:
    return RunFolder(folder).saved_run()["grad_cache_chunk"]


# SimCLR's two views go through the encoder together.
@pytest.mark.parametrize(("method", "chunk"), [("simclr", 4), ("moco", 8), ("instdisc", 8)])
def test_a_batch_that_does_not_fit_gives_what_the_whole_batch_gives(method: str, chunk: int, tmp_path: Path) -> None:
    """With queue, bank and momentum encoder; by the largest chunk of which each half fits."""
    whole = tiny_run(tmp_path / "whole", method, max_steps=4)
    parts = replace(whole, folder=str(tmp_path / "parts"), grad_cache_chunk="auto")
    with double_precision(), images_that_do_not_meet():
        pretrain(whole)
        with memory_for(9) as seen:
            pretrain(parts)
    assert chunk_of(tmp_path / "parts") == chunk
    assert max(seen) == 8
    for kind in ("method", "optimizer"):
        assert_equal_to_rounding(final_state(tmp_path / "parts")[kind], final_state(tmp_path / "whole")[kind])


def test_a_run_that_goes_on_keeps_its_chunk_to_the_same_bits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where there is more memory by then."""
    uncut, cut = (tiny_run(tmp_path / name, "moco", grad_cache_chunk="auto", max_steps=4) for name in ("uncut", "cut"))
    with memory_for(4):
        pretrain(uncut)
        pretrain(replace(cut, max_steps=2))
    with memory_for(100):
        pretrain(cut)
    assert "gradient caching in chunks of 4 images, with which the run began" in capsys.readouterr().err
    first, second = final_state(tmp_path / "uncut"), final_state(tmp_path / "cut")
    for kind in ("method", "optimizer"):
        for name, value in first[kind].items():
            assert torch.equal(value, second[kind][name]), name
    assert chunk_of(tmp_path / "uncut") == chunk_of(tmp_path / "cut") == 4


def test_where_the_batch_fits_nothing_is_cached(tmp_path: Path) -> None:
    settings = {"grad_cache_chunk": "auto", "grad_cache_batch_norm": "frozen"}
    for steps in (2, 4):
        pretrain(tiny_run(tmp_path / "auto", "simclr", max_steps=steps, **settings))
    plain = tiny_run(tmp_path / "plain", "simclr", max_steps=4)
    pretrain(plain)
    assert chunk_of(tmp_path / "auto") is None
    for name, value in final_state(tmp_path / "plain")["method"].items():
        assert torch.equal(value, final_state(tmp_path / "auto")["method"][name]), name


def test_trying_leaves_no_trace_and_other_errors_are_not_taken_for_want_of_memory(tmp_path: Path) -> None:
    ready = ready_for(tmp_path, "moco")
    before = {name: value.clone() for name, value in ready.method.state_dict().items()}
    drawn = torch.get_rng_state()
    with memory_for(4):
        assert chosen(ready.method, ready.run, ready.shapes, CPU).grad_cache_chunk == 4
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(parameter.grad is None for parameter in ready.method.parameters())
    assert all(torch.equal(value, before[name]) for name, value in ready.method.state_dict().items())
    with memory_for(3), pytest.raises(ValueError, match="not even chunks of 4 images fit"):
        chosen(ready.method, ready.run, ready.shapes, CPU)
    with memory_for(16), pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResNet, "forward", lambda self, x: x.view(-1, 7))
        with pytest.raises(RuntimeError, match="shape"):
            chosen(ready.method, ready.run, ready.shapes, CPU)


def ready_for(folder: Path, method: str) -> Prepared:
    return prepared(tiny_run(folder / "run", method, grad_cache_chunk="auto"))


def test_all_processes_take_the_smallest_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = ready_for(tmp_path, "simclr")
    monkeypatch.setattr(distributed, "gather_json", lambda value, *_: [value, 4])
    assert chosen(ready.method, ready.run, ready.shapes, CPU).grad_cache_chunk == 4
    monkeypatch.setattr(distributed, "gather_json", lambda value, *_: [value, 16])
    assert chosen(ready.method, ready.run, ready.shapes, CPU).grad_cache_chunk is None


@pytest.mark.parametrize("chunk", [2, 4, 8])
def test_on_a_cpu_the_largest_chunk_that_is_counted_to_fit(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = ready_for(tmp_path, "simclr")
    memory = StepMemory(ready.method, ready.run, ready.shapes, CPU)
    taken = memory.line.at(chunk) + memory.views(16) + memory.optimizer + memory.saved_from
    for free, wanted in ((taken + 10, chunk), (taken - 10, chunk // 2)):
        monkeypatch.setattr(chunk_choice, "free_for_steps", lambda *_, free=free: round(free / (1 - MARGIN)))
        if wanted == 1:
            with pytest.raises(ValueError, match="not even chunks of 2 images"):
                chosen(ready.method, ready.run, ready.shapes, CPU)
        else:
            assert chosen(ready.method, ready.run, ready.shapes, CPU).grad_cache_chunk == wanted


def test_views_made_ahead_take_from_a_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = ready_for(tmp_path, "simclr")
    memory = StepMemory(ready.method, ready.run, ready.shapes, CPU)
    taken = memory.line.at(8) + memory.views(16) + memory.optimizer + memory.saved_from
    monkeypatch.setattr(chunk_choice, "free_for_steps", lambda *_: round((taken + 10) / (1 - MARGIN)))
    assert chosen(ready.method, ready.run, ready.shapes, CPU).grad_cache_chunk == 8
    monkeypatch.setattr(step_memory, "makes_ahead", lambda device: True)
    assert chosen(ready.method, ready.run, ready.shapes, CPU).grad_cache_chunk == 2
    assert chunk_choice._left_free(memory, 16) == memory.beside + 2 * memory.views(16)  # where it is tried


def test_a_word_that_is_none_is_answered_with_what_is_wanted() -> None:
    run = tiny_run(Path())
    assert parse(run, ["--grad-cache-chunk", "auto"], "selfsup pretrain").grad_cache_chunk == "auto"
    with pytest.raises(ValueError, match="is many; wanted a whole number or None or auto"):
        parse(run, ["--grad-cache-chunk", "many"], "selfsup pretrain")


def test_chunks_hold_whole_parts_of_a_batch_norm(tmp_path: Path) -> None:
    assert possible_chunks(ready_for(tmp_path, "simclr").method, 16) == [8, 4, 2]
    assert possible_chunks(ready_for(tmp_path, "moco").method, 12) == [6, 4]  # two groups, of two images at least


def test_stages_that_train_choose_too(tmp_path: Path) -> None:
    pretrain(tiny_run(tmp_path / "run", "simclr", max_steps=1))
    settings = finetune_settings("sgd", tiny_run(tmp_path).data)
    settings = replace(
        settings,
        epochs=1,
        batch_size=16,
        grad_cache_chunk="auto",
        folder=str(tmp_path / "tuned"),
        device="cpu",
        workers=0,
        labelled=replace(settings.labelled, per_class=8),
        max_steps=1,
    )
    with memory_for(8):
        run_finetune(tmp_path / "run", settings)
    assert chunk_of(tmp_path / "tuned") == 8
