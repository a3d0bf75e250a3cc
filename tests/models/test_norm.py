import pytest
import torch
from torch import nn

from selfsup.models.norm import GroupBatchNorm, SplitBatchNorm, SyncBatchNorm, convert
from selfsup.models.resnet import ResNet
from tests.support.figures import assert_agree, golden


def loaded(norm, g):
    for name, key in (("weight", "weight"), ("bias", "bias"), ("running_mean", "running_mean0")):
        getattr(norm, name).data.copy_(g[key])
    norm.running_var.copy_(g["running_var0"])
    return norm


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_split_golden(layout):
    g = golden("split_batchnorm")
    norm = SplitBatchNorm(5, int(g["num_splits"]), eps=float(g["eps"]), momentum=float(g["momentum"]))
    loaded(norm, g)
    x = g["x"].to(memory_format=layout).requires_grad_()
    assert_agree(norm.eval()(x), g["y_eval_before"], 1e-5)
    y = norm.train()(x)
    assert y.is_contiguous(memory_format=layout)
    assert_agree(y, g["y_train"], 1e-5)
    gradients = torch.autograd.grad((y * g["grad_out"]).sum(), (x, norm.weight, norm.bias))
    for name, gradient in zip(("x", "weight", "bias"), gradients, strict=True):
        assert_agree(gradient, g[f"grad_{name}"], 1e-5, name)
    assert_agree(norm.running_mean, g["running_mean1"], 1e-5)
    assert_agree(norm.running_var, g["running_var1"], 1e-5)
    assert_agree(norm.eval()(x), g["y_eval_after"], 1e-5)
    assert norm.num_batches_tracked == 1


def test_split_of_a_ragged_batch():
    norm = SplitBatchNorm(3, 4)
    with pytest.raises(ValueError, match="a batch of 6 cannot be split into 4 equal parts"):
        norm(torch.randn(6, 3))
    norm.eval()(torch.randn(6, 3))  # evaluation does not split


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_groups_are_the_parts_of_a_split_in_another_order(layout):
    """Outputs, gradients and running statistics; parts are of every fourth row, groups of consecutive ones."""
    torch.manual_seed(0)
    x = torch.randn(12, 3, 2, 5, dtype=torch.float64)
    order = torch.arange(12).view(3, 4).T.flatten()  # row n of part n mod 4 -> part after part
    split, groups = SplitBatchNorm(3, 4).double(), GroupBatchNorm(3, 4).double()
    given = x.clone().to(memory_format=layout).requires_grad_()
    x.requires_grad_()
    ours, theirs = groups(given[order].contiguous(memory_format=layout)), split(x)[order]
    assert ours.is_contiguous(memory_format=layout)
    torch.testing.assert_close(ours, theirs)
    (ours**3).sum().backward()
    (theirs**3).sum().backward()
    torch.testing.assert_close(given.grad, x.grad)
    for name, buffer in split.named_buffers():
        torch.testing.assert_close(dict(groups.named_buffers())[name], buffer)
    with pytest.raises(ValueError, match="a batch of 6 cannot be divided into 4 equal groups"):
        groups(x[:6])
    groups.eval()(x[:6])


@pytest.mark.parametrize("kind", [SplitBatchNorm, GroupBatchNorm])
def test_one_part_is_ordinary(kind):
    torch.manual_seed(0)
    x = torch.randn(6, 3)
    split, plain = kind(3, 1), nn.BatchNorm1d(3)
    torch.testing.assert_close(split(x), plain(x))
    torch.testing.assert_close(split.running_var, plain.running_var)


def test_simclr_golden_and_the_moving_variance_that_differs():
    """Outputs are SimCLR's; its moving variance is the biased one, torch's (and ours) the unbiased."""
    g = golden("simclr_batchnorm")
    norm = SyncBatchNorm(4, eps=float(g["eps"]), momentum=1 - float(g["decay"]))
    norm.weight.data.copy_(g["gamma"])
    norm.bias.data.copy_(g["beta"])
    norm.running_mean.copy_(g["moving_mean0"])
    norm.running_var.copy_(g["moving_variance0"])
    x = g["x"].permute(0, 3, 1, 2)
    assert_agree(norm.eval()(x).relu().permute(0, 2, 3, 1), g["y_eval"], 5e-6)
    assert_agree(norm.train()(x).relu().permute(0, 2, 3, 1), g["y_train"], 5e-6)
    assert_agree(norm.running_mean, g["moving_mean1"], 5e-6)
    count = x.numel() / 4
    old = 0.9 * g["moving_variance0"]
    assert_agree(old + (norm.running_var - old) * (count - 1) / count, g["moving_variance1"], 5e-6)


KINDS = [("sync", SyncBatchNorm), ("split", SplitBatchNorm), ("groups", GroupBatchNorm)]


@pytest.mark.parametrize(("kind", "cls"), KINDS)
def test_convert_keeps_every_tensor(kind, cls):
    net = ResNet.Config(depth="small", stem="small").build()
    before, order = dict(net.state_dict(keep_vars=True)), list(net.state_dict())
    assert convert(net, kind, splits=4) is net
    after = net.state_dict(keep_vars=True)
    assert list(after) == order
    assert all(after[name] is before[name] for name in order)
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 9
    assert all(type(norm) is cls for norm in norms)
    convert(net, kind, splits=2)  # a second time: still the same tensors
    assert all(tensor is before[name] for name, tensor in net.state_dict(keep_vars=True).items())


def test_convert_leaves_alone_what_it_does_not_know():
    class Activated(nn.BatchNorm2d):
        pass

    with pytest.raises(ValueError, match="Activated cannot be converted"):
        convert(nn.Sequential(Activated(3)), "sync")
    norm = nn.BatchNorm2d(3)
    assert convert(norm, "plain") is norm
    assert isinstance(convert(norm, "split"), SplitBatchNorm)
