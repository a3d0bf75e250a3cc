import pytest
import torch

from selfsup.methods.base import RunContext
from selfsup.methods.mochi import MoCHi
from selfsup.methods.moco import MoCo
from selfsup.methods.simclr_v2 import SimCLRv2
from selfsup.models.heads import Head
from tests.contracts.naive_mochi import mochi_loss
from tests.support.figures import assert_agree
from tests.support.toys import global_batch, toy

CONTEXT = RunContext(num_images=1000, batch_size=16, seed=0, steps_per_epoch=3)
QUEUE = {"queue_size": 64, "head": Head.Config(output_dim=8), "batch_norm": "plain"}
MIXED = {**QUEUE, "hardest": 10, "pairs": 6, "with_query": 3}


def trained(config, steps):
    method = config.build(toy(False), CONTEXT).double()
    for step in range(steps):
        views, batch = global_batch(step, 16)
        method.after_step(method([view.double() for view in views], batch).update, 0.0)
    return method


@pytest.mark.parametrize("extra", [{}, {"symmetric": True}, {"symmetric": True, "batch_negatives": True}])
def test_loss_is_the_naive_one(extra):
    method = trained(MoCHi.Config(warmup_epochs=1, **MIXED, **extra), 3)
    views, batch = global_batch(1, 16)  # images that are in the queue
    views = [view.double() for view in views]
    embeddings = [method.embed(view) for view in method.queries(views)]
    step = method.objective(embeddings, views, batch)
    assert_agree(step.loss, mochi_loss(method, embeddings, batch, step.update), 1e-10)


def test_warm_up_is_moco():
    """Equal to MoCo's loss for as many steps as the warm-up has, and larger from then on."""
    mixing, plain = (trained(config, 2) for config in (MoCHi.Config(warmup_epochs=1, **MIXED), MoCo.Config(**QUEUE)))
    for step in range(2, 5):
        views, batch = global_batch(step, 16)
        views = [view.double() for view in views]
        first, second = mixing(views, batch), plain(views, batch)
        assert (first.loss - second.loss > 1e-3) == (step >= 3)
        assert torch.equal(first.metrics["accuracy"], second.metrics["accuracy"])
        mixing.after_step(first.update, 0.0)
        plain.after_step(second.update, 0.0)
        assert torch.equal(mixing.queue.features, plain.queue.features)  # only real keys are remembered


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pairs": 11}, "11 mixtures .* more than the 10 hardest"),
        ({"with_query": 12}, "12 mixtures"),
        ({"hardest": 65}, "hardest is 65 and there are only 64 negatives"),
        ({"hardest": 1}, "at least 2"),
        ({"pairs": 0, "with_query": 0}, "mixes nothing"),
        ({"warmup_epochs": -1.0}, "must not be negative"),
    ],
)
def test_what_cannot_work_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MoCHi.Config(**{**MIXED, **change}).build(toy(False), CONTEXT)


def test_more_mixtures_than_negatives_where_that_is_meant():
    method = MoCHi.Config(**{**MIXED, "pairs": 30, "oversample": True, "warmup_epochs": 0}).build(toy(False), CONTEXT)
    assert method(*global_batch(0, 16)).loss.isfinite()


def test_simclr_v2_is_nt_xent_over_the_batch_and_the_queue():
    """Each view against the other's key, the keys of all other images of the batch, and the queue: by loops."""
    config = SimCLRv2.Config(queue_size=64, temperature=0.5, head=Head.Config(output_dim=8), batch_norm="plain")
    method = trained(config, 2)
    views, batch = global_batch(1, 16)
    views = [view.double() for view in views]
    embeddings = [method.embed(view) for view in views]
    step = method.objective(embeddings, views, batch)
    keys = step.update["keys"]  # (N, 2, D)
    total = 0.0
    for view in range(2):
        for row in range(16):
            query, index = embeddings[view][row], int(batch.indices[row])
            positive = torch.exp(query @ keys[row, 1 - view] / 0.5)
            others = [keys[other, side] for other in range(16) if other != row for side in range(2)]
            others += [f for f, i in zip(method.queue.features, method.queue.indices, strict=True) if int(i) != index]
            rest = sum(torch.exp(query @ other / 0.5) for other in others)
            total = total - torch.log(positive / (positive + rest)) / 32
    assert_agree(step.loss, total, 1e-10)
    summed = (
        SimCLRv2.Config(
            queue_size=64, temperature=0.5, head=Head.Config(output_dim=8), batch_norm="plain", reduction="simclr"
        )
        .build(toy(False), CONTEXT)
        .double()
    )
    summed.load_state_dict(method.state_dict())
    assert_agree(summed.objective(embeddings, views, batch).loss, 2 * step.loss, 1e-12)


def test_simclr_v2_normalises_both_views_together():
    config = SimCLRv2.Config(queue_size=64, head=Head.Config(output_dim=8, batch_norm="all"), batch_norm="plain")
    method = config.build(toy(True), CONTEXT)
    views, batch = global_batch(0, 16)
    step = method(views, batch)
    with torch.no_grad():
        together = method.embed(torch.cat(views)).view(2, 16, 8).transpose(0, 1)  # the two networks start equal
    torch.testing.assert_close(step.update["keys"], together)


def test_without_a_queue_the_batch_is_the_memory():
    config = MoCo.Config(
        queue_size=0, batch_negatives=True, symmetric=True, head=Head.Config(output_dim=8), batch_norm="plain"
    )
    method = config.build(toy(False), CONTEXT)
    step = method(*global_batch(0, 16))
    method.after_step(step.update, 0.0)
    assert not any("queue" in name for name in method.state_dict())
    with pytest.raises(ValueError, match="leaves no negatives"):
        MoCo.Config(queue_size=0).build(toy(False), CONTEXT)


def test_momentum_rises_along_half_a_cosine():
    method = MoCo.Config(momentum=0.5, final_momentum=1.0, **QUEUE).build(toy(False), CONTEXT)
    update = method(*global_batch(0, 16)).update
    for progress, momentum in ((0.0, 0.5), (0.5, 0.75), (1.0, 1.0)):
        with torch.no_grad():
            method.encoder.conv.weight.fill_(1.0)
            method.key_encoder.conv.weight.fill_(0.0)
        method.after_step(update, progress)
        assert torch.allclose(method.key_encoder.conv.weight, torch.tensor(1 - momentum))
    with pytest.raises(ValueError, match="final_momentum is 2"):
        MoCo.Config(final_momentum=2.0)
