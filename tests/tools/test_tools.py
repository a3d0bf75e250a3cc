"""The tools that a person runs from a checkout, on data small enough for a test."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.benchmarks import identity


def run(tool: str, *words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", f"tools.{tool}", *map(str, words)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)


def test_quickstart_ends_with_its_table_and_figures(tmp_path: Path) -> None:
    done = run("quickstart", "--shapes", 300, "--epochs", 1, "--folder", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    for name in ("pixels_knn_top1", "untrained_knn_top1", "knn_top1", "linear_top1"):
        assert 0 < figures[name] <= 1, name
    assert figures["seconds"] > 0
    assert figures["device"].startswith("cpu")
    for row in ("raw pixels", "untrained encoder", "pretrained encoder", str(tmp_path / "run")):
        assert row in done.stderr.replace("\n", "")
    assert (tmp_path / "run" / "results" / "linear_features.json").is_file()


def test_quickstart_names_a_missing_folder(tmp_path: Path) -> None:
    done = run("quickstart", "--data", tmp_path / "absent")
    assert done.returncode == 2
    assert "there is no folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_looks_at_data_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "_CLASSES", 4)
    identity.files(tmp_path / "files", 2400)  # as many as are noted in a list
    looks = [identity.look("files", str(tmp_path / "files"), full) for full in (False, False, True)]
    assert [look["images"] for look in looks] == [2400] * 3
    assert len({look["digest"] for look in looks}) == 1
    identity.array(tmp_path / "array.npy", 1e-4)
    assert identity.look("array", str(tmp_path / "array.npy"), False)["images"] == 32
    assert identity.read(tmp_path / "array.npy")["bytes"] == (tmp_path / "array.npy").stat().st_size
