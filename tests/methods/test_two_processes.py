"""What two processes do together: gather, batch norm, keys. (That they train as one is in tests/contracts.)"""

import pytest
import torch
from torch import nn

from selfsup.distributed import gather, rank, sum_over_processes, world_size
from selfsup.losses.contrastive import l2_normalize
from selfsup.methods.base import RunContext
from selfsup.methods.moco import MoCo
from selfsup.models.domain_norm import DomainBatchNorm
from selfsup.models.heads import Head
from selfsup.models.norm import SyncBatchNorm, average_running_statistics, convert, depends_on_processes
from tests.support.figures import assert_agree
from tests.support.processes import run_processes
from tests.support.toys import global_batch, toy

CONTEXT = RunContext(num_images=1000, batch_size=64, seed=0)
# The queue is a multiple neither of the batch nor of its half.
MOCO = {"queue_size": 100, "momentum": 0.9, "head": Head.Config(output_dim=8)}


def local(rows):
    size = len(rows) // world_size()
    return rows[rank() * size : (rank() + 1) * size]


def gather_gradient():
    everything = torch.arange(12.0).reshape(6, 2)
    mine = local(everything).clone().requires_grad_()
    weights = torch.arange(72.0).reshape(6, 12).sin()
    (local(weights) @ gather(mine).flatten().square()).mean().backward()
    return mine.grad


def batch_norm(kind, shape):
    """What a norm gives for this process's part of a batch, whose means rise from row to row."""
    torch.manual_seed(0)
    x, slopes = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    x = 3 * x + torch.arange(float(len(x))).view(-1, *[1] * (x.ndim - 1))
    norm = NORMS[kind](shape[1]).double()
    for parameter in norm.parameters():
        parameter.data.uniform_(0.5, 2)
    mine = local(x).clone().requires_grad_()
    y = norm(mine)
    (y * local(slopes)).sum().backward()
    average_running_statistics(norm)
    gradients = {name: sum_over_processes(parameter.grad) for name, parameter in norm.named_parameters()}
    return {"y": y.detach(), "x": mine.grad}, gradients | dict(norm.named_buffers())


NORMS = {
    "sync": SyncBatchNorm,
    "groups": lambda channels: convert(nn.BatchNorm2d(channels), "groups", 4 // world_size()),
    "domains": lambda channels: DomainBatchNorm(channels, synchronised=True),
    "split": lambda channels: convert(nn.BatchNorm2d(channels), "split", 2),
    "plain": nn.BatchNorm2d,
}
SHAPES = ((16, 3), (16, 3, 4, 5))
SAME_IN_ALL = ("sync", "groups", "domains")


def refused(**changes):
    """What is said of MoCo with these settings."""
    try:
        MoCo.Config(**MOCO, **changes).build(toy(True), CONTEXT)
    except ValueError as error:
        return str(error)
    return ""


def shuffled_keys():
    """The view's keys from two processes: by the method, and by hand in an arrangement that is known."""
    views, _ = global_batch(0, 64)
    results = {}
    for batch_norm in (False, True):
        torch.manual_seed(0)
        method = MoCo.Config(**MOCO, batch_norm="shuffle").build(toy(batch_norm), CONTEXT)
        mine = local(views[1])
        results[f"method_{batch_norm}"] = method.embed_keys(mine, 0)
        results[f"direct_{batch_norm}"] = l2_normalize(method.key_head(method.key_encoder(mine))).detach()
    return results


def key_groups():
    """The keys' company: images of the batch that each group of keys is normed with, and those of the queries."""
    method = MoCo.Config(**MOCO, batch_norm_splits=4).build(toy(True), CONTEXT)
    numbers = torch.arange(CONTEXT.batch_size, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    seen = []
    method.embed_key = lambda view: seen.append(view[:, 0, 0, 0]) or view.flatten(1)
    keys = method.embed_keys(local(numbers), 0)
    return {"own": gather(seen[0]).long(), "rows": keys[:, 0].long()}


def everything():
    return {
        "gather": gather_gradient(),
        "norms": {f"{kind}_{len(shape)}": list(batch_norm(kind, shape)) for kind in SAME_IN_ALL for shape in SHAPES},
        "shuffle": shuffled_keys(),
        "groups": key_groups(),
        "refused": refused(batch_norm_splits=3),
        "depends": {kind: depends_on_processes(NORMS[kind](3)) for kind in NORMS},
        "resolved": {
            "moco": MoCo.Config(**MOCO).build(toy(True), CONTEXT).resolved,
            "shuffle": MoCo.Config(**MOCO, batch_norm="shuffle").build(toy(True), CONTEXT).resolved,
        },
    }


@pytest.fixture(scope="module")
def two():
    return run_processes(2, everything)


def test_gather_gradient(two):
    # Two processes' means over their own rows sum to twice the mean over all.
    assert_agree(torch.cat([result["gather"] for result in two]), 2 * gather_gradient(), 1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", SAME_IN_ALL)
def test_batch_norm_of_two_processes_is_that_of_one(two, kind, shape):
    parts = [result["norms"][f"{kind}_{len(shape)}"] for result in two]
    rows, whole = batch_norm(kind, shape)
    for name, expected in rows.items():
        assert_agree(torch.cat([part[0][name] for part in parts]), expected, 1e-9, name)
    for name, expected in whole.items():
        for part in parts:
            assert_agree(part[1][name], expected, 1e-9, name)


def test_groups_are_of_consecutive_rows(two):
    """Each of the four groups is a batch norm of its own, over a quarter of the global batch."""
    x = torch.arange(16.0, dtype=torch.float64)[:, None] ** 2
    norm = NORMS["groups"](1).double()
    parts = [(part - part.mean()) / (part.var(correction=0) + norm.eps).sqrt() for part in x.chunk(4)]
    assert_agree(norm(x), torch.cat(parts), 1e-9)


def test_keys_are_shuffled_over_all_processes_before_their_groups_are_formed(two):
    """The same order in both, that of one process; no group of keys is one of queries; keys return to their rows."""
    order = key_groups()["own"]
    assert sorted(order.tolist()) == list(range(64))
    for result in two:
        assert result["groups"]["own"].tolist() == order.tolist()
    assert torch.cat([result["groups"]["rows"] for result in two]).tolist() == list(range(64))
    for group in order.chunk(4):
        assert len((group // 16).unique()) > 1, "a group of keys is a group of queries"


def test_groups_that_the_processes_cannot_share_are_refused(two):
    for result in two:
        assert "3 groups of the batch (batch_norm_splits), which 2 processes cannot share" in result["refused"]
        assert "start 1, 3 of them" in result["refused"]


def test_what_depends_on_processes_says_so(two):
    for result in two:
        assert result["depends"] == {kind: kind not in SAME_IN_ALL for kind in NORMS}
        assert result["resolved"]["moco"] == {"batch_norm": "groups"}
        assert result["resolved"]["shuffle"] == {"batch_norm": "shuffle", "processes": 2}


def test_shuffled_keys_return_to_their_rows(two):
    for result in two:
        shuffle = result["shuffle"]
        torch.testing.assert_close(shuffle["method_False"], shuffle["direct_False"])
        # With batch norm the company counts, and the shuffle has changed it.
        assert (shuffle["method_True"] - shuffle["direct_True"]).abs().max() > 1e-3
        assert nn.functional.cosine_similarity(shuffle["method_True"], shuffle["direct_True"]).min() > 0.8
