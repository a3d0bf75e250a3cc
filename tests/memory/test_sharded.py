"""A memory shared among processes is the whole one: the same losses, gradients and rows."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.distributed import gather, mean_over_processes, rank, scatter_sum
from selfsup.losses.cluster import cluster_nce
from selfsup.memory import hybrid
from selfsup.memory.bank import ShardedBank
from selfsup.memory.hybrid import ShardedHybridMemory
from selfsup.memory.sharded import sharded
from selfsup.training.state import load_whole_state, whole_state
from tests.contracts.case import Case, Run
from tests.contracts.cases import CASES
from tests.support.processes import run_processes

STEPS = 8
NAMES = ("instdisc_nce", "instdisc_softmax", "instdisc_half", "spcl", "spcl_domains")


def case(name: str, shard: bool) -> Case:
    found = next(case for case in CASES if case.name == name)
    field = "shard_memory" if name.startswith("spcl") else "shard_bank"
    # Without batch norm, so that three processes with a third of the batch each are one.
    return replace(found, config=replace(found.config, **{field: shard}), batch_norm=False)


def trained(name: str, shard: bool) -> dict[str, Any]:
    """Losses, gradients of the last step and, in the first process, the whole state after it."""
    run = Run(case(name, shard), dtype=torch.float64)
    losses = []
    for step in range(STEPS):
        run.begin_epoch(step)
        out = run.backward(step)
        gradients = run.gradients()
        run.finish(step, out)
        losses.append(torch.stack([out.loss.detach(), out.metrics["accuracy"]]))
    state = whole_state(run.method)
    own = sum(memory.own_count for memory in sharded(run.method).values())
    return {
        "losses": mean_over_processes(torch.stack(losses)),
        "gradients": gradients,
        "state": {key: value.clone() for key, value in state.items()} if rank() == 0 else {},
        "own": torch.tensor(own),
    }


def all_trained(shard: bool) -> dict[str, dict[str, Any]]:
    return {name: trained(name, shard) for name in NAMES}


@pytest.fixture(scope="module")
def one() -> dict[str, dict[str, Any]]:
    return all_trained(False)


@pytest.fixture(scope="module", params=[1, 2, 4])
def several(request: pytest.FixtureRequest) -> list[dict[str, dict[str, Any]]]:
    world: int = request.param
    return [all_trained(True)] if world == 1 else run_processes(world, all_trained, True)


@pytest.mark.parametrize("name", NAMES)
def test_several_processes_hold_one_memory(
    name: str, one: dict[str, dict[str, Any]], several: list[dict[str, dict[str, Any]]]
) -> None:
    whole, parts = one[name], [process[name] for process in several]
    rows = len(whole["state"]["memory.features" if name.startswith("spcl") else "bank.features"])
    assert sum(int(part["own"]) for part in parts) == rows
    for part in parts:
        assert int(part["own"]) < rows or len(parts) == 1
        torch.testing.assert_close(part["losses"], whole["losses"], rtol=1e-9, atol=1e-12)
        for key, value in whole["gradients"].items():
            torch.testing.assert_close(part["gradients"][key], value, rtol=1e-9, atol=1e-12)
    assert parts[0]["state"].keys() == whole["state"].keys()
    for key, value in whole["state"].items():
        torch.testing.assert_close(parts[0]["state"][key], value, rtol=1e-9, atol=1e-9)


def bank_operations() -> dict[str, Tensor]:
    """What three processes do with a bank of ten rows of which one image comes twice."""
    bank = ShardedBank(10, 4, seed=3)
    before = bank.whole()
    indices = torch.tensor([9, 2, 2, 0, 5, 9]).view(3, 2)[rank()]
    features = F.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0))).view(3, 2, 4)[rank()]
    fetched = bank.rows(indices)
    bank.update(gather(indices), gather(features), 0.3, repeats=2)
    after = bank.whole()
    bank.take(before)
    return {
        "first": torch.empty(0) if before is None else before,
        "fetched": fetched,
        "after": torch.empty(0) if after is None else after,
        "own": bank.features,
    }


def test_rows_are_found_moved_and_put_back() -> None:
    bank = ShardedBank(10, 4, seed=3)  # of one process, which holds all
    indices = torch.tensor([9, 2, 2, 0, 5, 9])
    features = F.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    first = bank.features.clone()
    parts = run_processes(3, bank_operations)
    assert torch.equal(parts[0]["first"], first)
    assert torch.equal(torch.cat([part["fetched"] for part in parts]), first[indices])
    bank.update(indices, features, 0.3, repeats=2)
    torch.testing.assert_close(parts[0]["after"], bank.features)
    assert torch.equal(torch.cat([part["own"] for part in parts]), first)
    assert [len(part["own"]) for part in parts] == [3, 3, 4]


def hybrid_operations(labels: Tensor) -> dict[str, Tensor]:
    memory = ShardedHybridMemory(8, 4).double()
    rows = F.normalize(torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).double())
    memory.initialise(rows, torch.arange(8))
    memory.relabel(labels)
    embeddings = F.normalize(torch.randn(4, 4, generator=torch.Generator().manual_seed(2)).double())
    own = embeddings.chunk(2)[rank()].requires_grad_()
    loss, accuracy = memory.loss(own, torch.tensor([7, 0, 3, 4]).chunk(2)[rank()], 0.5)
    loss.sum().backward()
    whole = memory.whole()
    assert own.grad is not None
    return {
        "loss": loss.detach(),
        "gradient": own.grad,
        "accuracy": accuracy,
        "own": torch.tensor(memory.own_count),
        "rows": rows if whole is None else whole,
    }


# The first leaves one process nothing.
CLUSTERS = torch.tensor(
    [
        [0] * 8,
        [0, 0, 0, 0, 0, 1, 2, 3],
        [3, 1, 1, 0, 2, 2, 2, 2],
        list(range(8)),
    ]
)


def all_clusters(scores: int) -> list[dict[str, Tensor]]:
    hybrid._SCORES = scores
    return [hybrid_operations(labels) for labels in CLUSTERS]


@pytest.mark.parametrize("scores", [2**26, 8])  # all rows at a time, and two
def test_a_cluster_lies_in_one_process(scores: int) -> None:
    several = run_processes(2, all_clusters, scores)
    rows = F.normalize(torch.randn(8, 4, generator=torch.Generator().manual_seed(1)).double())
    for labels, *parts in zip(CLUSTERS, *several, strict=True):
        embeddings = F.normalize(torch.randn(4, 4, generator=torch.Generator().manual_seed(2)).double())
        embeddings.requires_grad_()
        losses, accuracy = cluster_nce(embeddings, rows, labels, labels[[7, 0, 3, 4]], 0.5)
        losses.sum().backward()
        torch.testing.assert_close(torch.cat([part["loss"] for part in parts]), losses.detach())
        torch.testing.assert_close(torch.cat([part["gradient"] for part in parts]), embeddings.grad)
        torch.testing.assert_close(torch.stack([part["accuracy"] for part in parts]).mean(), accuracy)
        # In the order of their numbers, wherever they lie.
        torch.testing.assert_close(parts[0]["rows"], rows, rtol=0, atol=1e-15)
        first, second = (int(part["own"]) for part in parts)
        assert first + second == 8
        ordered = labels.sort().values
        assert first in (0, 8) or ordered[first - 1] != ordered[first]


def transposed() -> dict[str, Tensor]:
    x = torch.arange(6.0).view(6, 1).requires_grad_()
    y = (x * (rank() + 1)) ** 2
    own = scatter_sum(y)
    (own * torch.tensor([[1.0], [10.0]]) * (rank() + 1)).sum().backward()
    assert x.grad is not None
    return {"own": own.detach(), "gradient": x.grad}


def test_the_sum_that_each_keeps_its_rows_of() -> None:
    parts = run_processes(3, transposed)
    x = torch.arange(6.0).view(6, 1)
    assert torch.equal(torch.cat([part["own"] for part in parts]), (1 + 4 + 9) * x**2)
    weights = torch.tensor([1.0, 10.0]).repeat(3)[:, None] * torch.tensor([1.0, 1, 2, 2, 3, 3])[:, None]
    for number, part in enumerate(parts):
        torch.testing.assert_close(part["gradient"], weights * 2 * x * (number + 1) ** 2)


def gone_on(name: str, saved: dict[str, Tensor]) -> dict[str, Any]:
    """From the state in mid-epoch to the end, in this world."""
    run = Run(case(name, True), dtype=torch.float64, seed=5)
    load_whole_state(run.method, saved)
    for step in range(4, STEPS):
        run.step(step)
    state = whole_state(run.method)
    return {key: value.clone() for key, value in state.items()} if rank() == 0 else {}


@pytest.mark.parametrize("name", ["instdisc_nce", "spcl"])
def test_a_run_goes_on_with_another_number_of_processes(name: str, one: dict[str, dict[str, Any]]) -> None:
    run = Run(case(name, False), dtype=torch.float64)
    for step in range(4):
        run.step(step)
    parts = run_processes(2, gone_on, name, run.state())
    for key, value in one[name]["state"].items():
        torch.testing.assert_close(parts[0][key], value, rtol=1e-9, atol=1e-9)
