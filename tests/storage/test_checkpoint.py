"""Checkpoints: whole or not there, verified, never executed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from selfsup.storage import checkpoint
from selfsup.storage.checkpoint import StorageError, load, load_newest, save, steps
from selfsup.storage.sealed import DamagedFile
from tests.support.sealed_files import put, rewrite


def tensors(seed: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(3, 4, 2, 2, generator=generator).to(memory_format=torch.channels_last)
    return {"method": {"w": weights, "n": torch.tensor(7)}, "optimizer": {"w/momentum_buffer": weights * 2}}


def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path) -> None:
    path = save(tmp_path, 12, tensors(), {"scaler": {"scale": 0.1}})
    assert path.name == "step_00000012"
    found = load(path)
    assert found.step == 12
    assert found.state == {"scaler": {"scale": 0.1}}
    for group, expected in tensors().items():
        for name, value in expected.items():
            assert torch.equal(found.tensors[group][name], value)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 99_999_999, 100_000_000):
        save(tmp_path, step, tensors(), {}, keep_last=2)
    assert steps(tmp_path) == [99_999_999, 100_000_000]


def test_pruning_never_prefers_a_damaged_later_one(tmp_path: Path) -> None:
    save(tmp_path, 10, tensors(1), {}, keep_last=2)
    damaged = save(tmp_path, 20, tensors(2), {}, keep_last=2)
    (damaged / "state.json").write_text("")
    save(tmp_path, 15, tensors(3), {}, keep_last=1)  # resumed from 10
    assert steps(tmp_path) == [15]


def test_every_truncation_and_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole", 1, tensors(), {})
    for name in sorted(os.listdir(whole)):
        content = (whole / name).read_bytes()
        for number in range(64):
            place = number * (len(content) - 1) // 63
            for damaged in (content[:place], content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]):
                copy = tmp_path / "copy"
                shutil.copytree(whole, copy)
                (copy / name).write_bytes(damaged)
                with pytest.raises(DamagedFile, match=name):
                    load(copy)
                shutil.rmtree(copy)


def test_a_damaged_newest_falls_back_and_is_named(tmp_path: Path) -> None:
    save(tmp_path, 1, tensors(1), {})
    newest = save(tmp_path, 2, tensors(2), {})
    (newest / "method.safetensors").write_bytes(b"")
    found, damage = load_newest(tmp_path)
    assert found is not None
    assert found.step == 1
    assert "step_00000002/method.safetensors" in damage[0]
    (found.path / "manifest.json").unlink()
    with pytest.raises(ValueError, match="every checkpoint in"):
        load_newest(tmp_path)


def test_no_checkpoint_is_no_error(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "absent") == (None, [])


def test_no_room_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, tensors(), {})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StorageError, match=r"step_00000002: \d+ bytes needed beside a reserve of 1048576, 1000 free"):
        save(tmp_path, 2, tensors(), {})
    assert steps(tmp_path) == [1]


def test_an_error_while_writing_leaves_the_one_before(tmp_path: Path) -> None:
    """A real limit on file size makes the operating system refuse in the middle of a file."""
    save(tmp_path, 1, {"method": {"w": torch.zeros(10)}}, {})
    program = (
        "import resource, signal, sys, torch\nfrom pathlib import Path\nfrom selfsup.storage.checkpoint import save\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n    save(Path(sys.argv[1]), 2, {'method': {'w': torch.zeros(100_000)}}, {})\n"
        "except OSError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    assert "step_00000002" in done.stdout
    assert "bytes needed" in done.stdout
    assert os.listdir(tmp_path) == ["step_00000001"]
    load(tmp_path / "step_00000001")


def test_a_manifest_cannot_point_outside(tmp_path: Path) -> None:
    path = save(tmp_path, 1, tensors(), {})
    rewrite(path / "manifest.json", lambda listed: put({"size": 1, "sha256": "0"}, ("files", "../../secret"), listed))
    with pytest.raises(DamagedFile, match="step_00000001/secret"):
        load(path)


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="not a safetensors file"):
        checkpoint.read_tensors(tmp_path / "weights.safetensors")
