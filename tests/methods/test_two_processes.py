"""N processes equal one: the same global batches on one process with 64 rows and on two with 32 each."""

from functools import cache

import pytest
import torch
from figures import assert_agree
from processes import run_processes
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from toys import global_batch, toy

from selfsup.data.batch import Batch
from selfsup.distributed import gather, is_distributed, mean_over_processes, rank, world_size
from selfsup.losses.contrastive import unit
from selfsup.methods.base import Problem
from selfsup.methods.moco import MoCo
from selfsup.methods.simclr import SimCLR
from selfsup.models.heads import Head
from selfsup.models.norm import SyncBatchNorm

PROBLEM = Problem(num_images=1000, batch_size=64, seed=0)
# The queue is a multiple neither of the batch nor of its half.
MOCO = {"queue_size": 100, "momentum": 0.9, "head": Head.Config(output_dim=8)}
# What is run, with batch norm or without, in which precision: in double, equality shows to the last few digits.
RUNS = {
    "simclr": (SimCLR.Config(temperature=0.5), True, torch.float32),
    "simclr_tiled": (SimCLR.Config(temperature=0.5, tile=20), True, torch.float64),
    "moco": (MoCo.Config(batch_norm="plain", **MOCO), False, torch.float32),
    "moco_sync": (MoCo.Config(batch_norm="sync", **MOCO), True, torch.float64),
    "moco_symmetric": (
        MoCo.Config(batch_norm="plain", symmetric=True, **{**MOCO, "queue_size": 200}),
        False,
        torch.float64,
    ),
    "moco_shuffle": (MoCo.Config(batch_norm="auto", **MOCO), True, torch.float32),
}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def local(rows):
    size = len(rows) // world_size()
    return rows[rank() * size : (rank() + 1) * size]


def train(config, batch_norm, dtype, steps=20):
    """Losses (mean over processes), gradients of the first step, and the state at the end."""
    torch.manual_seed(0)
    method = config.build(toy(batch_norm), PROBLEM).to(dtype)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.02)
    model = DistributedDataParallel(method, broadcast_buffers=False) if is_distributed() else method
    losses, gradients = [], {}
    for step in range(steps):
        views, batch = global_batch(step, 64)
        out = model([local(view).to(dtype) for view in views], Batch(*(local(part) for part in batch[:3])))
        optimizer.zero_grad()
        out.loss.backward()
        if step == 0:
            gradients = {name: p.grad.clone() for name, p in method.named_parameters() if p.requires_grad}
        optimizer.step()
        method.after_step(out.update, step / steps)
        losses.append(mean_over_processes(out.loss.detach()))
    return {"losses": torch.stack(losses), "gradients": gradients, "state": method.state_dict()}


@cache
def one_process(name):
    return train(*RUNS[name])


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
        "runs": {name: train(*run) for name, run in RUNS.items()},
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


@pytest.mark.parametrize("name", [name for name in RUNS if name != "moco_shuffle"])
def test_training_equals_one_process(two, name):
    one, tolerance = one_process(name), TOLERANCE[RUNS[name][2]]
    for result in two:
        run = result["runs"][name]
        assert_agree(run["losses"], one["losses"], tolerance)
        for parameter, gradient in one["gradients"].items():
            if parameter == "encoder.conv.bias" and RUNS[name][1]:
                continue  # rounding: batch norm follows
            assert_agree(run["gradients"][parameter], gradient, tolerance, parameter)
    assert (one["losses"][0] - one["losses"][-1]).abs() > 1e-2  # it moved


@pytest.mark.parametrize("name", RUNS)
def test_replicas_are_identical(two, name):
    """Bit for bit; with shuffled batch norm each keeps statistics of its own, as published."""
    a, b = (result["runs"][name]["state"] for result in two)
    different = {key for key in a if not torch.equal(a[key], b[key])}
    own = {
        f"{encoder}.norm.{kind}" for encoder in ("encoder", "key_encoder") for kind in ("running_mean", "running_var")
    }
    assert different == (own if name == "moco_shuffle" else set())
    if name.startswith("moco"):
        assert a["queue.pointer"] == 20 * 64 * (2 if "symmetric" in name else 1) % len(a["queue.indices"])


@pytest.mark.parametrize("name", ["moco", "moco_symmetric"])
def test_queue_equals_that_of_one_process(two, name):
    one = one_process(name)["state"]
    for result in two:
        assert torch.equal(result["runs"][name]["state"]["queue.indices"], one["queue.indices"])
        assert_agree(
            result["runs"][name]["state"]["queue.features"], one["queue.features"], 10 * TOLERANCE[RUNS[name][2]]
        )


def test_shuffled_keys_return_to_their_rows(two):
    for result in two:
        shuffle = result["shuffle"]
        torch.testing.assert_close(shuffle["method_False"], shuffle["direct_False"])
        # With batch norm the company counts, and the shuffle has changed it.
        assert (shuffle["method_True"] - shuffle["direct_True"]).abs().max() > 1e-3
        assert nn.functional.cosine_similarity(shuffle["method_True"], shuffle["direct_True"]).min() > 0.8
