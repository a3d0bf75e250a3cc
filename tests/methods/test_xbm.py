from copy import deepcopy

import pytest
import torch
from torch import nn

from selfsup.batch import Batch
from selfsup.methods import pair_losses as losses
from selfsup.methods import xbm
from selfsup.methods.base import RunContext
from selfsup.methods.metric import Metric
from selfsup.methods.xbm import XBM
from tests.contracts.naive_metric import xbm_loss
from tests.support.figures import assert_agree, golden
from tests.support.toys import toy
from tests.support.waiting import no_waits

CONTEXT = RunContext(num_images=40, batch_size=6, seed=0, num_classes=4, num_views=1, view_size=(8, 8), per_class=2)
LOSSES = {
    "contrastive": losses.Contrastive.Config(),
    "similarity_contrastive": losses.SimilarityContrastive.Config(),
    "triplet_all": losses.Triplet.Config(mining="all"),
    "triplet_semihard": losses.Triplet.Config(),
    "triplet_hard": losses.Triplet.Config(mining="hard"),
    "n_pair": losses.NPair.Config(norm_weight=0.1),
    "lifted": losses.Lifted.Config(),
    "lifted_generalized": losses.Lifted.Config(generalized=True),
    "circle": losses.Circle.Config(scale=8.0),
    "circle_batch": losses.Circle.Config(scale=8.0, over="batch"),
    "multi_similarity": losses.MultiSimilarity.Config(),
    "margin": losses.Margin.Config(),
}


class Identity(nn.Module):
    feature_dim = 128

    def forward(self, x):
        return x


def build(loss=None, encoder=None, context=CONTEXT, **settings):
    torch.manual_seed(0)
    settings = {"memory_size": 14, "memory_start": 2, "output_dim": 8, "drift_every": 0, **settings}
    loss = loss or losses.SimilarityContrastive.Config()
    return XBM.Config(loss=loss, **settings).build(encoder or toy(False), context)


def batch(step, views=1):
    generator = torch.Generator().manual_seed(step)
    indices = torch.randperm(40, generator=generator)[:6]
    images = [torch.randn(6, 3, 8, 8, generator=generator) for _ in range(views)]
    return images, Batch(torch.zeros(6, 1), indices % 4, indices)


def train(method, steps, views=1):
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    values = []
    for number in steps:
        images, part = batch(number, views)
        step = method([image.to(method.steps.device) for image in images], part)
        optimizer.zero_grad()
        step.loss.backward()
        optimizer.step()
        method.after_step(step.update, 0.0)
        values.append(step.loss.detach())
    return values


@pytest.mark.parametrize("rows", [1, 4, 100])  # anchors that are compared with the memory at a time, of 6 or 12
@pytest.mark.parametrize("steps", [3, 7])  # a memory of 14 that holds one batch of 6, and one that has wrapped
@pytest.mark.parametrize("name", LOSSES)
def test_loss_equals_the_naive_loop(name, steps, rows, monkeypatch):
    views = 2 if name in ("margin", "n_pair") else 1
    monkeypatch.setattr(xbm, "_PAIRS", rows * (14 + 6 * views))
    method = build(LOSSES[name], context=CONTEXT._replace(num_views=views)).double()
    generator = torch.Generator().manual_seed(steps)
    for number in range(steps):  # memory as random features would have filled it
        features = torch.nn.functional.normalize(torch.randn(6, views, 8, generator=generator), dim=2).double()
        _, part = batch(number)
        update = {"features": features, "indices": part.indices, "labels": part.labels, "views": torch.zeros(0)}
        method.after_step(update, 0.0)
    assert method.queue.filled == min(6 * views * (steps - 2), 14)
    unit = torch.nn.functional.normalize(torch.randn(views, 6, 8, generator=generator, dtype=torch.float64), dim=2)
    embeddings = [row.requires_grad_() for row in unit.unbind()]
    images, part = batch(steps, views)
    step = method.objective(embeddings, images, part)
    expected = xbm_loss(method, embeddings, part, step.update)
    assert step.metrics["loss_memory"].abs() > 1e-3
    assert_agree(step.loss, expected, 1e-10)
    leaves = [*embeddings, *(p for p in method.loss.parameters() if p.requires_grad)]
    for ours, naive in zip(torch.autograd.grad(step.loss, leaves), torch.autograd.grad(expected, leaves), strict=True):
        assert_agree(ours, naive, 1e-10)


def test_golden():
    """The published order, enqueue then loss, without writing: losses, gradients, and the memory before it wraps."""
    g = golden("xbm_pair")
    context = RunContext(
        num_images=32, batch_size=8, seed=0, num_classes=int(g["y"].max()) + 1, num_views=1, per_class=2
    )
    method = build(encoder=Identity(), context=context, memory_size=int(g["K"]), memory_start=0, output_dim=128)
    method = method.double()
    for step in range(4):
        x, y = g["x"][step].double().requires_grad_(), g["y"][step]
        part = Batch(torch.zeros(8, 1), y, torch.arange(8) + 8 * step)
        out = method.objective([x], [x], part)
        assert_agree(out.metrics["loss_batch"], g["loss_batch"][step], 1e-12)
        if step < 2:  # the third batch does not fit: published it is written to the last places, here it wraps
            assert_agree(out.metrics["loss_memory"], g["loss_memory"][step], 1e-12)
            gradient = torch.autograd.grad(out.loss, x)[0]
            assert_agree(gradient, g["grad_batch"][step] + g["grad_memory"][step], 1e-12)
        method.after_step(out.update, 0.0)
        if step < 2:
            valid = int(g["num_valid"][step])
            assert method.queue.filled == valid
            assert_agree(method.queue.features[:valid], g["memory"][step][:valid], 1e-12)
            assert torch.equal(method.queue.labels[:valid], g["memory_labels"][step][:valid].long())
            assert method.queue.pointer == g["ptr"][step]


