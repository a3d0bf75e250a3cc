"""The precision of a run is that which it began with."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from selfsup.pretraining import pretrain
from selfsup.run_folder.folder import RunFolder
from selfsup.runtime import arithmetic
from selfsup.training.precision import described, settled
from tests.support.tiny import tiny_run


def test_a_run_that_began_on_the_cpu_stays_in_fp32_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = replace(tiny_run(tmp_path / "run", "simclr", max_steps=1, evaluate_every=0), precision="auto")
    pretrain(run)
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["run"]["precision"] == saved["result"]["precision"] == "fp32"
    launch = json.loads((tmp_path / "run" / "environment.json").read_text())["launches"][0]
    assert launch["arithmetic"] == {"tf32_products": False, "tf32_convolutions": False, "deterministic": False}
    monkeypatch.setattr(arithmetic, "capability", lambda device: (9, 0))
    later = settled(run, RunFolder(tmp_path / "run"))
    assert later.precision == "fp32"
    assert described("auto", later) == "precision fp32, with which the run began (a new one would have bf16 here)"
    assert settled(run, RunFolder(tmp_path / "new")).precision == "bf16"
    monkeypatch.undo()
    assert pretrain(replace(run, max_steps=2))["step"] == 2  # the same command goes on
    with pytest.raises(ValueError, match="precision"):
        pretrain(replace(run, precision="bf16"))


def test_what_is_asked_for_by_name_is_kept(tmp_path: Path) -> None:
    run = replace(tiny_run(tmp_path / "run", "simclr"), precision="tf32")
    assert settled(run, RunFolder(tmp_path / "run")).precision == "tf32"
    assert described("tf32", run) == "precision tf32"


def test_evaluation_in_a_tf32_run_is_in_full_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    inner = arithmetic.full_precision

    def noted():
        seen.append(arithmetic.in_force()["tf32_products"])
        return inner()

    monkeypatch.setattr(arithmetic, "full_precision", noted)
    run = replace(tiny_run(tmp_path / "run", "simclr", epochs=1), precision="tf32", evaluate_every=1)
    pretrain(run)
    # The run itself rounds, where an epoch begins and where it is judged; the features of two sets inside do not.
    assert seen == [True, True, False, False]
