import pytest
import torch

from selfsup.losses.contrastive import l2_normalize, similarity
from selfsup.losses.mining import distance_weights, draw, one_pair_per_class
from selfsup.randomness import Stream, uniform
from tests.support.figures import assert_agree, golden


def test_golden_distance_weights():
    g = golden("metric_distance_weighted")
    rows = l2_normalize(g["emb_unit"].double())  # the reference normalises
    negative = g["labels"][:, None] != g["labels"]
    s = similarity(rows, rows)
    weights = distance_weights(s, negative, dim=16, cutoff=float(g["cutoff"]), farthest=float(g["nonzero_loss_cutoff"]))
    assert_agree(weights, g["weights"], 1e-9)
    assert torch.equal(weights > 0, g["valid"])
    assert torch.equal(weights.any(dim=1), g["row_valid"])
    usable = g["valid"] & g["row_valid"][:, None]
    logs = torch.where(usable, g["log_weights"], -torch.inf).log_softmax(dim=1)
    assert_agree(weights.log()[usable], logs[usable], 1e-9)
    assert distance_weights(similarity(g["emb_unit"], g["emb_unit"]), negative, dim=16).isfinite().all()


def test_draws_follow_the_probabilities():
    probabilities = torch.tensor([[0.0, 0.1, 0.0, 0.6, 0.3, 0.0], [0.0] * 6, [0.0, 0, 0, 0, 0, 1]]).double()
    uniforms = uniform(0, Stream.MINING, torch.arange(3), 20_000)
    counts = draw(probabilities, uniforms)
    assert torch.equal(counts.sum(dim=1), torch.tensor([20_000.0, 0, 20_000]).double())
    assert_agree(counts / 20_000, probabilities, 0.02)
    assert counts[probabilities == 0].max() == 0


def test_draws_invert_the_distribution_function():
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).double()
    for number, column in ((0.0, 1), (0.2499, 1), (0.25, 3), (1 - 2**-32, 3)):
        counts = draw(probabilities, torch.tensor([[number]], dtype=torch.float64))
        assert counts[0].argmax() == column, number
        assert counts.sum() == 1


def test_weighted_draws_spread_the_distances():
    """Uniform on the sphere, distances pile up at sqrt(2); weighted draws reach nearer ones as often."""
    torch.manual_seed(0)
    rows = l2_normalize(torch.randn(2000, 8, dtype=torch.float64))
    s = similarity(rows[:200], rows)
    negative = s < 0.999
    counts = draw(distance_weights(s, negative, dim=8), uniform(0, Stream.MINING, torch.arange(200), 50))
    drawn = (2 - 2 * s).clamp(min=0).sqrt()
    shares = [counts[(drawn >= low) & (drawn < low + 0.2)].sum() / counts.sum() for low in (0.8, 1.0, 1.2)]
    plain = [((drawn >= low) & (drawn < low + 0.2)).double().mean() for low in (0.8, 1.0, 1.2)]
    assert max(shares) < 1.5 * min(shares)
    assert max(plain) > 3 * min(plain)


def test_one_pair_of_every_class():
    labels = torch.tensor([3, 1, 3, 3, 0, 1, 0, 5])
    first, second = one_pair_per_class(labels, torch.tensor([0, 2, 4, 7]))
    assert first.tolist() == [True, False, True, True]
    assert second.nonzero().flatten().tolist() == [2, 5, 6]


def test_negatives_nearer_than_the_cutoff_weigh_as_much_as_those_at_it():
    distance = torch.tensor([[0.0, 0.1, 0.5, 0.9, 1.5]], dtype=torch.float64)
    weights = distance_weights(1 - distance.square() / 2, torch.ones(1, 5, dtype=torch.bool), dim=16, cutoff=0.5)[0]
    assert weights.sum().item() == pytest.approx(1)
    assert weights[:2].tolist() == pytest.approx([weights[2].item()] * 2)
    assert weights[3] < weights[2]
    assert weights[4] == 0
