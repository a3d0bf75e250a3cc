import pytest
import torch
from torch import nn

from selfsup.batch import Batch
from selfsup.methods import pair_losses as losses
from selfsup.methods.base import RunContext
from selfsup.methods.metric import Metric
from tests.contracts.naive_metric import metric_loss
from tests.support.figures import assert_agree
from tests.support.toys import toy

LABELS = torch.tensor([4, 1, 4, 0, 1, 1, 2, 2, 0, 4, 2, 0])
CONTEXT = RunContext(num_images=100, batch_size=12, seed=0, num_classes=5, num_views=1, view_size=(8, 8), per_class=3)
LOSSES = {
    "contrastive": losses.Contrastive.Config(),
    "similarity_contrastive": losses.SimilarityContrastive.Config(margin=0.1),
    "triplet_all": losses.Triplet.Config(mining="all"),
    "triplet_semihard": losses.Triplet.Config(squared=True),
    "triplet_hard": losses.Triplet.Config(mining="hard", soft_margin=True),
    "n_pair": losses.NPair.Config(norm_weight=0.01),
    "tuplet": losses.NPair.Config(tuples="all"),
    "lifted": losses.Lifted.Config(),
    "lifted_generalized": losses.Lifted.Config(generalized=True),
    "circle": losses.Circle.Config(scale=9.0),
    "circle_batch": losses.Circle.Config(scale=9.0, over="batch"),
    "multi_similarity": losses.MultiSimilarity.Config(),
    "margin": losses.Margin.Config(nu=0.05),
    "margin_one": losses.Margin.Config(boundary="one", negatives=3),
    "proxy_anchor": losses.Proxy.Config(),
    "proxy_nca": losses.Proxy.Config(kind="nca"),
}


class Identity(nn.Module):
    feature_dim = 6

    def forward(self, x):
        return x


def batch_of(labels):
    return Batch(torch.zeros(len(labels), 1), labels, torch.arange(len(labels)))


def build(loss, context=CONTEXT, encoder=None, **settings):
    torch.manual_seed(0)
    return Metric.Config(loss=loss, output_dim=8, **settings).build(encoder or toy(False), context)


