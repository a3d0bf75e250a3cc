import pytest
import torch

from selfsup.batch import Batch
from selfsup.losses.contrastive import l2_normalize, nt_xent
from selfsup.methods.base import RunContext
from selfsup.methods.supcon import SupCon
from selfsup.models.heads import Head
from selfsup.models.norm import SyncBatchNorm
from tests.contracts.naive_supcon import supcon_loss
from tests.support.figures import assert_agree
from tests.support.toys import global_batch, toy
from tests.support.waiting import no_waits

CONTEXT = RunContext(num_images=100, batch_size=12, seed=0, num_classes=5, num_views=3)


def labelled(step, size=12, views=3):
    """`views` views of `size` images of 5 classes, of which the last two have one image each."""
    first, batch = global_batch(step, size)
    second, _ = global_batch(step + 1000, size)
    labels = torch.arange(size) % 3
    labels[-2], labels[-1] = 3, 4
    return (first + second)[:views], Batch(batch.images, labels, batch.indices)


@pytest.mark.parametrize("anchors", ["all", "one"])
@pytest.mark.parametrize("views", [1, 2, 3])
def test_loss_equals_the_naive_loop(anchors, views):
    config = SupCon.Config(anchors=anchors, temperature=0.3, head=Head.Config(output_dim=8))
    method = config.build(toy(False), CONTEXT._replace(num_views=views, batch_size=12)).double()
    images, batch = labelled(0, views=views)
    embeddings = [method.embed(view.double()).detach().requires_grad_() for view in images]
    out = method.objective(embeddings, images, batch)
    expected = supcon_loss(method, embeddings, batch, out.update)
    assert_agree(out.loss, expected, 1e-10)
    gradients = [torch.cat(torch.autograd.grad(loss, embeddings)) for loss in (out.loss, expected)]
    assert_agree(*gradients, 1e-10)
    assert out.update == {}
    assert ("alignment" in out.metrics) == (views > 1)


def test_batch_norm_is_over_all_views_together():
    config = SupCon.Config(head=Head.Config(batch_norm="hidden"))
    method = config.build(toy(True), CONTEXT)
    assert sum(isinstance(module, SyncBatchNorm) for module in method.modules()) == 2
    views, batch = labelled(0)
    embeddings = list(l2_normalize(method.head(method.encoder(torch.cat(views)))).chunk(3))
    assert_agree(method(views, batch).loss, method.objective(embeddings, views, batch).loss, 1e-5)
    apart = [method.embed(view) for view in views]
    assert (method.objective(apart, views, batch).loss - method(views, batch).loss).abs() > 1e-4


def test_with_a_class_for_each_image_it_is_nt_xent_and_with_classes_it_is_not():
    config = SupCon.Config(temperature=0.2, base_temperature=0.2)
    method = config.build(toy(False), CONTEXT._replace(num_views=2))
    views, batch = labelled(0, views=2)
    rows = [method.embed(view) for view in views]
    expected = nt_xent(rows, rows, 0, 0.2)[0]
    assert_agree(method(views, batch._replace(labels=torch.arange(12))).loss, expected, 1e-5)
    assert (method(views, batch).loss - expected).abs() > 0.01


def test_every_parameter_gets_a_gradient_under_autocast():
    method = SupCon.Config().build(toy(False), CONTEXT)
    with torch.autocast("cpu", torch.bfloat16):
        step = method(*labelled(0))
    step.loss.backward()
    assert {step.loss.dtype, *(metric.dtype for metric in step.metrics.values())} == {torch.float32}
    assert all(parameter.grad.isfinite().all() for parameter in method.parameters())
    assert all(parameter.grad.abs().max() > 1e-6 for parameter in method.parameters())
    assert not any(metric.requires_grad for metric in step.metrics.values())


@pytest.mark.gpu
def test_a_step_of_supcon_never_waits_for_the_device():
    method = SupCon.Config().build(toy(True), CONTEXT).cuda()
    batches = [labelled(step) for step in range(3)]
    on_device = [
        ([view.cuda() for view in views], batch._replace(labels=batch.labels.cuda())) for views, batch in batches
    ]
    for step, (views, batch) in enumerate(on_device):
        with no_waits(step > 0):  # the first one starts libraries
            with torch.autocast("cuda", torch.bfloat16):
                out = method(views, batch)
            out.loss.backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [({"temperature": 0.0}, "temperature is 0"), ({"base_temperature": -1.0}, "base_temperature is -1")],
)
def test_bad_temperatures_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SupCon.Config(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 0}, "SupCon needs a label"),
        ({"labels": torch.tensor([0, 1, -1])}, "SupCon needs a label"),
        ({"num_views": 1, "batch_size": 9}, "a batch of 9 from 5 classes"),
        ({"num_views": 1, "per_class": 1}, "with one view"),
    ],
)
def test_data_without_positives_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        SupCon.Config().build(toy(True), CONTEXT._replace(**change))


@pytest.mark.parametrize("change", [{"num_views": 1, "batch_size": 10}, {"num_views": 1, "per_class": 4}])
def test_one_view_is_enough_where_classes_meet(change):
    SupCon.Config().build(toy(True), CONTEXT._replace(**change))
