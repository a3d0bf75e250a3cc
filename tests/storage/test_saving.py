"""Saving beside the training: the same files, later; and no failure that goes unheard."""

import hashlib
import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import safetensors.torch
import torch
from accelerate import Accelerator

import selfsup.training.checkpoints
from selfsup.data.sources import open_source
from selfsup.pretraining import Run, build_method, pretrain
from selfsup.run_folder.folder import RunFolder
from selfsup.storage import checkpoint, saver
from selfsup.storage.checkpoint import StorageError, load, save, steps
from selfsup.storage.saver import Saver
from selfsup.storage.tensor_file import lay_out
from selfsup.training.checkpoints import Checkpoints
from tests.support.processes import run_processes
from tests.support.tiny import tiny_run
from tests.training.test_resume import assert_same

SECONDS = 60  # after which a test gives up waiting


def logged_steps(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return metrics.read_text().count('"loss"') if metrics.is_file() else 0


def some_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(2, 3, 4, 5, generator=generator)
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
    named = {f"{number}.{kind}": (numbers * 3).to(kind) for number, kind in enumerate(kinds)}
    return named | {"b": numbers, "a": numbers[0] * 2, 'ü"': torch.tensor(3.0), "none": torch.zeros(0, 3)}


def test_the_file_is_that_of_the_library(tmp_path: Path) -> None:
    tensors = some_tensors()
    last = {
        name: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t.expand(t.shape)
        for name, t in tensors.items()
    }
    content = b"".join(lay_out(last).pieces())
    assert content == safetensors.torch.save(tensors)
    assert len(content) == lay_out(last).size
    path = save(tmp_path, 1, {"method": last}, {}) / "method.safetensors"
    assert path.read_bytes() == content
    for name, value in safetensors.torch.load_file(path).items():
        assert torch.equal(value, tensors[name])
    with pytest.raises(ValueError, match=r"'c' is of torch\.complex128"):
        lay_out({"c": torch.zeros(1, dtype=torch.complex128)})


def test_writing_copies_nothing() -> None:
    tensor = torch.zeros(1000)
    header, piece = lay_out({"w": tensor}).pieces()
    tensor[3] = 1.0
    assert bytes(piece) == tensor.numpy().tobytes()
    assert len(header) % 8 == 0


def test_a_checkpoint_is_begun_so_early_that_it_is_there_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(tmp_path / "run", save_minutes=10)
    method = build_method(run, open_source("shapes:32", "train"))
    optimizer = run.optimizer.build(method.named_parameters(), 16)
    accelerator = cast(Accelerator, SimpleNamespace(scaler=None, device=torch.device("cpu")))
    state = Checkpoints(method, optimizer, accelerator, RunFolder(tmp_path / "run"), run, 8)
    assert [state.due_after(1, seconds) for seconds in (599, 601)] == [False, True]
    now = taken = 0.0

    def slowly(point: str, path: Path) -> None:
        nonlocal now
        now += taken if point == "before-rename" else 0

    monkeypatch.setattr(checkpoint, "fault_point", slowly)
    for module in (saver, selfsup.training.checkpoints):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    # The seconds that a checkpoint took, and those after which the next one is begun.
    for taken, due in ((40, 560), (400, 400), (700, 600)):
        state.save(taken)
        state.settle()
        assert [state.due_after(2, seconds) for seconds in (due - 1, due + 1)] == [False, True]
    state.close()


def test_what_was_begun_is_written_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(checkpoint, "fault_point", lambda point, path: go_on.wait(SECONDS))
    tensors = {"w": torch.ones(10)}
    saver = Saver(tmp_path, keep_last=2)
    saver.begin(1, {"method": tensors}, {}, kept=False)  # comes back while the writer stands still
    assert steps(tmp_path) == []
    tensors["w"].fill_(2.0)
    second = threading.Thread(target=lambda: saver.begin(2, {"method": tensors}, {}, kept=False))
    second.start()
    second.join(0.2)
    assert second.is_alive()  # one at a time
    go_on.set()
    second.join(SECONDS)
    saver.close()
    for step in (1, 2):
        assert torch.equal(load(tmp_path / f"step_{step:08d}").tensors["method"]["w"], torch.full((10,), float(step)))


def test_steps_go_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer stands still until the next one is due: a step that waited for it would wait in vain."""
    folder = tmp_path / "run"
    made = []

    def slow(point: str, path: Path) -> None:
        if point == "opened" and path.name == "method.safetensors" and "step_00000004" in str(path):
            end = time.monotonic() + SECONDS
            while logged_steps(folder) < 8 and time.monotonic() < end:
                os.sched_yield()
            made.append(logged_steps(folder))

    monkeypatch.setattr(checkpoint, "fault_point", slow)
    result = pretrain(tiny_run(folder, log_every=1, save_steps=4, keep_last=9))
    assert made == [8]
    assert result["reason"] == "finished"
    assert steps(folder / "checkpoints") == [4, 8, 12, 16]


def checkpoint_digests(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in (folder / "checkpoints").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


@pytest.mark.parametrize("method", ["moco", "spcl"])
def test_the_same_bytes_with_and_without(method: str, tmp_path: Path) -> None:
    for name, beside in (("beside", True), ("between", False)):
        run = tiny_run(tmp_path / name, method, save_steps=3, save_async=beside, keep_last=3)
        pretrain(replace(run, max_steps=5))
        pretrain(run)
    assert_same(tmp_path / "beside", tmp_path / "between")
    assert checkpoint_digests(tmp_path / "beside") == checkpoint_digests(tmp_path / "between")
    assert steps(tmp_path / "beside" / "checkpoints") == [12, 15, 16]


def test_some_are_kept_for_good(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", epochs=6, batch_size=32, save_steps=1, keep_every=2)  # 4 steps per epoch
    pretrain(replace(run, max_steps=18))
    assert steps(tmp_path / "run" / "checkpoints") == [8, 16, 17, 18]
    # Another launch without the setting makes no more of them, and removes none.
    pretrain(replace(run, keep_every=0, keep_last=1))
    assert steps(tmp_path / "run" / "checkpoints") == [8, 16, 24]


def test_checkpoints_are_made_to_be_kept(tmp_path: Path) -> None:
    pretrain(tiny_run(tmp_path / "run", epochs=3, batch_size=32, keep_every=1, keep_last=1))
    assert steps(tmp_path / "run" / "checkpoints") == [4, 8, 12]


@pytest.mark.parametrize(
    ("changes", "told"), [({"keep_last": 0}, "keep_last is 0"), ({"save_steps": 0}, "save_steps is 0; .* at least 1")]
)
def test_bad_settings_are_named(changes: dict[str, int], told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        tiny_run(tmp_path, **changes)


def fails_at(step: int) -> None:
    """The disk fails where the checkpoint of this step is written."""

    def fault_point(point: str, path: Path) -> None:
        if point == "mid-write" and f"step_{step:08d}" in str(path):
            raise OSError(5, "Input/output error")

    checkpoint.fault_point = fault_point  # type: ignore[assignment]


@pytest.mark.parametrize("beside", [True, False])
def test_a_failure_stops_the_run(beside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "fault_point", checkpoint.fault_point)  # what the test changes is put back
    fails_at(8)
    run = tiny_run(tmp_path / "run", save_steps=4, save_async=beside, log_every=1, epochs=8)
    with pytest.raises(StorageError, match=r"cannot write checkpoint .*step_00000008 \(\d+ bytes needed\): Input"):
        pretrain(run)
    assert steps(tmp_path / "run" / "checkpoints") == [4]
    assert logged_steps(tmp_path / "run") <= 13  # no further than to where the next save would begin
    assert threading.active_count() == 1 or not any("saving" in thread.name for thread in threading.enumerate())


def test_the_last_checkpoint_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "fault_point", checkpoint.fault_point)
    for number, changes in enumerate(({"max_steps": 3}, {"max_minutes": 0.0}, {})):
        fails_at({0: 3, 1: 1, 2: 16}[number])
        with pytest.raises(StorageError, match="Input/output error"):
            pretrain(tiny_run(tmp_path / str(number), **changes))
        assert not (tmp_path / str(number) / "encoder.safetensors").exists()


def told(run: Run, step: int) -> list[int]:
    """What `pretrain` raises in this process, as numbers."""
    fails_at(step)
    try:
        pretrain(run)
    except StorageError as error:
        return list(str(error).encode())
    return []


def test_all_processes_stop_with_the_same_words(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", save_steps=4, epochs=4)
    first, second = (bytes(words).decode() for words in run_processes(2, told, run, 8))
    assert first == second
    assert "step_00000008" in first
    assert steps(tmp_path / "run" / "checkpoints") == [4]


def test_a_folder_of_before_a_setting_existed_goes_on(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", "moco")
    pretrain(replace(run, max_steps=2))
    path = tmp_path / "run" / "config.json"
    content = json.loads(path.read_text())
    del content["checksum"], content["result"]["clip_norm"], content["result"]["method"]["symmetric"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"another configuration: clip_norm: null -> 1\.0"):
        pretrain(replace(run, clip_norm=1.0))
    assert pretrain(run)["reason"] == "finished"