def images(views=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(5, 3, 8, 8, generator=generator)
    return [centers[LABELS] + 0.8 * torch.randn(12, 3, 8, 8, generator=generator) for _ in range(views)]


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_equals_the_naive_loop(name, views):
    method = build(LOSSES[name], CONTEXT._replace(num_views=views)).double()
    with torch.no_grad():
        embeddings = [method.embed(view.double()) for view in images(views)]
    embeddings = [embedding.requires_grad_() for embedding in embeddings]
    method.steps += 3  # another draw than that of step 0
    step = method.objective(embeddings, images(views), batch_of(LABELS))
    expected = metric_loss(method, embeddings, batch_of(LABELS), step.update)
    assert expected.abs() > 1e-3
    assert_agree(step.loss, expected, 1e-10)
    leaves = [*embeddings, *(p for p in method.loss.parameters() if p.requires_grad)]
    for ours, naive in zip(torch.autograd.grad(step.loss, leaves), torch.autograd.grad(expected, leaves), strict=True):
        assert_agree(ours, naive, 1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_training_lowers_the_loss_and_reaches_every_parameter(name):
    method = build(LOSSES[name])
    optimizer = torch.optim.Adam(method.parameters(), lr=0.01)
    (view,) = images()
    values = []
    for _ in range(15):
        step = method([view], batch_of(LABELS))
        optimizer.zero_grad()
        step.loss.backward()
        for parameter_name, parameter in method.named_parameters():
            assert parameter.grad is not None, parameter_name
        assert values or method.head.layers[0][0].weight.grad.abs().max() > 0
        optimizer.step()
        method.after_step(step.update, 0.0)
        values.append(step.loss.item())
    assert values[-1] < values[0] - 0.01 * abs(values[0])
    assert method.steps == 15


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_encoder_leaves_the_loss_in_single(name):
    method = build(LOSSES[name])
    plain = method(images(), batch_of(LABELS))
    with torch.autocast("cpu", torch.bfloat16):
        step = method(images(), batch_of(LABELS))
    assert {step.loss.dtype, *(metric.dtype for metric in step.metrics.values())} == {torch.float32}
    assert step.loss.isfinite()
    if name not in ("margin", "margin_one"):  # other negatives may be drawn
        assert_agree(step.loss, plain.loss, 0.3)


def test_figures():
    """Four points on a line and one far away: which has a nearest neighbour of its own class."""
    method = build(losses.Triplet.Config(), encoder=Identity(), normalise=False)
    points = torch.tensor([0.0, 1, 3, 7, 20])[:, None] * torch.eye(8)[:1]
    labels = torch.tensor([0, 0, 1, 1, 2])
    step = method.objective([points], [points], batch_of(labels))
    assert step.metrics["accuracy"] == pytest.approx(3 / 5)  # 0 and 1 find each other, 7 finds 3, which finds 1
    assert step.metrics["anchors_alone"] == pytest.approx(1 / 5)
    assert step.metrics["anchors_without_negatives"] == 0
    one_class = method.objective([points], [points], batch_of(torch.zeros(5, dtype=torch.int64)))
    assert one_class.metrics["anchors_without_negatives"] == 1
    same = torch.ones(5, 8)
    assert method.objective([same], [same], batch_of(labels)).metrics["accuracy"] == 0


def test_what_is_shown_are_anchors_and_their_first_positives():
    """An anchor without one stands against itself."""
    labels = torch.tensor([0, 1, 0, 2, 0, 1])
    context = CONTEXT._replace(batch_size=6)
    rows = torch.randn(6, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    anchors, partners = build(LOSSES["circle"], context).double().objective([rows], [rows], batch_of(labels)).shown
    unit = torch.nn.functional.normalize(rows)
    torch.testing.assert_close(anchors, unit)
    torch.testing.assert_close(partners, unit[[2, 5, 0, 3, 0, 1]])


def test_published_normalisation():
    """Distances of embeddings that are not normalised; inner products for the N-pair loss."""
    assert not build(losses.NPair.Config()).normalise
    assert build(losses.Triplet.Config()).normalise
    method = build(losses.Lifted.Config(), normalise=False).double()
    embeddings = [3 * torch.randn(12, 8, dtype=torch.float64, requires_grad=True)]
    step = method.objective(embeddings, [], batch_of(LABELS))
    assert_agree(step.loss, metric_loss(method, embeddings, batch_of(LABELS), {}), 1e-10)


def test_draws_of_negatives_change_with_the_step_and_not_with_the_call():
    method = build(LOSSES["margin"])
    first = method(images(), batch_of(LABELS)).loss
    assert torch.equal(first, method(images(), batch_of(LABELS)).loss)
    method.steps += 1
    assert not torch.equal(first, method(images(), batch_of(LABELS)).loss)


def test_frozen_batch_norm_keeps_its_statistics_and_learns_its_weights():
    encoder = toy(True)
    encoder(images()[0])  # statistics of some training
    method = build(losses.MultiSimilarity.Config(), encoder=encoder, batch_norm="frozen").train()
    before = {name: value.clone() for name, value in method.encoder.named_buffers()}
    method(images(), batch_of(LABELS)).loss.backward()
    assert all(torch.equal(before[name], value) for name, value in method.encoder.named_buffers())
    assert method.encoder.norm.weight.grad.abs().max() > 0
    assert method.encoder.conv.training
    assert not method.encoder.norm.training


def test_frozen_batch_norm_of_an_untrained_encoder_is_refused():
    with pytest.raises(ValueError, match="give start= a run folder"):
        build(losses.MultiSimilarity.Config(), encoder=toy(True), batch_norm="frozen")
    encoder = toy(True)
    encoder.norm.running_mean += 0.1  # weights of another program, that do not count batches
    build(losses.MultiSimilarity.Config(), encoder=encoder, batch_norm="frozen")
    build(losses.MultiSimilarity.Config(), encoder=toy(False), batch_norm="frozen")


def test_a_boundary_may_be_a_whole_number():
    method = build(losses.Margin.Config(beta=1, boundary="one"))
    assert method.loss.beta.dtype == torch.float32
    assert method.loss.beta == 1


def test_rates_are_of_the_parameters_that_losses_learn():
    assert build(losses.Margin.Config(rate=7.0)).rates() == {"loss.beta": 7.0}
    assert build(losses.Proxy.Config()).rates() == {"loss.proxies": 100.0}
    assert build(losses.Triplet.Config()).rates() == {}


def test_proxies_need_no_pairs():
    context = CONTEXT._replace(per_class=0, num_classes=50)
    build(losses.Proxy.Config(), context)
    with pytest.raises(ValueError, match="ClassBalanced"):
        build(losses.Triplet.Config(), context)
    build(losses.Triplet.Config(), context._replace(num_views=2))


@pytest.mark.parametrize(
    ("loss", "settings", "change", "message"),
    [
        (losses.Triplet.Config(), {}, {"num_classes": 0}, "metric learning needs a label for every image"),
        (losses.Triplet.Config(), {}, {"labels": torch.full((100,), 3)}, "of at least 2 classes"),
        (losses.Triplet.Config(), {}, {"labels": torch.tensor([-1, 0, 1])}, "a label for every image"),
        (losses.Margin.Config(negatives=13), {}, {}, "negatives is 13, of a batch of 12 images"),
        (losses.Triplet.Config(), {}, {"per_class": 12}, "hold fewer than 2 classes"),
        (losses.Triplet.Config(), {}, {"per_class": 1}, r"1 view of it; put sampling=ClassBalanced\(per_class=4\)"),
        (losses.Circle.Config(), {"normalise": False}, {}, "Circle is defined for embeddings of unit norm"),
    ],
)
def test_what_cannot_work_is_refused(loss, settings, change, message):
    with pytest.raises(ValueError, match=message):
        build(loss, CONTEXT._replace(**change), **settings)


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (losses.Triplet.Config, {"soft_margin": True}, 'mining is "semihard"'),
        (losses.Contrastive.Config, {"margin": 0.0}, "margin is 0.0; give a number above 0"),
        (losses.Margin.Config, {"cutoff": 1.5}, "cutoff is 1.5"),
        (losses.Margin.Config, {"negatives": 0}, "negatives is 0"),
        (losses.MultiSimilarity.Config, {"beta": -1.0}, "beta is -1"),
        (losses.MultiSimilarity.Config, {"epsilon": -0.1}, "epsilon is -0.1; give 0 or more"),
        (losses.SimilarityContrastive.Config, {"margin": 1.0}, "margin is 1.0, a cosine"),
        (losses.Triplet.Config, {"margin": 0.0}, "margin is 0.0; give a number above 0"),
        (losses.Lifted.Config, {"margin": -1.0}, "margin is -1"),
        (losses.Circle.Config, {"margin": 1.0}, "margin is 1.0; it must lie in"),
        (losses.Circle.Config, {"margin": 0.0}, "margin is 0.0; it must lie in"),
        (losses.Margin.Config, {"margin": -0.1}, "margin is -0.1"),
        (losses.Margin.Config, {"beta": -1}, "beta is -1"),
        (losses.Margin.Config, {"nu": -1.0}, "nu is -1"),
        (losses.Margin.Config, {"rate": 0.0}, "rate is 0.0"),
        (losses.Margin.Config, {"margin": float("nan")}, "margin is nan"),
        (losses.Proxy.Config, {"margin": -0.1}, "margin is -0.1"),
        (losses.Proxy.Config, {"rate": -1.0}, "rate is -1"),
        (losses.NPair.Config, {"norm_weight": -1.0}, "norm_weight is -1"),
    ],
)
def test_bad_settings_are_refused(config, settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)


def test_what_the_mathematics_allow_is_allowed():
    losses.Lifted.Config(margin=0)
    losses.Margin.Config(margin=0, beta=0, nu=0)
    losses.Triplet.Config(mining="hard", soft_margin=True, margin=0)
    build(losses.Margin.Config(negatives=24), CONTEXT._replace(num_views=2))
    build(losses.Triplet.Config(), CONTEXT._replace(labels=torch.arange(100) % 2))


def test_a_neck_centres_the_embeddings():
    """Without it those of a ReLU net lie in a cone: every pair is alike."""
    (view,) = images()
    cosines = {}
    for neck in ("none", "batch_norm"):
        method = build(losses.Triplet.Config(), neck=neck)
        unit = method.embed(view)
        cosines[neck] = float((unit @ unit.T).detach().mean())
        assert sum(p.requires_grad for p in method.head.parameters()) == 2  # weight and bias, or weight and scale
    assert cosines["none"] > 0.5
    assert cosines["batch_norm"] < 0.2
