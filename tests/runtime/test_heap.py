"""What tensors on a CPU give back: kept while a process computes, handed back afterwards."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from selfsup.augment.presets import simclr_cifar
from selfsup.augment.views import Center
from selfsup.data.base import ArraySource
from selfsup.evaluation.features import extract
from selfsup.pretraining import Run, pretrain
from selfsup.runtime import heap
from selfsup.stages.dry_run import dry_run
from selfsup.training.trainer import Trainer
from tests.support.tiny import tiny_run

pytestmark = pytest.mark.skipif(heap._glibc() is None, reason="the allocator is not glibc's, and is left alone")

_BEGIN = """
import os, resource
import psutil, torch
from selfsup.runtime import heap

CPU, MB = torch.device("cpu"), 2**20
torch.set_num_threads(1)  # threads of OpenMP do not outlive a fork

def resident():
    return psutil.Process().memory_info().rss / MB

def faults(blocks, mb=64):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(blocks):
        torch.ones(mb * MB, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(2)
begin = resident()
"""


def _run(code: str, **variables: str) -> None:
    environment = {name: value for name, value in os.environ.items() if "MALLOC_" not in name}
    environment = {name: value for name, value in environment.items() if name != "GLIBC_TUNABLES"} | variables
    command = [sys.executable, "-c", _BEGIN + code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_block_that_is_freed_is_used_again_and_handed_back_at_the_end() -> None:
    _run("""
outside = faults(10)
with heap.reused(CPU):
    faults(10)  # where what is left of one block lies between two, the next does not fit at once
    assert resident() > begin + 60
    within = faults(10)
assert within * 20 < outside, (within, outside)
assert resident() < begin + 20, (begin, resident())
faults(1, mb=700)  # more than any gap that is left
assert resident() < begin + 20, (begin, resident())
""")


def test_only_the_outermost_hands_back() -> None:
    _run("""
with heap.reused(CPU):
    with heap.reused(CPU):
        faults(10)
    assert resident() > begin + 60
    assert faults(10) < 100
assert resident() < begin + 20
""")


def test_it_is_handed_back_after_an_error() -> None:
    _run("""
try:
    with heap.reused(CPU):
        faults(1)
        raise ArithmeticError
except ArithmeticError:
    pass
assert resident() < begin + 20
""")


def test_a_forked_process_neither_holds_what_is_kept_nor_keeps_anything() -> None:
    _run("""
with heap.reused(CPU):
    faults(10)
    number = os.fork()
    if number == 0:
        fine = resident() < begin + 20
        faults(1, mb=700)  # more than any gap that is left
        os._exit(0 if fine and resident() < begin + 20 else 1)
    assert os.waitpid(number, 0)[1] == 0
    faults(10)
    assert faults(10) < 100
""")


@pytest.mark.parametrize(
    "variables",
    [{"MALLOC_MMAP_MAX_": "65536"}, {"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}],
    ids=lambda variables: next(iter(variables)),
)
def test_what_the_user_has_set_stays(variables: dict[str, str]) -> None:
    _run("with heap.reused(CPU):\n    faults(1)\n    assert resident() < begin + 20", **variables)


def test_on_another_device_nothing_changes() -> None:
    _run("with heap.reused(torch.device('cuda')):\n    faults(1)\n    assert resident() < begin + 20")


def test_where_several_processes_compute_together_nothing_changes() -> None:
    _run("""
from selfsup import distributed
distributed.world_size = lambda: 2
with heap.reused(CPU):
    faults(1)
    assert resident() < begin + 20
""")


class _Seen(nn.Module):
    """An encoder that notes whether what it frees is kept."""

    def __init__(self) -> None:
        super().__init__()
        self.within: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.within.append(heap._within)
        return images.mean((2, 3))


def test_features_are_read_out_within() -> None:
    view = simclr_cifar().views[0]
    seen = _Seen()
    source = ArraySource(torch.zeros(8, 3, 32, 32, dtype=torch.uint8))
    extract(seen, source, Center(view.size, 1.0, view.mean, view.std), torch.device("cpu"), batch_size=4)
    assert seen.within == [1, 1]
    assert heap._within == 0


@pytest.mark.parametrize("command", [pretrain, dry_run])
def test_training_steps_are_taken_within(
    command: Callable[[Run], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    within = set()
    taken = Trainer.step

    def seen(self: Trainer, *step: Any) -> Any:
        within.add(heap._within > 0)
        return taken(self, *step)

    monkeypatch.setattr(Trainer, "step", seen)
    command(tiny_run(tmp_path / "run", "simclr", max_steps=1, evaluate_every=0))
    assert within == {True}
    assert heap._within == 0
