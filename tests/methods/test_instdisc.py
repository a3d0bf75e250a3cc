import pytest
import torch
from torch import nn

from selfsup.batch import Batch
from selfsup.losses.contrastive import l2_normalize
from selfsup.losses.nce import bank_scores
from selfsup.methods.base import RunContext
from selfsup.methods.instdisc import InstDisc
from tests.contracts.naive_instdisc import instdisc_loss
from tests.support.figures import assert_agree, golden
from tests.support.toys import global_batch, toy
from tests.support.waiting import no_waits

CONTEXT = RunContext(num_images=100, batch_size=16, seed=0, num_views=1)
NCE = {"num_negatives": 9, "output_dim": 8}
FULL = {"num_negatives": 0, "loss": "softmax", "output_dim": 8}


def one_view(step, size=16, num_images=100):
    views, batch = global_batch(step, size, num_images)
    return views[:1], batch


def of_golden(g, **settings):
    """The method with the golden figures' bank; it is given features, not images."""
    encoder = nn.Identity()
    encoder.feature_dim = 12
    config = InstDisc.Config(temperature=float(g["tau"]), momentum=float(g["m"]), output_dim=12, **settings)
    method = config.build(encoder, RunContext(num_images=60, batch_size=8, seed=0, num_views=1))
    method.bank.features.copy_(g["memory0"])
    return method


def test_golden_nce():
    g = golden("instdisc_nce")
    method = of_golden(g, num_negatives=20)
    for step in range(2):
        x = g["x"][step].clone().requires_grad_()
        loss, _, log_z = method.contrast(x, g["idx"][step])
        scores = method.bank.scores(x / float(g["tau"]), g["idx"][step])
        assert_agree((scores - log_z).exp(), g["prob"][step], 5e-6)
        assert_agree(log_z.exp(), g["Z"][step], 5e-6)
        assert_agree(loss, g["loss"][step], 5e-6)
        assert_agree(torch.autograd.grad(loss, x)[0], g["grad_x"][step], 5e-6)
        update = {"features": x.detach(), "indices": g["y"][step], "log_normaliser": log_z.expand(8)}
        method.after_step(update, 0.0)
        assert_agree(method.bank.features, g["memory"][step], 5e-6)


def test_golden_full_softmax():
    g = golden("instdisc_full")
    method = of_golden(g, num_negatives=0, loss="softmax")
    for step in range(2):
        x = g["x"][step].clone().requires_grad_()
        assert_agree(bank_scores(x / float(g["tau"]), method.bank.features), g["logits"][step], 5e-6)
        out = method.objective([x], [], Batch(torch.zeros(8, 1), torch.full((8,), -1), g["y"][step]))
        assert_agree(out.loss, g["loss"][step], 5e-6)
        assert_agree(torch.autograd.grad(out.loss, x)[0], g["grad_x"][step], 5e-6)
        method.after_step(out.update, 0.0)
        assert_agree(method.bank.features, g["memory"][step], 5e-6)


@pytest.mark.parametrize(
    "settings",
    [
        NCE,
        {**NCE, "normaliser": "ema", "normaliser_momentum": 0.7, "proximal_weight": 0.3},
        {**NCE, "normaliser": "fixed", "normaliser_value": 5e3},
        {**NCE, "loss": "softmax", "bank_dtype": "bfloat16"},
        {**FULL, "proximal_weight": 2.0},
    ],
)
def test_loss_equals_the_naive_loop_while_the_memory_fills(settings):
    method = InstDisc.Config(**settings).build(toy(False), CONTEXT._replace(num_images=24))
    bank_dtype = method.bank.features.dtype
    method.double()
    method.bank.to(bank_dtype if bank_dtype == torch.bfloat16 else torch.float64)
    for step in range(3):
        views, batch = one_view(step, 6, 24)
        features = method.embed(views[0].double()).detach().requires_grad_()
        out = method.objective([features], views, batch)
        expected = instdisc_loss(method, [features], batch, out.update)
        assert_agree(out.loss, expected, 1e-10)
        gradients = [torch.autograd.grad(loss, features)[0] for loss in (out.loss, expected)]
        assert_agree(*gradients, 1e-9)
        method.after_step(out.update, 0.0)


def test_noise_is_uniform_over_the_other_images_and_new_in_every_step():
    method = InstDisc.Config(num_negatives=10_000).build(toy(False), CONTEXT._replace(num_images=10_001))
    method.num_images = 12
    noise = method.noise(torch.arange(12))  # (12, K)
    assert not (noise == torch.arange(12)[:, None]).any()
    for image, row in enumerate(noise):
        counts = torch.cat([row, torch.arange(12)]).bincount() - 1
        others = counts[torch.arange(12) != image]
        assert (others - 10_000 / 11).abs().max() < 5 * (10_000 / 11) ** 0.5
    assert torch.equal(method.noise(torch.tensor([7, 3])), noise[[7, 3]])  # whatever the company
    method.steps += 1
    assert (method.noise(torch.arange(12)) == noise).float().mean() < 0.2


