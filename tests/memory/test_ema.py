import torch
from torch import nn

from selfsup.memory.ema import ema_update


def net(seed):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    module(torch.randn(8, 3))  # so that running statistics differ
    return module


def test_parameters_move_and_buffers_stay():
    target, source, before = net(0), net(1), net(0)
    ema_update(target, source, 0.9)
    for new, old, other in zip(target.parameters(), before.parameters(), source.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * other)
    assert all(torch.equal(a, b) for a, b in zip(target.buffers(), before.buffers(), strict=True))
    assert all(p.requires_grad for p in target.parameters())
    assert not any(p.grad_fn for p in target.parameters())


def test_equal_weights_stay_equal_to_the_last_bit():
    target, source = net(0), net(0)
    ema_update(target, source, 0.999)
    assert all(torch.equal(a, b) for a, b in zip(target.parameters(), source.parameters(), strict=True))
