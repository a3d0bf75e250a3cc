import pytest
import torch
import torch.nn.functional as F
from torch import nn

from selfsup.batch import Batch
from selfsup.methods import spcl
from selfsup.methods.base import RunContext
from selfsup.methods.spcl import SpCL
from selfsup.models.domain_norm import DomainBatchNorm
from tests.contracts.naive_spcl import spcl_loss
from tests.support.figures import assert_agree, golden
from tests.support.toys import toy
from tests.support.waiting import no_waits

SMALL = SpCL.Config(k1=10, k2=3)
IMAGES = 60
CONTEXT = RunContext(num_images=IMAGES, batch_size=16, seed=0, num_views=1, per_class=4)
# The labelled domain is neither first nor last here, and one of its three classes has no image.
MIXED = torch.tensor([-1] * 5 + [0, 3, 1] * 6 + [-1] * (IMAGES - 23))
TWO = CONTEXT._replace(num_classes=4, labels=MIXED, two_domains=True)


class Features(nn.Identity):
    """An encoder that is given features."""

    feature_dim = 12


def scattered(groups, spread, count=IMAGES, seed=0):
    """Features in `groups` groups of equal size, image i in group i mod groups."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(groups, 16, generator=generator)
    return centers.repeat(-(-count // groups), 1)[:count] + spread * torch.randn(count, 16, generator=generator)


def started(config=SMALL, context=CONTEXT, features=None, batch_norm=True):
    method = config.build(toy(batch_norm), context)
    figures = method.before_epoch(0, lambda module: scattered(6, 0.4) if features is None else features)
    return method, figures


def batch_of(step, size=16, two=False):
    generator = torch.Generator().manual_seed(step)
    indices = torch.randint(IMAGES, (size,), generator=generator)  # an image may occur twice
    labels = torch.full((size,), -1)
    if two:
        source, target = (MIXED >= 0).nonzero().flatten(), (MIXED < 0).nonzero().flatten()
        indices[0::2], indices[1::2] = source[indices[0::2] % len(source)], target[indices[1::2] % len(target)]
        labels = MIXED[indices]
    images = torch.randn(size, 3, 8, 8, generator=generator)
    return [images], Batch(images.byte(), labels, indices)


def test_golden_through_the_method():
    """Two batches of the published memory: loss, gradient, and memory after the update."""
    g = golden("spcl_memory")
    config = SpCL.Config(temperature=float(g["tau"]), momentum=float(g["m"]), neck="none")
    method = config.build(Features(), CONTEXT._replace(num_images=30))
    method.memory.features.copy_(g["memory0"])
    method.memory.labels.copy_(g["labels"])
    for number in range(2):
        x = g["x"][number].clone().requires_grad_()
        step = method.objective([x], [], Batch(torch.zeros(8, 1), torch.full((8,), -1), g["idx"][number]))
        assert_agree(step.loss, g["loss"][number], 5e-6)
        step.loss.backward()
        assert_agree(x.grad, g["grad_x"][number], 5e-6)
        method.after_step(step.update, 0.0)
        assert_agree(method.memory.features, g["memory"][number], 5e-6)


@pytest.mark.parametrize("two", [False, True])
def test_loss_equals_the_naive_loop(two):
    config = SpCL.Config(k1=10, k2=3, domains="two" if two else "one")
    method = started(config, TWO if two else CONTEXT)[0].double()
    for number in range(3):
        views, batch = batch_of(number, two=two)
        x = method.embed(views[0].double()).detach().requires_grad_()
        step = method.objective([x], views, batch)
        (gradient,) = torch.autograd.grad(step.loss, x)
        expected = spcl_loss(method, [x], batch, step.update)
        assert_agree(step.loss, expected.detach(), 1e-12)
        assert_agree(gradient, torch.autograd.grad(expected, x)[0], 1e-10)
        method.after_step(step.update, 0.0)


def test_forward_writes_nothing_but_batch_norm_statistics():
    method, _ = started()
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    step = method(*batch_of(0))
    step.loss.backward()
    changed = {name for name, tensor in method.state_dict().items() if not torch.equal(tensor, before[name])}
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {f"{norm}.{kind}" for norm in ("encoder.norm", "neck.norm") for kind in kinds}
    assert not any(tensor.requires_grad for tensor in (*step.update.values(), *step.metrics.values()))
    frozen = {name for name, p in method.named_parameters() if p.grad is None}
    assert frozen == {"neck.norm.bias"} == {name for name, p in method.named_parameters() if not p.requires_grad}


def test_clusters_are_found_in_the_memory_and_not_in_new_features():
    method, figures = started()
    torch.testing.assert_close(method.memory.features, F.normalize(scattered(6, 0.4)))
    assert figures["clusters"] == figures["clusters_found"] == 6
    assert figures["clustered_images"] + figures["singletons"] == IMAGES
    labels = method.pseudo_labels
    method.threshold.fill_(0.25)  # a value that these clusters would not give
    for label in labels.unique():
        assert len((labels == label).nonzero().flatten().remainder(6).unique()) == 1
    method.memory.features.copy_(F.normalize(scattered(3, 0.1)))

    def refuse(module):
        raise AssertionError("features are read out once")

    figures = method.before_epoch(1, refuse)
    assert figures["clusters"] == 3
    assert method.threshold == 0.25  # set once
    assert not torch.equal(method.pseudo_labels, labels)


def test_without_self_pacing_every_cluster_is_kept_and_without_reclustering_for_good():
    paced, figures = started(features=scattered(6, 1.0))
    config = SpCL.Config(k1=10, k2=3, self_paced=False, recluster=False)
    plain, plain_figures = started(config, features=scattered(6, 1.0))
    assert figures["clusters_found"] == plain_figures["clusters_found"] == plain_figures["clusters"] > 0
    assert figures["clustered_images"] < plain_figures["clustered_images"]  # some are not reliable
    assert plain.threshold.isnan()
    labels = plain.pseudo_labels
    plain.memory.features.copy_(F.normalize(scattered(3, 0.1)))
    assert plain.before_epoch(1, lambda module: scattered(3, 0.1)) == {}
    assert torch.equal(plain.pseudo_labels, labels)
    assert not paced.threshold.isnan()


def test_no_cluster_is_said_and_training_goes_on(monkeypatch):
    messages: list[str] = []
    monkeypatch.setattr(spcl, "message", messages.append)
    alone = torch.eye(IMAGES)[:, :16] + 5 * torch.randn(IMAGES, 16, generator=torch.Generator().manual_seed(0))
    config = SpCL.Config(k1=10, k2=3, eps=0.1)
    method, figures = started(config, features=alone)
    assert (figures["clusters"], figures["singletons"]) == (0, IMAGES)
    assert "none is in a cluster" in messages[0]
    assert method.threshold.isnan()
    assert torch.equal(method.pseudo_labels, torch.arange(IMAGES))
    assert method(*batch_of(0)).loss.isfinite()
    method.memory.features.copy_(F.normalize(scattered(6, 0.05)))
    assert method.before_epoch(1, None)["clusters"] == 6  # the threshold is set as soon as there is a cluster
    assert not method.threshold.isnan()


def test_one_cluster_of_all_is_said(monkeypatch):
    messages: list[str] = []
    monkeypatch.setattr(spcl, "message", messages.append)
    method, figures = started(features=torch.ones(IMAGES, 16))
    assert (figures["clusters"], figures["singletons"]) == (1, 0)
    assert "are in one cluster" in messages[0]
    assert method(*batch_of(0)).loss.isfinite()


def test_two_domains_have_classes_first_then_clusters():
    method, figures = started(SpCL.Config(k1=10, k2=3, domains="two"), TWO)
    labels, features = method.pseudo_labels, F.normalize(scattered(6, 0.4))
    source = MIXED >= 0
    assert labels[source].tolist() == [{0: 0, 1: 1, 3: 2}[c] for c in MIXED[source].tolist()]
    assert labels[~source].min() == 3
    assert figures["clustered_images"] + figures["singletons"] == int((~source).sum())
    memory = method.memory.features
    assert len(memory) == 3 + int((~source).sum())
    torch.testing.assert_close(memory[1], F.normalize(features[MIXED == 1].mean(dim=0), dim=0))
    torch.testing.assert_close(memory[3:], features[~source])
    assert isinstance(method.neck.norm, DomainBatchNorm)
    assert isinstance(method.encoder.norm, DomainBatchNorm)
    assert method.encoder_state().keys() == toy(True).state_dict().keys()
    before = memory.clone()
    step = method(*batch_of(0, two=True))
    assert_agree(step.metrics["loss_source"] + step.metrics["loss_target"], step.loss.detach(), 1e-6)
    method.after_step(step.update, 0.0)
    moved = (memory != before).any(dim=1)
    batch = batch_of(0, two=True)[1]
    assert set(moved.nonzero().flatten().tolist()) == set(method.row_of_image[batch.indices].tolist())


def test_the_frozen_bias_of_the_neck_is_frozen_in_both_domains():
    method, _ = started(SpCL.Config(k1=10, k2=3, domains="two"), TWO)
    assert {name for name, p in method.named_parameters() if not p.requires_grad} == {
        "neck.norm.bias",
        "neck.norm.source_bias",
    }


def test_true_labels_play_no_part_in_one_domain():
    method, _ = started()
    views, batch = batch_of(0)
    told = batch._replace(labels=torch.arange(16) % 3)
    assert torch.equal(method(views, batch).loss, method(views, told).loss)


def test_resumed_in_mid_epoch_without_clustering_again():
    def run(method, steps):
        optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
        losses = []
        for number in steps:
            if number in (0, 4):
                method.before_epoch(number // 4, lambda module: module(batch_of(99, IMAGES)[0][0]).detach())
            out = method(*batch_of(number))
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
            method.after_step(out.update, 0.0)
            losses.append(out.loss.item())
        return losses

    straight, first, second = (SMALL.build(toy(True), CONTEXT) for _ in range(3))
    first.load_state_dict(straight.state_dict())
    losses = run(straight, range(8))
    run(first, range(6))
    second.load_state_dict(first.state_dict())
    assert run(second, range(6, 8)) == losses[6:]
    assert torch.equal(second.pseudo_labels, straight.pseudo_labels)
    assert second.threshold == straight.threshold  # a number, not nan: it was set before the first epoch


def test_memory_stays_in_single_precision():
    method, _ = started()
    with torch.autocast("cpu", torch.bfloat16):
        step = method(*batch_of(0))
    assert step.loss.dtype == step.update["features"].dtype == torch.float32
    method.after_step(step.update, 0.0)
    assert_agree(step.loss, started()[0](*batch_of(0)).loss, 0.2)


@pytest.mark.gpu
@pytest.mark.parametrize("two", [False, True])
def test_a_step_never_waits_for_the_device(two):
    method = SpCL.Config(k1=10, k2=3, domains="two" if two else "one").build(toy(True), TWO if two else CONTEXT).cuda()
    method.before_epoch(0, lambda module: scattered(6, 0.4))
    steps = [batch_of(number, two=two) for number in range(3)]
    on_device = [([view.cuda() for view in views], batch) for views, batch in steps]
    for number, (views, batch) in enumerate(on_device):
        method.foresee(batch.indices)
        with no_waits(number > 0):  # the first one starts libraries
            out = method(views, batch)
            out.loss.backward()
            method.after_step(out.update, 0.0)


@pytest.mark.parametrize(
    ("change", "context", "message"),
    [
        ({"temperature": 0.0}, {}, "temperature is 0"),
        ({"momentum": 1.0}, {}, "momentum is 1"),
        ({"eps": 0.99}, {}, "eps is 0.99 and eps_gap 0.02"),
        ({"eps_gap": 0.6}, {}, "eps_gap 0.6"),
        ({"k2": 31}, {}, "k1 is 30 and k2 31"),
        ({"min_samples": 1}, {}, "min_samples is 1"),
        ({"domains": "two"}, {"two_domains": True}, "labelled source images and unlabelled target images"),
        ({"domains": "two"}, {"two_domains": True, "labels": torch.zeros(IMAGES).long()}, "labelled source images"),
        ({"domains": "two"}, {"labels": MIXED}, "use sampling=TwoDomains"),
        ({}, {"two_domains": True}, "do not fit"),
        ({"domains": "two"}, {"two_domains": True, "labels": MIXED, "batch_size": 9}, "9 images per process"),
        ({"domains": "two"}, {"two_domains": True, "labels": MIXED, "batch_size": 2}, "2 images in all leave one"),
        ({}, {"num_views": 2}, "1 view of an image and the augmentation makes 2"),
    ],
)
def test_what_cannot_work_is_refused(change, context, message):
    with pytest.raises(ValueError, match=message):
        SpCL.Config(**change).build(toy(True), CONTEXT._replace(**context))
