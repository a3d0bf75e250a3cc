"""What a run would take, by two of its steps: true figures, and nothing left on the disk."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from selfsup import distributed
from selfsup.pretraining import pretrain
from selfsup.stages import dry_run as module
from selfsup.stages.dry_run import STEPS, dry_run
from selfsup.stages.in_words import in_words
from selfsup.storage import checkpoint
from selfsup.training import memory_check
from selfsup.training.trainer import Trainer
from tests.support.processes import run_processes
from tests.support.tiny import photographs, tiny_run
from tests.test_cli import call, result


def content(folder: Path) -> dict[str, str]:
    """Every file of a folder, with its digest and the time it was written."""
    return {
        str(path.relative_to(folder)): f"{path.stat().st_mtime_ns} {hashlib.sha256(path.read_bytes()).hexdigest()}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_run_is_told_and_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    taken = []
    step = Trainer.step
    monkeypatch.setattr(Trainer, "step", lambda self, *args: (taken.append(args[0]), step(self, *args))[1])
    run = tiny_run(tmp_path / "run", "moco", evaluate_every=1, keep_last=3, keep_every=1)
    found = dry_run(run)
    assert taken == [0, 1] == list(range(STEPS))
    assert list(tmp_path.iterdir()) == []
    assert (found["images"], found["classes"], found["steps_per_epoch"], found["total_steps"]) == (128, 10, 8, 16)
    assert (found["step"], found["evaluations"], found["checkpoints"]) == (0, 2, 3 + 1 + 2)
    assert found["memory_bytes"] == 40 * (16 * 4 + 8 + 8) + 16  # features, images, labels; two numbers
    told = found["seconds_first_step"] + 15 * found["seconds_per_step"] + 2 * found["seconds_evaluation"]
    assert found["seconds_expected"] == pytest.approx(told + 2 * found["seconds_clustering"])
    assert found["seconds_evaluation"] > 0
    assert found["peak_host_bytes"] > 100 * 2**20
    assert found["largest_batch"] == 128  # all images
    pretrain(replace(run, evaluate_every=0))
    largest = max(checkpoint.steps(tmp_path / "run" / "checkpoints"))
    files = (tmp_path / "run" / "checkpoints" / f"step_{largest:08}").glob("*.safetensors")
    assert sum(path.stat().st_size for path in files) == pytest.approx(found["checkpoint_bytes"], rel=0.1)
    encoder = (tmp_path / "run" / "encoder.safetensors").stat().st_size
    assert encoder + (tmp_path / "run" / "head.safetensors").stat().st_size == pytest.approx(
        found["encoder_bytes"], rel=0.1
    )
    before = content(tmp_path)
    assert dry_run(run)["step"] == 16
    assert content(tmp_path) == before


def test_clusters_and_decoded_images_are_told(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", "spcl", root=str(photographs(tmp_path / "images")))
    run = replace(run, data=replace(run.data, canvas=24))
    found = dry_run(run)
    assert found["decoded_bytes"] == 64 * 3 * 24**2
    assert found["seconds_clustering"] > 0
    assert not (tmp_path / "run").exists()


def test_the_largest_batch_fills_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tiny_run(tmp_path / "run", "simclr", root="shapes:512")
    monkeypatch.setattr(Trainer, "step", lambda self, *args: None)
    largest = []
    for free in (4_000_000, 8_000_000, 16_000_000):
        monkeypatch.setattr(module, "free_for_steps", lambda *_, free=free: free)
        found = dry_run(run)
        largest.append(found["largest_batch"])
        assert found["largest_batch_margin"] == 0.3
    room = [0.7 * free for free in (4_000_000, 8_000_000, 16_000_000)]
    slopes = [(b - a) / (y - x) for a, b, x, y in zip(room, room[1:], largest, largest[1:], strict=False)]
    assert slopes[0] == pytest.approx(slopes[1], rel=0.1)  # bytes of an image
    assert 0 < largest[0] < largest[1] < largest[2] < 512


def test_a_batch_that_is_brought_during_a_step_counts_for_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 127.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    timer = module._Timer(torch.device("cpu"))
    timer.at("loading", 0)  # at 1
    timer.at("step", 0)
    timer.at("loading", 1)
    timer.at("step", 0)  # at 15
    timer.after_step(1, None)
    timer.at("step", 1)
    timer.after_step(2, None)
    assert timer.steps == [2 + 4 + 16, 8 + 64]


def test_two_steps_that_would_not_fit_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "step", lambda *_: pytest.fail("this takes all memory"))
    monkeypatch.setattr(memory_check, "free_memory", lambda: 400_000)
    with pytest.raises(ValueError, match="GiB are free now"):
        dry_run(tiny_run(tmp_path / "run", "simclr"))


SHARED = ("total_steps", "parameters", "checkpoint_bytes")


def in_two(folder: Path) -> torch.Tensor:
    with distributed.alone():
        assert distributed.world_size() == 1
    assert distributed.world_size() == 2
    found = dry_run(tiny_run(folder / "run", "simclr", shard_encoder=True, grad_cache_chunk="auto"))
    names = (*SHARED, "processes", "largest_batch", "seconds_expected")
    return torch.tensor([found[name] for name in names], dtype=torch.float64)


def test_two_processes_that_divide_the_encoder_tell_the_same(tmp_path: Path) -> None:
    first, second = (part.tolist() for part in run_processes(2, in_two, tmp_path))
    assert first == second
    one = dry_run(tiny_run(tmp_path / "run", "simclr"))
    assert first[: len(SHARED)] == [one[name] for name in SHARED]
    assert first[len(SHARED)] == 2
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    words = "simclr_cifar10_cpu --dry-run --data shapes:64 --data.limit None --encoder.width 0.25 --batch-size 16"
    assert call(monkeypatch, "pretrain", *words.split(), "--device", "cpu", "--workers", "0") == 0
    found = result(capsys)
    assert (found["images"], found["folder"]) == (64, "runs/simclr_cifar10_cpu")
    assert list(tmp_path.iterdir()) == []
    assert call(monkeypatch, "pretrain", "simclr_cifar10_cpu", "--dry-run", "--no-such-flag") == 2
    told = "\n".join(in_words("dry-run", found))
    for words in (
        "64 images, 4 steps per epoch",
        "largest batch that fits: about 64",
        "disk: about",
        "nothing was kept",
    ):
        assert words in told


FOUND: dict[str, Any] = {
    "images": 50_000,
    "classes": 10,
    "steps_per_epoch": 195,
    "total_steps": 39_000,
    "steps_taken": 2,
    "batch_size": 256,
    "grad_cache_chunk": 64,
    "parameters": 11_173_962,
    "device": "a GPU",
    "precision": "bf16",
    "processes": 1,
    "folder": "runs/one",
    "step": 1950,
    "decoded_bytes": 3 * 2**30,
    "memory_bytes": 33 * 2**20,
    "largest_batch": None,
    "largest_batch_margin": 0.3,
    "checkpoints": 3,
    "checkpoint_bytes": 2**30,
    "encoder_bytes": 44 * 2**20,
    "log_bytes": 2**20,
    "disk_bytes": 3 * 2**30,
    "disk_free_bytes": 2**30,
    "seconds_first_step": 4.0,
    "seconds_per_step": 0.1234,
    "seconds_clustering": 2.4,
    "peak_device_bytes": 5 * 2**30,
    "peak_host_bytes": 2**30,
    "evaluations": 200,
    "seconds_evaluation": 1.5,
    "seconds_expected": 5400.0,
}


def test_words() -> None:
    told = "\n".join(in_words("dry-run", FOUND))
    for words in (
        "batch 256, in chunks of 64",
        "11.17 M parameters are trained, on a GPU in bf16",
        "0.123 s per step (the first 4 s); about 1:30:00 in all, 0:05:00 of it for 200 evaluations",
        "clusters 0:00:02 per epoch",
        "memory: peak of the device 5.0 GiB; decoded images 3.0 GiB",
        "the disk has too little room",
        "is at step 1,950",
    ):
        assert words in told
    assert "largest batch" not in told
