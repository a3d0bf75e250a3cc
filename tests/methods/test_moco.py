from collections import OrderedDict
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

from selfsup.batch import Batch
from selfsup.losses.contrastive import contrast_logits, info_nce, l2_normalize
from selfsup.memory.ema import ema_update
from selfsup.methods.base import RunContext
from selfsup.methods.moco import MoCo
from selfsup.methods.simclr import SimCLR
from selfsup.models.heads import Head
from selfsup.optim.optimizers import LARS
from tests.support.figures import assert_agree, golden
from tests.support.toys import global_batch, toy
from tests.support.waiting import no_waits

CONTEXT = RunContext(num_images=1000, batch_size=16, seed=0)
SMALL = MoCo.Config(queue_size=64, momentum=0.9, head=Head.Config(output_dim=8))


def with_dim(encoder, dim):
    encoder.feature_dim = dim
    return encoder


# Encoder, head, and where the golden figures' parameters stand in the method.
CASES = {
    "moco_steps": (lambda: with_dim(nn.Identity(), 20), 0, {"fc": "head.layers.0.0"}),
    "moco_mlp_steps": (
        lambda: with_dim(nn.Identity(), 20),
        1,
        {"fc_0": "head.layers.0.0", "fc_2": "head.layers.1.0"},
    ),
    "moco_bn_steps": (
        lambda: with_dim(
            nn.Sequential(
                OrderedDict(hidden=nn.Linear(20, 24), bn=nn.BatchNorm1d(24), relu=nn.ReLU()),
            ),
            24,
        ),
        0,
        {"hidden": "encoder.hidden", "bn": "encoder.bn", "fc": "head.layers.0.0"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    g = golden(case)
    make_encoder, layers, places = CASES[case]
    config = MoCo.Config(
        queue_size=16,
        momentum=float(g["m"]),
        temperature=float(g["T"]),
        head=Head.Config(hidden_layers=layers, output_dim=12),
        batch_norm="plain",
    )
    method = config.build(make_encoder(), RunContext(num_images=24, batch_size=8, seed=0))
    names = {f"{old}_{kind}": f"{new}.{kind}" for old, new in places.items() for kind in ("weight", "bias")}
    parameters = dict(method.named_parameters())
    with torch.no_grad():
        for old, new in names.items():
            parameters[new].copy_(g[f"q0_{old}"])
            parameters[f"key_{new}"].copy_(g[f"k0_{old}"])
        method.queue.features.copy_(g["queue0"].T)
    # The published code moves the key encoder at the start of a step, ours at the end of the one before: the first
    # step's move, which counts here because the two encoders start apart, has no step before it.
    ema_update(method.key_encoder, method.encoder, config.momentum)
    ema_update(method.key_head, method.head, config.momentum)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=float(g["lr"]))
    for step in range(3):
        batch = Batch(torch.zeros(8, 1), torch.zeros(8).long(), torch.arange(8) + 8 * step)
        views = [g["im_q"][step], g["im_k"][step]]
        memory = method.queue.features.clone()
        with torch.no_grad():
            queries, keys = (
                l2_normalize(head(encoder(view)))
                for view, encoder, head in (
                    (views[0], deepcopy(method.encoder), method.head),
                    (views[1], deepcopy(method.key_encoder), method.key_head),
                )
            )
        assert_agree(contrast_logits(queries, keys, memory, config.temperature), g["logits"][step], 1e-5)
        out = method(views, batch)
        assert_agree(out.loss, g["loss"][step], 1e-5)
        optimizer.zero_grad()
        out.loss.backward()
        for old, new in names.items():
            gradient, expected = parameters[new].grad, g[f"grad_{old}"][step]
            if old == "hidden_bias":  # zero up to rounding, as batch norm follows
                assert (gradient - expected).abs().max() < 1e-6
            else:
                assert_agree(gradient, expected, 1e-5, old)
            assert_agree(parameters[f"key_{new}"], g[f"k_{old}"][step], 1e-5, old)
        optimizer.step()
        method.after_step(out.update, 0.0)
        for old, new in names.items():
            assert_agree(parameters[new], g[f"q_{old}"][step], 1e-5, old)
        assert_agree(method.queue.features, g["queue"][step].T, 1e-5)
        assert method.queue.pointer == g["ptr"][step]
        if "q_bn_running_mean" in g:
            for side, encoder in (("q", method.encoder), ("k", method.key_encoder)):
                assert_agree(encoder.bn.running_mean, g[f"{side}_bn_running_mean"][step], 1e-5)
                assert_agree(encoder.bn.running_var, g[f"{side}_bn_running_var"][step], 1e-5)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("batch_norm", ["plain", "split", "groups"])
def test_forward_writes_nothing_but_batch_norm_statistics(symmetric, batch_norm):
    config = MoCo.Config(queue_size=64, head=Head.Config(output_dim=8), symmetric=symmetric, batch_norm=batch_norm)
    method = config.build(toy(True), CONTEXT)
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    step = method(*global_batch(0, 16))
    step.loss.backward()
    changed = {name for name, tensor in method.state_dict().items() if not torch.equal(tensor, before[name])}
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {f"{encoder}.norm.{kind}" for encoder in ("encoder", "key_encoder") for kind in kinds}
    for name, parameter in method.named_parameters():
        assert parameter.requires_grad != name.startswith("key_")
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert not any(tensor.requires_grad for tensor in (*step.update.values(), *step.metrics.values()))


def test_only_the_encoders_run_in_half_precision():
    method = SMALL.build(toy(True), CONTEXT)
    seen = []
    for module in (method.encoder.conv, method.key_encoder.conv):
        module.register_forward_hook(lambda module, args, out: seen.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        step = method(*global_batch(0, 16))
    assert seen == [torch.bfloat16] * 2
    assert {step.loss.dtype, *(metric.dtype for metric in step.metrics.values())} == {torch.float32}
    assert step.update["keys"].dtype == torch.float32
    assert_agree(step.loss, SMALL.build(toy(True), CONTEXT)(*global_batch(0, 16)).loss, 0.2)


@pytest.mark.gpu
@pytest.mark.parametrize("config", [SMALL, MoCo.Config(queue_size=64, symmetric=True), SimCLR.Config()])
def test_a_step_never_waits_for_the_device(config):
    method = config.build(toy(True), CONTEXT).cuda()
    optimizer = LARS.Config().build(method.named_parameters(), 16)
    batches = [global_batch(step, 16) for step in range(3)]
    on_device = [([view.cuda() for view in views], batch) for views, batch in batches]
    for step, (views, batch) in enumerate(on_device):
        with no_waits(step > 0):  # the first one starts libraries
            with torch.autocast("cuda", torch.bfloat16):
                out = method(views, batch)
            out.loss.backward()
            optimizer.step()
            method.after_step(out.update, 0.0)


def test_older_keys_of_the_same_image_do_not_count():
    method = SMALL.build(toy(False), CONTEXT)
    views, batch = global_batch(0, 16)
    method.after_step(method(views, batch).update, 0.0)
    assert torch.equal(method.queue.indices[:16], batch.indices)
    again = method(views, batch)
    queries, keys = method.embed(views[0]), method.embed_keys(views[1], 0)
    expected, _ = info_nce(queries[:1], keys[:1], method.queue.features[1:], 0.2)
    for row in range(1, 16):
        rest = torch.arange(64) != row
        loss, _ = info_nce(queries[row : row + 1], keys[row : row + 1], method.queue.features[rest], 0.2)
        expected = expected + loss
    assert_agree(again.loss, expected / 16, 1e-5)


def test_symmetric_is_both_ways_and_pushes_both_views():
    config = MoCo.Config(queue_size=64, head=Head.Config(output_dim=8), symmetric=True)
    method = config.build(toy(False), CONTEXT)
    (first, second), batch = global_batch(0, 16)
    step = method([first, second], batch)
    one_way = MoCo.Config(queue_size=64, head=Head.Config(output_dim=8)).build(toy(False), CONTEXT)
    one_way.load_state_dict(method.state_dict())
    losses = [one_way([a, b], batch).loss for a, b in ((first, second), (second, first))]
    assert_agree(step.loss, losses[0] + losses[1], 1e-5)
    keys = torch.cat([l2_normalize(method.key_head(method.key_encoder(view))) for view in (first, second)])
    method.after_step(step.update, 0.0)
    torch.testing.assert_close(method.queue.features[:32], keys)
    assert torch.equal(method.queue.indices[:32], batch.indices.repeat(2))
    assert method.queue.pointer == 32


@pytest.mark.parametrize("batch_norm", ["plain", "split", "groups"])
def test_keys_return_to_their_rows(batch_norm):
    """Without batch norm a key depends on its own image alone, so any permutation must have been undone."""
    method = MoCo.Config(queue_size=64, batch_norm=batch_norm).build(toy(False), CONTEXT)
    view = global_batch(0, 16)[0][0]
    direct = l2_normalize(method.key_head(method.key_encoder(view)))
    torch.testing.assert_close(method.embed_keys(view, 0), direct)


@pytest.mark.parametrize("batch_norm", ["split", "groups"])
def test_keys_share_batch_norm_with_others_at_every_step(batch_norm):
    """Which images a key is normed with changes with the step, and differs from its query's part of the batch."""
    method = replace(SMALL, batch_norm=batch_norm).build(toy(True), CONTEXT)
    views, _ = global_batch(0, 16)
    keys = [method.embed_keys(views[1], 0)]
    keys.append(method.embed_keys(views[1], 0))
    assert torch.equal(keys[0], keys[1])
    keys.append(method.embed_keys(views[1], 1))
    method.steps += 1
    keys.append(method.embed_keys(views[1], 0))
    keys.append(l2_normalize(method.key_head(method.key_encoder(views[1]))))  # in the order of the queries
    for a in range(1, len(keys)):
        for b in range(a + 1, len(keys)):
            assert (keys[a] - keys[b]).abs().max() > 1e-3, (a, b)


def test_resumed_run_equals_the_straight_one():
    def run(method, steps):
        optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
        losses = []
        for step in steps:
            out = method(*global_batch(step, 16))
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
            method.after_step(out.update, 0.0)
            losses.append(out.loss.item())
        return losses

    straight, first = (SMALL.build(toy(True), CONTEXT) for _ in range(2))
    first.load_state_dict(straight.state_dict())
    losses = run(straight, range(8))
    run(first, range(4))
    second = SMALL.build(toy(True), CONTEXT)
    second.load_state_dict(first.state_dict())
    assert run(second, range(4, 8)) == losses[4:]
    assert straight.steps == second.steps == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queue_size": 8}, "queue_size is 8, smaller than the 16 keys"),
        ({"queue_size": 16, "symmetric": True}, r"smaller than the 32 keys of one step \(batch_size 16\)"),
        ({"batch_norm_splits": 5}, "a batch of 16 images cannot be divided into 5 equal groups"),
        ({"batch_norm_splits": 16}, "equal groups of at least 2.* multiple of 16 and at least 32"),
        ({"batch_norm_splits": 5, "batch_norm": "split"}, "16 images per process cannot be split into 5 equal parts"),
        ({"batch_norm": "shuffle"}, "needs several processes"),
        ({"momentum": 1.5}, "momentum is 1.5"),
        ({"temperature": -1.0}, "temperature is -1"),
    ],
)
def test_what_cannot_work_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MoCo.Config(**{"queue_size": 64, **change}).build(toy(True), CONTEXT)
