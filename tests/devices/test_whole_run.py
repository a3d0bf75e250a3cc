"""A run and its evaluations on a device without double precision: figures and checkpoints are the CPU's."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import accelerate
import pytest
import torch

import selfsup.augment.views as views_module
from selfsup.devices import moving
from selfsup.methods.spcl import SpCL
from selfsup.pretraining import pretrain
from selfsup.storage import checkpoint
from selfsup.training import fitting
from tests.contracts.case import Run
from tests.contracts.cases import CASES
from tests.support.pretended import DEVICE, OnDevice, on_cpu, pretended
from tests.support.tiny import tiny_run


@contextmanager
def like_apple() -> Iterator[None]:
    """The CPU in the layout of Apple GPUs, for the layout decides how sums are rounded."""
    with mock.patch.object(moving, "APPLE", frozenset({"cpu"})):
        yield


@contextmanager
def there() -> Iterator[None]:
    with pretended(), mock.patch.object(accelerate.Accelerator, "device", DEVICE):
        yield


def figures(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clock = ("time", "images_per_second", "seconds_training", "seconds_evaluation")
    return [{name: value for name, value in line.items() if name not in clock} for line in lines]


@pytest.mark.parametrize("method", ["metric_margin", "spcl"])
def test_a_run_gives_the_figures_of_the_cpu(tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in mid-epoch, resumed, with the online evaluations at the end of the epoch."""
    monkeypatch.setattr(views_module, "loops", lambda: None)  # a CPU's compiled loops round otherwise
    both = {"here": like_apple, "there": there}
    for name, place in both.items():
        for last in (5, 9):
            run = tiny_run(tmp_path / name, method, evaluate_every=1, probe_l2=1e-3, log_every=1, max_steps=last)
            with place():
                pretrain(run)
    expected, found = (figures(tmp_path / name) for name in both)
    assert [sorted(line) for line in found] == [sorted(line) for line in expected]
    for line, wanted in zip(found, expected, strict=True):
        assert line == pytest.approx(wanted, rel=1e-5)
    ours, theirs = (checkpoint.load_newest(tmp_path / name / "checkpoints")[0] for name in both)
    assert ours is not None
    assert theirs is not None
    for name, value in ours.tensors["method"].items():
        torch.testing.assert_close(theirs.tensors["method"][name], value, rtol=0, atol=0, equal_nan=True)


def test_weights_are_laid_out_as_the_device_computes_rightly() -> None:
    """Apple GPUs: batch norm and pooling in channels last have wrong gradients there."""
    run = Run(CASES[0])
    training = tiny_run(Path("x"))
    fitting.to_its_device(run.method, training, torch.device("cpu"))
    assert run.method.encoder.conv.weight.is_contiguous(memory_format=torch.channels_last)
    with like_apple():
        fitting.to_its_device(run.method, training, torch.device("cpu"))
    assert run.method.encoder.conv.weight.is_contiguous()


def test_the_threshold_of_spcl_stays_where_it_can_be() -> None:
    method = Run(next(case for case in CASES if case.name == "spcl")).method
    assert isinstance(method, SpCL)
    names = list(method.state_dict())
    method.threshold.fill_(0.1)
    with pretended():
        method.to(DEVICE)
        assert isinstance(method.memory.features, OnDevice)
        assert not isinstance(method.threshold, OnDevice)
        assert list(method.state_dict()) == names
        method.to("cpu")
        assert float(on_cpu(method.threshold)) == 0.1
        assert method.threshold.dtype == torch.float64
    with pytest.raises(ZeroDivisionError):
        method._apply(lambda value: value / (1 // 0))
    assert list(method.state_dict()) == names
