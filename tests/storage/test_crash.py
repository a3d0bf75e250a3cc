"""Killed anywhere, on a failing disk, with damaged files: nothing is lost, and nothing wrong is taken for right."""

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from selfsup.pretraining import pretrain
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.base import Result, keep
from selfsup.storage import checkpoint
from selfsup.storage.checkpoint import POINTS, StorageError, load_newest, save
from tests.support.damaged import passed_over, try_all
from tests.support.releases import DIGESTS, STORED, digests, exported_again, problems
from tests.support.tiny import tiny_run
from tests.training.test_resume import assert_same


@pytest.fixture(scope="module")
def kills(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("kills")
    (folder / "saves").mkdir()
    program = [sys.executable, "-m", "tests.support.kills", str(folder)]
    done = subprocess.run(
        program, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_a_save_killed_at_any_point_leaves_whole_checkpoints(kills: tuple[Path, dict[str, Any]]) -> None:
    seen = kills[1]["saves"]
    names = [*POINTS, "deleting"]
    died = Counter(names[number // 3] for number, (killed, *_) in enumerate(seen) if killed)
    # Three files are opened, written and deleted; the rest happens once.
    assert died == {name: 3 if name in (*POINTS[:4], "deleting") else 1 for name in names}
    assert not any(unreadable for *_, unreadable in seen)
    assert {saved for *_, saved, _ in seen} == {2, 3}


def test_a_run_killed_at_every_point_ends_with_the_same_bits(kills: tuple[Path, dict[str, Any]]) -> None:
    folder, told = kills
    assert len(told["runs"]) == len(POINTS)
    for killed, reached, begun, saved, unreadable in told["runs"]:
        assert killed
        assert not unreadable
        # An interval of 2 steps, and those that were made while the newest checkpoint was being written.
        assert reached - saved <= 2 + (reached - begun if begun > saved else 0)
    assert_same(folder / "whole", folder / "cut")


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("point", POINTS)
def test_a_disk_that_refuses_at_any_point_leaves_the_one_before(
    point: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [{"method": {"w": torch.full((300,), float(step))}} for step in range(4)]
    for step in (1, 2):
        save(tmp_path, step, states[step], {})

    def refuse(name: str, path: Path) -> None:
        if name == point:
            raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(checkpoint, "fault_point", refuse)
    with pytest.raises(StorageError, match=os.strerror(number)) as error:
        save(tmp_path, 3, states[3], {})
    assert str(tmp_path) in str(error.value)
    if not point.startswith("prun"):
        assert "step_00000003 (" in str(error.value)
        assert "bytes needed" in str(error.value)
        assert not any(name.endswith(".tmp") for name in os.listdir(tmp_path))
    found, damage = load_newest(tmp_path)
    assert found is not None
    assert not damage
    assert torch.equal(found.tensors["method"]["w"], states[found.step]["method"]["w"])
    assert found.step == (3 if POINTS.index(point) >= POINTS.index("renamed") else 2)


def test_no_damage_of_any_file_is_read_silently(tmp_path: Path) -> None:
    pretrain(tiny_run(tmp_path / "run", save_steps=8))
    folder = RunFolder(tmp_path / "run")
    keep(folder, [Result(stage="knn", figures={"top1": 0.5}, protocol={"k": 3}, about={})])
    count, silent = try_all(folder.path, 8)
    assert silent == []
    assert count == 2 * 8 * 9
    assert passed_over(folder.path) == []


@pytest.mark.parametrize("stored", STORED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_runs_of_earlier_releases_go_on(stored: Path, tmp_path: Path) -> None:
    assert problems(stored, tmp_path / "run") == []


@pytest.mark.parametrize("stored", STORED, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_runs_of_earlier_releases_are_read_and_exported_to_the_same_bits(stored: Path, tmp_path: Path) -> None:
    recorded = json.loads(DIGESTS.read_text())
    assert digests(stored) == recorded[f"{stored.parent.name}/{stored.name}"]
    if (stored / "ended").is_dir():
        assert exported_again(stored, tmp_path / "run") == []
