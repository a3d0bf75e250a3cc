import pytest
import torch

from selfsup.losses.contrastive import l2_normalize, nt_xent
from selfsup.methods.base import RunContext
from selfsup.methods.simclr import SimCLR
from selfsup.models.norm import SyncBatchNorm
from tests.support.figures import assert_agree
from tests.support.toys import global_batch, toy

CONTEXT = RunContext(num_images=1000, batch_size=16, seed=0)


@pytest.mark.parametrize("reduction", ["mean2n", "simclr"])
def test_loss_is_over_one_batch_norm_of_both_views(reduction):
    method = SimCLR.Config(reduction=reduction, temperature=0.5).build(toy(True), CONTEXT)
    views, batch = global_batch(0, 16)
    step = method(views, batch)
    rows = l2_normalize(method.head(method.encoder(torch.cat(views)))).chunk(2)
    expected, accuracy = nt_xent(rows, rows, 0, 0.5, reduction)
    assert_agree(step.loss, expected, 1e-5)
    weights = [parameter for parameter in method.parameters() if parameter.requires_grad]
    gradients = (torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]) for loss in (step.loss, expected))
    assert_agree(*gradients, 1e-5)
    assert step.metrics["accuracy"] == accuracy
    apart = [l2_normalize(method.head(method.encoder(view))) for view in views]
    assert (nt_xent(apart, apart, 0, 0.5, reduction)[0] - expected).abs() > 1e-4  # not one view at a time


def test_every_trainable_parameter_gets_a_gradient():
    method = SimCLR.Config().build(toy(True), CONTEXT)
    method(*global_batch(0, 16)).loss.backward()
    # Batch norm takes the convolution's bias away again; its gradient is rounding.
    for name, parameter in method.named_parameters():
        if parameter.requires_grad and name != "encoder.conv.bias":
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 1e-6, name


def test_batch_norm_is_synchronised_in_encoder_and_head():
    method = SimCLR.Config().build(toy(True), CONTEXT)
    assert isinstance(method.encoder.norm, SyncBatchNorm)
    assert sum(isinstance(module, SyncBatchNorm) for module in method.head.modules()) == 3


def test_bad_configurations_are_refused():
    with pytest.raises(ValueError, match="temperature is 0"):
        SimCLR.Config(temperature=0.0)


def test_wrong_views_are_refused():
    with pytest.raises(ValueError, match="makes 3"):
        SimCLR.Config().build(toy(True), CONTEXT._replace(num_views=3))
    views, batch = global_batch(0, 16)
    with pytest.raises(ValueError, match="views of several sizes"):
        SimCLR.Config().build(toy(True), CONTEXT)([views[0], views[1][:, :, :4, :4]], batch)
