import pytest
import torch
import torch.nn.functional as F
from torch import nn

from selfsup.models.heads import Head


def test_moco_heads():
    torch.manual_seed(0)
    x = torch.randn(5, 12)
    linear = Head.Config(hidden_layers=0, output_dim=4).build(12)
    assert torch.equal(linear(x), F.linear(x, *linear.parameters()))
    mlp = Head.Config(hidden_layers=1, output_dim=4).build(12)
    w1, b1, w2, b2 = mlp.parameters()
    assert w1.shape == (12, 12)
    assert torch.equal(mlp(x), F.linear(F.linear(x, w1, b1).relu(), w2, b2))


def test_simclr_head_is_the_published_one():
    torch.manual_seed(0)
    x = torch.randn(16, 200)
    head = Head.Config(hidden_layers=2, output_dim=8, batch_norm="all").build(200)
    linears = [module for module in head.modules() if isinstance(module, nn.Linear)]
    norms = [module for module in head.modules() if isinstance(module, nn.BatchNorm1d)]
    assert [linear.out_features for linear in linears] == [200, 200, 8]
    assert all(linear.bias is None and linear.weight.std().item() == pytest.approx(0.01, rel=0.1) for linear in linears)
    assert [norm.bias.requires_grad for norm in norms] == [True, True, False]
    expected = x.double()
    for linear in linears:
        expected = expected @ linear.weight.double().T
        variance, mean = torch.var_mean(expected, dim=0, correction=0)
        expected = (expected - mean) / (variance + 1e-5).sqrt()
        expected = expected if linear is linears[-1] else expected.relu()
    torch.testing.assert_close(head(x).double(), expected, rtol=1e-4, atol=1e-4)


def test_hidden_layers_can_be_addressed():
    head = Head.Config(hidden_layers=2, hidden_dim=7, output_dim=3, batch_norm="hidden").build(5).eval()
    x = torch.randn(4, 5)
    assert head.hidden(x, 0) is x
    assert [head.hidden(x, layer).shape[1] for layer in (1, 2, 3)] == [7, 7, 3]
    assert head.hidden(x, 1).min() == 0
    assert torch.equal(head.hidden(x, 3), head(x))


def test_bad_configurations_are_refused():
    with pytest.raises(ValueError, match="hidden_layers is -1"):
        Head.Config(hidden_layers=-1)
    with pytest.raises(ValueError, match="output_dim is 0"):
        Head.Config(output_dim=0)
