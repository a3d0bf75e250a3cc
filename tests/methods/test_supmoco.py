import pytest
import torch

from selfsup.methods.base import RunContext
from selfsup.methods.supmoco import SupMoCo
from selfsup.models.heads import Head
from tests.contracts.naive_supmoco import supmoco_loss
from tests.support.figures import assert_agree
from tests.support.toys import global_batch, toy

LABELS = torch.arange(1000) % 5
CONTEXT = RunContext(num_images=1000, batch_size=16, seed=0, num_classes=5, labels=LABELS)


def labelled(step):
    views, batch = global_batch(step, 16)
    return [view.double() for view in views], batch._replace(labels=LABELS[batch.indices])


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("queue_size", [0, 72])
def test_loss_is_the_naive_one(symmetric, queue_size):
    config = SupMoCo.Config(
        queue_size=queue_size, symmetric=symmetric, head=Head.Config(output_dim=8), batch_norm="plain"
    )
    method = config.build(toy(False), CONTEXT).double()
    for step in range(2):
        method.after_step(method(*labelled(step)).update, 0.0)
    views, batch = labelled(1)  # images that are in the queue
    embeddings = [method.embed(view) for view in method.queries(views)]
    step = method.objective(embeddings, views, batch)
    assert_agree(step.loss, supmoco_loss(method, embeddings, batch, step.update), 1e-10)


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="needs a label for every image"):
        SupMoCo.Config().build(toy(False), CONTEXT._replace(num_classes=0))
    with pytest.raises(ValueError, match="batch_negatives must be True"):
        SupMoCo.Config(batch_negatives=False)
