import pytest
import torch

from selfsup.losses.contrastive import l2_normalize
from selfsup.losses.diagnostics import feature_health


def test_figures_equal_their_definitions():
    torch.manual_seed(0)
    a, b = l2_normalize(torch.randn(300, 16)).requires_grad_(), l2_normalize(torch.randn(300, 16))
    health = feature_health(a, b)
    x, y = a.detach().double(), b.double()
    pairs = [(-2 * (x[i] - x[j]).square().sum()).exp() for i in range(256) for j in range(i)]
    assert health["uniformity"].item() == pytest.approx(torch.stack(pairs).mean().log().item(), rel=1e-5)
    assert health["alignment"].item() == pytest.approx((x - y).square().sum(1).mean().item(), rel=1e-5)
    assert health["feature_std"].item() == pytest.approx(4 * x.std(dim=0).mean().item(), rel=1e-5)
    assert not any(figure.requires_grad for figure in health.values())


def test_collapse_shows():
    torch.manual_seed(0)
    spread = l2_normalize(torch.randn(64, 128))
    collapsed = l2_normalize(torch.ones(64, 128) + 1e-4 * torch.randn(64, 128))
    good, bad = feature_health(spread, spread), feature_health(collapsed, collapsed)
    assert 0.95 < good["feature_std"] < 1.05
    assert -4 < good["uniformity"] < -3.5
    assert bad["feature_std"] < 1e-3
    assert bad["uniformity"] > -1e-3