@pytest.mark.parametrize("settings", [NCE, FULL, {**NCE, "normaliser": "ema", "proximal_weight": 1.0}])
def test_forward_writes_nothing_but_batch_norm_statistics(settings):
    method = InstDisc.Config(**settings).build(toy(True), CONTEXT)
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    views, batch = one_view(0)
    step = method(views, batch)
    step.loss.backward()
    changed = {name for name, tensor in method.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"encoder.norm.{kind}" for kind in ("running_mean", "running_var", "num_batches_tracked")}
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert not any(tensor.requires_grad for tensor in (*step.update.values(), *step.metrics.values()))
    features = l2_normalize(method.head(method.encoder(views[0]))).detach()
    method.after_step(step.update, 0.0)
    expected = before["bank.features"].clone()
    expected[batch.indices] = l2_normalize(0.5 * expected[batch.indices] + 0.5 * features)
    assert_agree(method.bank.features, expected, 1e-5)


def test_normaliser_is_of_the_first_applied_step_and_survives_a_resume():
    def start():
        return InstDisc.Config(**NCE).build(toy(False), CONTEXT)

    method, skipped = start(), start()
    (first, first_batch), (second, second_batch) = one_view(0), one_view(1)
    skipped(second, second_batch)  # an overflow: no after_step
    out = method(first, first_batch)
    assert torch.equal(skipped(first, first_batch).loss, out.loss)
    method.after_step(out.update, 0.0)
    z = method.log_normaliser.clone()
    resumed = start()
    resumed.load_state_dict(method.state_dict())
    for model in (method, resumed):
        out = model(second, second_batch)
        assert out.update["log_normaliser"].eq(z).all()
        model.after_step(out.update, 0.0)
        assert torch.equal(model.log_normaliser, z)
    assert torch.equal(method.bank.features, resumed.bank.features)


def test_only_the_encoder_runs_in_half_precision():
    losses = []
    for precise in (True, False):
        method = InstDisc.Config(**NCE, bank_dtype="float16").build(toy(True), CONTEXT)
        views, batch = one_view(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
            step = method(views, batch)
        step.loss.backward()
        assert {tensor.dtype for tensor in (step.loss, step.update["features"])} == {torch.float32}
        method.after_step(step.update, 0.0)
        assert method.bank.features.dtype == torch.float16
        losses.append(step.loss)
    assert_agree(losses[1], losses[0], 0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [NCE, FULL, {**NCE, "normaliser": "ema", "bank_dtype": "bfloat16"}])
def test_a_step_of_instdisc_never_waits_for_the_device(settings):
    method = InstDisc.Config(**settings).build(toy(True), CONTEXT._replace(num_images=1000, per_class=2)).cuda()
    batches = [one_view(step, num_images=1000) for step in range(3)]
    on_device = [([view.cuda() for view in views], batch) for views, batch in batches]
    for step, (views, batch) in enumerate(on_device):
        method.foresee(batch.indices)
        with no_waits(step > 0):  # the first one starts libraries
            with torch.autocast("cuda", torch.bfloat16):
                out = method(views, batch)
            out.loss.backward()
            method.after_step(out.update, 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_negatives": 0}, 'num_negatives 0 means all images, and loss "nce" needs a sample'),
        ({"num_negatives": -1}, "num_negatives is -1"),
        ({"num_negatives": 100}, "beside each image there are 99 others"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"normaliser": "ema", "normaliser_momentum": 1.0}, "normaliser_momentum is 1.0"),
        ({"normaliser": "fixed"}, 'normaliser is "fixed" and normaliser_value None'),
        ({"normaliser": "fixed", "normaliser_value": -1.0}, 'normaliser is "fixed" and normaliser_value -1.0'),
        ({"normaliser_value": 5.0}, 'normaliser is "first_batch" and normaliser_value 5.0'),
        ({"proximal_weight": -1.0}, "proximal_weight is -1"),
        ({"output_dim": 0}, "output_dim is 0"),
    ],
)
def test_what_cannot_work_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        InstDisc.Config(**{**NCE, **change}).build(toy(True), CONTEXT)


def test_two_views_are_refused():
    with pytest.raises(ValueError, match="the augmentation makes 2"):
        InstDisc.Config(**NCE).build(toy(True), CONTEXT._replace(num_views=2))
