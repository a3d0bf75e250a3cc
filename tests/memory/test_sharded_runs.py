"""Whole runs whose memory is shared among processes: the same end as without, whatever happens in between."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from selfsup.pretraining import Run, pretrain
from tests.support.exact import assert_equal_to_rounding, double_precision, in_double
from tests.support.processes import run_processes
from tests.support.tiny import tiny_run
from tests.training.test_resume import final_state, run_all


def runs(folder: Path, method: str) -> tuple[Run, Run]:
    """The same run with the memory whole and shared."""
    field = "shard_memory" if method == "spcl" else "shard_bank"
    whole = tiny_run(folder / "whole", method, epochs=2)
    shared = replace(whole, folder=str(folder / "shared"), method=replace(whole.method, **{field: True}))
    return whole, shared


@pytest.mark.parametrize("method", ["instdisc", "spcl"])
def test_a_shared_memory_survives_a_change_of_processes(method: str, tmp_path: Path) -> None:
    """Two processes, then one that holds all of it, then two again; against one process throughout."""
    whole, shared = runs(tmp_path, method)
    with double_precision():
        pretrain(whole)
    run_processes(2, in_double, run_all, [replace(shared, max_steps=5)])
    with double_precision():
        pretrain(replace(shared, max_steps=10))
    run_processes(2, in_double, run_all, [shared])
    one, two = (final_state(Path(run.folder))["method"] for run in (whole, shared))
    assert one["encoder.conv1.weight"].dtype == torch.float64
    assert_equal_to_rounding(two, one)
