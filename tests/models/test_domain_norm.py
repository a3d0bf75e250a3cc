import copy

import pytest
import torch
from torch import nn

from selfsup.models import norm as norms
from selfsup.models.domain_norm import DomainBatchNorm, target_state, to_domains
from selfsup.models.heads import Head
from selfsup.models.resnet import ResNet


def different_sets(features):
    """A norm whose eight tensors are all different, in float64."""
    torch.manual_seed(0)
    norm = DomainBatchNorm(features).double()
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 2)
    return norm


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 2, 5)])
def test_each_domain_has_its_own_norm(shape):
    norm = different_sets(3)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    x = torch.randn(shape, dtype=torch.float64)
    x[1::2] = 5 + 3 * x[1::2]  # what they would share would be neither's
    y = norm(x)
    for first, prefix in ((0, "source_"), (1, "")):
        for channel in range(3):
            values = torch.cat([x[row, channel].flatten() for row in range(first, 6, 2)])
            mean = values.sum() / len(values)
            squares = (values - mean).square().sum()
            scale, shift = (before[f"{prefix}{name}"][channel] for name in ("weight", "bias"))
            for row in range(first, 6, 2):
                expected = (x[row, channel] - mean) / (squares / len(values) + 1e-5).sqrt() * scale + shift
                torch.testing.assert_close(y[row, channel], expected)
            new = {"running_mean": mean, "running_var": squares / (len(values) - 1)}
            for name, batch in new.items():
                expected = 0.9 * before[f"{prefix}{name}"][channel] + 0.1 * batch
                torch.testing.assert_close(norm.state_dict()[f"{prefix}{name}"][channel], expected)
    assert norm.num_batches_tracked == before["num_batches_tracked"] + 1


def test_gradients_stay_in_their_domain():
    norm = different_sets(3)
    x = torch.randn(6, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    norm(x)[1::2].square().sum().backward()
    assert x.grad[0::2].eq(0).all()
    assert x.grad[1::2].ne(0).any()
    assert norm.weight.grad.ne(0).all()
    assert norm.source_weight.grad.eq(0).all()
    assert torch.autograd.gradcheck(norm, torch.randn(4, 3, dtype=torch.float64, requires_grad=True))


def test_evaluation_is_the_targets():
    norm = different_sets(3).eval()
    plain = nn.BatchNorm2d(3).double()
    plain.load_state_dict(target_state(norm))
    x = torch.randn(3, 3, 2, 2, dtype=torch.float64)  # an odd batch is no matter here
    assert torch.equal(norm(x), plain.eval()(x))


def test_converted_networks_go_back_to_plain_ones():
    torch.manual_seed(0)
    net = ResNet.Config(depth="small", stem="small").build()
    before, plain = dict(net.state_dict(keep_vars=True)), copy.deepcopy(net)
    assert to_domains(net) is net
    to_domains(net)  # a second time: nothing happens
    after = net.state_dict(keep_vars=True)
    assert all(after[key] is tensor for key, tensor in before.items())
    source = sorted(set(after) - set(before))
    assert len(source) == 4 * 9
    for key in source:
        assert torch.equal(after[key], after[key.replace("source_", "")])
        assert after[key] is not after[key.replace("source_", "")]
    images = torch.randn(8, 3, 16, 16)
    out = net(images)
    halves = copy.deepcopy(plain)(images[0::2]), copy.deepcopy(plain)(images[1::2])
    torch.testing.assert_close(out, torch.stack(halves, dim=1).flatten(0, 1))
    state = target_state(net)
    assert list(state) == list(plain.state_dict())
    plain.load_state_dict(state)
    assert torch.equal(plain.eval()(images), net.eval()(images))


def test_target_state_leaves_other_names_alone():
    net = nn.ModuleDict({"source_bias": to_domains(nn.BatchNorm1d(2))})
    net.register_buffer("source_weight", torch.zeros(1))
    plain = nn.BatchNorm1d(2).state_dict()
    assert set(target_state(net)) == {"source_weight", *(f"source_bias.{name}" for name in plain)}
    assert set(target_state(to_domains(nn.BatchNorm1d(2)))) == set(plain)  # a norm itself


def test_what_is_frozen_stays_frozen():
    head = to_domains(Head.Config(hidden_layers=1, output_dim=4, batch_norm="all").build(5))
    trained = [norm.source_bias.requires_grad for norm in head.modules() if isinstance(norm, DomainBatchNorm)]
    assert trained == [True, False]
    assert not to_domains(nn.BatchNorm1d(3).eval()).training


def test_the_layout_of_memory_survives():
    norm = DomainBatchNorm(3)
    for layout in (torch.contiguous_format, torch.channels_last):
        y = norm(torch.randn(4, 3, 5, 6).contiguous(memory_format=layout))
        assert y.is_contiguous(memory_format=layout)


def test_running_statistics_of_both_sets_are_averaged(monkeypatch):
    """With another process whose statistics are higher by 2, all four of ours go up by 1; the count stays."""
    monkeypatch.setattr(norms, "is_distributed", lambda: True)
    monkeypatch.setattr(norms, "mean_over_processes", lambda local: local + 1)
    net = nn.Sequential(different_sets(3), nn.BatchNorm1d(3).double())
    before = {key: value.clone() for key, value in net.state_dict().items()}
    norms.average_running_statistics(net)
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, before[key] + 1 if "running" in key else before[key])
    net.eval()
    norms.average_running_statistics(net)
    assert torch.equal(net[0].source_running_var, before["0.source_running_var"] + 1)


def test_bad_input_is_refused():
    norm = DomainBatchNorm(3)
    with pytest.raises(ValueError, match="a batch of 5 cannot alternate between source and target rows"):
        norm(torch.randn(5, 3))
    with pytest.raises(ValueError, match="input of 3 dimensions"):
        norm(torch.randn(4, 3, 2))
    for other in (norms.SyncBatchNorm(3), nn.BatchNorm2d(3, affine=False), nn.BatchNorm1d(3, momentum=None)):
        with pytest.raises(ValueError, match="cannot be kept per domain"):
            to_domains(nn.Sequential(other))
