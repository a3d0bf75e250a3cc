"""Which device is taken, and what is refused where there is no Apple GPU, or where one cannot do what is asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from selfsup.evaluation.loading import load
from selfsup.run_folder.environment import environment
from selfsup.runtime import arithmetic
from selfsup.runtime.device import device_for
from selfsup.training.accelerator import make_accelerator, stage_device
from tests.support.tiny import tiny_run


def machine(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool) -> None:
    """A machine with these GPUs, as torch tells of it."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "taken"),
    [(True, True, "cuda"), (True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_takes_the_best_there_is(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, taken: str) -> None:
    machine(monkeypatch, cuda, mps)
    assert device_for("auto") == stage_device("auto") == torch.device(taken)
    assert device_for("cpu") == torch.device("cpu")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert device_for("auto") == torch.device("cpu")


def test_an_apple_gpu_is_taken_where_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=True, mps=True)
    assert device_for("mps") == torch.device("mps")


def test_an_apple_gpu_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, cuda=False, mps=False)
    told = "device is mps, and torch finds no Apple GPU here; leave --device out, or use --device cpu"
    for asked in (device_for, stage_device):
        with pytest.raises(ValueError, match=told):
            asked("mps")
    with pytest.raises(ValueError, match=told):
        make_accelerator(tiny_run(tmp_path, device="mps"))


def test_the_library_refuses_it_before_it_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, cuda=False, mps=False)
    with pytest.raises(ValueError, match="torch finds no Apple GPU here"):
        load(tmp_path / "nothing", device="mps")


def test_several_processes_have_no_apple_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=False, mps=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert device_for("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="start one process, or use --device cpu"):
        device_for("mps")


def test_an_apple_gpu_and_accelerates_cpu_are_not_both_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=False, mps=True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    with pytest.raises(ValueError, match="launched with --cpu; leave one of the two out"):
        device_for("mps")


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [({"compile": True}, "leave it out, or use --device cpu"), ({"precision": "fp16"}, "use bf16 or fp32 here")],
)
def test_what_apple_gpus_cannot_do_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, object], remedy: str
) -> None:
    machine(monkeypatch, cuda=False, mps=True)
    with pytest.raises(ValueError, match=remedy):
        make_accelerator(tiny_run(tmp_path, device="mps", **changes))


def test_the_engine_takes_the_same_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """accelerate chooses by itself, and must come to the same."""
    machine(monkeypatch, cuda=False, mps=True)
    monkeypatch.setattr("torch.backends.mps.is_built", lambda: True)
    monkeypatch.setattr("accelerate.state.is_mps_available", lambda: True)
    assert make_accelerator(tiny_run(tmp_path, device="auto")).device == torch.device("mps")
    assert make_accelerator(tiny_run(tmp_path, device="cpu")).device == torch.device("cpu")


def test_an_apple_gpu_computes_in_single_precision_unless_it_is_asked() -> None:
    assert arithmetic.resolve("auto", arithmetic.capability(torch.device("mps"))) == "fp32"


START = """
import os, sys
from selfsup.cli import main
sys.platform, sys.argv = {platform!r}, ["selfsup", "--version"]
try:
    main()
except SystemExit as ending:
    assert not ending.code
assert "torch" not in sys.modules  # which reads the variable when it is imported
print(os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK"))
"""


@pytest.mark.parametrize(
    ("platform", "before", "after"),
    [("darwin", None, "1"), ("darwin", "0", "0"), ("linux", None, "None")],
)
def test_the_cpu_computes_what_apple_gpus_do_not_know(platform: str, before: str | None, after: str) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "PYTORCH_ENABLE_MPS_FALLBACK"}
    variables |= {} if before is None else {"PYTORCH_ENABLE_MPS_FALLBACK": before}
    code = START.format(platform=platform)
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == after


def test_the_variable_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    assert environment(torch.device("cpu"))["launcher"]["PYTORCH_ENABLE_MPS_FALLBACK"] == "1"
