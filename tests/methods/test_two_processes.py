"""What two processes do together: gather, batch norm, shuffled keys. (That they train as one is in tests/contracts.)"""

import pytest
import torch
from figures import assert_agree
from processes import run_processes
from torch import nn
from toys import global_batch, toy

from selfsup.distributed import gather, rank, world_size
from selfsup.losses.contrastive import unit
from selfsup.methods.base import Problem
from selfsup.methods.moco import MoCo
from selfsup.models.heads import Head
from selfsup.models.norm import SyncBatchNorm

PROBLEM = Problem(num_images=1000, batch_size=64, seed=0)
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


def sync_batch_norm(shape):
    torch.manual_seed(0)
    x, slopes = torch.randn(shape) * 3 + 5, torch.randn(shape)
    norm = SyncBatchNorm(shape[1])
    norm.weight.data.uniform_(0.5, 2)
    mine = local(x).clone().requires_grad_()
    y = norm(mine)
    (y * local(slopes)).sum().backward()
    results = {"y": y.detach(), "x": mine.grad, "weight": norm.weight.grad, "bias": norm.bias.grad}
    return {**results, "running_mean": norm.running_mean, "running_var": norm.running_var}


def shuffled_keys():
    """The view's keys from two processes: by the method, and by hand in an arrangement that is known."""
    views, _ = global_batch(0, 64)
    results = {}
    for batch_norm in (False, True):
        torch.manual_seed(0)
        method = MoCo.Config(**MOCO).build(toy(batch_norm), PROBLEM)
        assert method.batch_norm == "shuffle"
        mine = local(views[1])
        results[f"method_{batch_norm}"] = method.embed_keys(mine, 0)
        results[f"direct_{batch_norm}"] = unit(method.key_head(method.key_encoder(mine))).detach()
    return results


def everything():
    return {
        "gather": gather_gradient(),
        "norm_1d": sync_batch_norm((8, 3)),
        "norm_2d": sync_batch_norm((8, 3, 4, 5)),
        "shuffle": shuffled_keys(),
    }


@pytest.fixture(scope="module")
def two():
    return run_processes(2, everything)


def test_gather_gradient(two):
    # Two processes' means over their own rows sum to twice the mean over all.
    assert_agree(torch.cat([result["gather"] for result in two]), 2 * gather_gradient(), 1e-6)


@pytest.mark.parametrize("shape", [(8, 3), (8, 3, 4, 5)])
def test_sync_batch_norm(two, shape):
    results = [result[f"norm_{1 if len(shape) == 2 else 2}d"] for result in two]
    one = sync_batch_norm(shape)
    for name in ("y", "x"):
        assert_agree(torch.cat([result[name] for result in results]), one[name], 1e-5, name)
    for name in ("weight", "bias"):
        assert_agree(results[0][name] + results[1][name], one[name], 1e-5, name)
    for name in ("running_mean", "running_var"):
        for result in results:
            assert_agree(result[name], one[name], 1e-6, name)


def test_shuffled_keys_return_to_their_rows(two):
    for result in two:
        shuffle = result["shuffle"]
        torch.testing.assert_close(shuffle["method_False"], shuffle["direct_False"])
        # With batch norm the company counts, and the shuffle has changed it.
        assert (shuffle["method_True"] - shuffle["direct_True"]).abs().max() > 1e-3
        assert nn.functional.cosine_similarity(shuffle["method_True"], shuffle["direct_True"]).min() > 0.8
