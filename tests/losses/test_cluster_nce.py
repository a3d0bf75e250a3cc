import math

import pytest
import torch
import torch.nn.functional as F

from selfsup.losses.cluster import cluster_nce
from tests.support.figures import assert_agree, golden


def test_golden():
    g = golden("spcl_memory")
    for batch, memory in enumerate((g["memory0"], g["memory"][0])):
        x = g["x"][batch].clone().requires_grad_()
        losses, _ = cluster_nce(x, memory, g["labels"], g["labels"][g["idx"][batch]], float(g["tau"]))
        assert_agree(losses.mean(), g["loss"][batch], 5e-6)
        losses.mean().backward()
        assert_agree(x.grad, g["grad_x"][batch], 5e-6)


def example(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    memory, x = (F.normalize(torch.randn(n, 6, generator=generator)).to(dtype) for n in (20, 7))
    labels = torch.randint(9, (20,), generator=generator) * 2  # half of the numbers are nobody's
    targets = labels[torch.randint(20, (7,), generator=generator)]
    targets[:3] = labels[(x[:3] @ memory.T).argmax(dim=1)]  # some that are near their class
    return x, memory, labels, targets


def test_equals_a_loop_over_classes():
    x, memory, labels, targets = example()
    losses, accuracy = cluster_nce(x, memory, labels, targets, 0.1)
    hits = 0
    for row in range(7):
        logits = {c: float((x[row] * memory[labels == c].mean(dim=0)).sum()) / 0.1 for c in labels.unique().tolist()}
        total = sum(math.exp(logit) for logit in logits.values()) + 1e-6
        own = logits.pop(int(targets[row]))
        assert losses[row].item() == pytest.approx(-math.log(math.exp(own) / total + 1e-6), abs=1e-12)
        hits += own > max(logits.values())
    assert 0 < hits < 7
    assert accuracy.item() == pytest.approx(hits / 7)


def test_the_small_constants_count():
    """Plain cross-entropy would grow without bound."""
    memory = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    losses, _ = cluster_nce(memory[:1], memory, torch.arange(2), torch.tensor([1]), 0.05)
    assert_agree(losses[0], torch.tensor(-math.log(1e-6 + math.exp(-40))), 1e-6)


def test_no_temperature_overflows():
    """The published code's exponentials do in float32 from 1 / 88 on; the limit is a loss of 0 or of -log 1e-6."""
    memory = F.normalize(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    x = memory[:2].clone().requires_grad_()
    losses, _ = cluster_nce(x, memory, torch.arange(5), torch.tensor([0, 2]), 1e-4)
    torch.testing.assert_close(losses, torch.tensor([0.0, -math.log(1e-6)]), rtol=0, atol=2e-6)
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    assert gradient.isfinite().all()


def test_gradient():
    x, memory, labels, targets = example()
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: cluster_nce(x, memory, labels, targets, 0.1)[0], (x,))


def test_single_precision_under_autocast():
    x, memory, labels, targets = example(torch.float32)
    expected, _ = cluster_nce(x, memory, labels, targets, 0.05)
    with torch.autocast("cpu", torch.bfloat16):
        losses, _ = cluster_nce(x, memory, labels, targets, 0.05)
    assert torch.equal(losses, expected)


@pytest.mark.gpu
def test_the_same_bits_every_time_on_a_gpu():
    generator = torch.Generator("cuda").manual_seed(0)
    memory = F.normalize(torch.randn(5000, 64, device="cuda", generator=generator))
    labels = torch.randint(50, (5000,), device="cuda", generator=generator)
    results = [cluster_nce(memory[:32], memory, labels, labels[:32], 0.05)[0] for _ in range(5)]
    assert all(torch.equal(result, results[0]) for result in results)


def test_numbers_of_no_class_put_no_nan_into_the_backward():
    """torch's search for NaN must stay of use where a class has lost its last member."""
    x, memory, labels, targets = example()
    leaf = x.clone().requires_grad_()
    with torch.autograd.set_detect_anomaly(True):
        cluster_nce(leaf, memory, labels, targets, 0.1)[0].mean().backward()
    assert leaf.grad.isfinite().all()