def test_memory_of_the_loss_is_that_after_the_step():
    """The virtual memory holds the same images as the real one once it has been written, wrap and warm-up included."""
    method = build(context=CONTEXT._replace(num_views=2))
    for number in range(6):
        images, part = batch(number, 2)
        embeddings = [method.embed(image) for image in images]
        pairs = method.remembered(method.pairs(embeddings, part))
        stands = (pairs.positive | pairs.negative).any(dim=0)
        update = method.objective(embeddings, images, part).update
        method.after_step(update, 0.0)
        filled = int(method.queue.filled)
        assert filled == (0 if number < 2 else min(14, 12 * (number - 1)))
        if filled:
            seen = pairs.references[stands]
            assert len(seen) == filled
            for row in method.queue.features[:filled]:
                assert (seen - row).abs().amax(dim=1).min() < 1e-7


def test_warm_up_is_metric_learning():
    xbm, metric = build(memory_start=3), Metric.Config(loss=losses.SimilarityContrastive.Config(), output_dim=8)
    torch.manual_seed(0)
    metric = metric.build(toy(False), CONTEXT)
    with_memory, without = train(xbm, range(5)), train(metric, range(5))
    assert with_memory[:3] == without[:3]
    assert with_memory[3] > without[3] + 1e-3
    assert xbm.queue.filled == 12


def test_forward_writes_nothing():
    method = build(drift_every=1)
    train(method, range(4))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    images, part = batch(9)
    step = method(images, part)
    step.loss.backward()
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    assert not any(value.requires_grad for value in (*step.update.values(), *step.metrics.values()))


def test_memory_is_constant_and_knows_itself():
    """No gradient from the memory's rows, and an anchor is neither its own positive nor its own negative."""
    method = build(memory_start=0)
    train(method, range(5))
    _, part = batch(7)
    rows = torch.nn.functional.normalize(torch.randn(6, 8), dim=1).requires_grad_()
    pairs = method.pairs([rows], part)
    remembered = method.remembered(pairs)
    assert not (remembered.positive & remembered.negative).any()
    itself = torch.eye(6, dtype=torch.bool)
    assert not (remembered.positive | remembered.negative)[:, 14:][itself].any()
    assert (remembered.positive | remembered.negative)[:, 14:][~itself].all()
    assert not remembered.references.requires_grad
    assert remembered.positive[:, :14].any()


def test_drift_is_the_mean_squared_move_of_kept_images():
    encoder = toy(True)
    method = build(encoder=encoder, drift_every=3, drift_images=4)
    images, _ = batch(0)
    before = None
    for number in range(8):
        drift = float(method.feature_drift)
        train(method, [number])
        measured = number % 3 == 0
        assert (float(method.feature_drift) != drift) == (measured and number > 0)
        if measured:
            still = deepcopy(method).eval()
            with torch.no_grad():
                now = still.embed(images[0][:4])
            if before is not None:
                assert_agree(method.feature_drift, (now - before).square().sum(dim=1).mean(), 1e-5)
                assert method.feature_drift > 0
            before = now
        assert method.training
    assert torch.equal(method.drift_views, images[0][:4])
    images, part = batch(8)
    assert method(images, part).metrics["feature_drift"] == method.feature_drift


@pytest.mark.parametrize("stop", [1, 3, 5])  # in the warm-up, at a measurement of drift, after it
def test_resumed_run_equals_the_straight_one(stop):
    def fresh():
        return build(LOSSES["margin"], encoder=toy(True), drift_every=3)

    straight, first, second = fresh(), fresh(), fresh()
    values = train(straight, range(8))
    train(first, range(stop))
    train(second, range(2))  # what it has counted must be forgotten
    second.load_state_dict(first.state_dict())
    assert train(second, range(stop, 8)) == values[stop:]
    state = second.state_dict()
    assert all(torch.equal(state[name], value) for name, value in straight.state_dict().items())


@pytest.mark.gpu
def test_a_step_never_waits_for_the_device():
    method = build(losses.Margin.Config(), drift_every=2).cuda()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    batches = [batch(step) for step in range(4)]
    on_device = [([image.cuda() for image in images], part) for images, part in batches]
    for step, (images, part) in enumerate(on_device):
        with no_waits(step > 0):  # the first one starts libraries
            with torch.autocast("cuda", torch.bfloat16):
                out = method(images, part)
            out.loss.backward()
            optimizer.step()
            method.after_step(out.update, 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory_size": 5}, "memory_size is 5, smaller than the 6 embeddings of one step"),
        ({"memory_size": 0}, "memory_size is 0"),
        ({"memory_weight": 0.0}, "memory_weight is 0.0"),
        ({"memory_start": -1}, "memory_start is -1"),
        ({"drift_images": 0}, "drift_images is 0"),
        ({"loss": losses.Proxy.Config()}, "Proxy compares images with learnt proxies"),
        ({"context": CONTEXT._replace(num_views=3)}, "smaller than the 18 embeddings"),
    ],
)
def test_what_cannot_work_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        build(**change)
