"""Every method on a device that is not there: it never waits for it, mixes no devices, and gives the same bits again.

The exceptions, by name: memories that are shared among processes (`shard_bank`, `shard_memory`) wait in every step for
how many rows fall to each process, `XBM` once after a start for the number of its step, and the guard once in a step.
"""

import pytest

from tests.contracts.case import Case
from tests.contracts.cases import CASES
from tests.contracts.on_device import Step, operations_of

# What adds up in the order in which threads arrive, also where torch is told to be deterministic, or is refused then.
WITHOUT_ORDER = {
    *("bincount", "histc", "kthvalue", "median", "nanmedian", "put_", "cumsum", "cumsum_", "embedding_bag"),
    *("adaptive_avg_pool2d_backward", "_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward"),
    *("upsample_linear1d_backward", "upsample_bilinear2d_backward", "upsample_bicubic2d_backward"),
    *("reflection_pad2d_backward", "replication_pad2d_backward", "grid_sampler_2d_backward", "nll_loss2d_backward"),
}


# Cases whose steps compute in double precision on the device, which not every device has: mixing of negatives, and
# losses of distances.
IN_DOUBLE = ("mochi", "contrastive", "triplet", "lifted", "margin")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_step_waits_for_nothing_and_has_an_order(case: Case) -> None:
    in_double = 0
    for part, operations in operations_of(case).items():
        names = operations.names.keys()
        assert not WITHOUT_ORDER & names, f"{part} has {sorted(WITHOUT_ORDER & names)}"
        in_double += operations.in_double
    assert bool(in_double) == case.name.removeprefix("xbm_").removeprefix("metric_").startswith(IN_DOUBLE)


@pytest.mark.parametrize("name", ["spcl", "instdisc_nce"])
def test_writing_memory_takes_as_many_operations_for_any_batch(name: str) -> None:
    (case,) = (case for case in CASES if case.name == name)
    counts = set()
    for size in (64, 128, 256):
        step = Step(case, before=1, batch_size=size)
        views, batch = step.batch()
        with step.counting():
            out = step.run.method(views, batch)
        with step.counting() as operations:
            step.run.method.after_step(out.update, 0.5)
        counts.add(operations.names.total())
    assert len(counts) == 1
    assert counts.pop() < 30
