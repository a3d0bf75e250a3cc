import pytest
import torch
from torch.nn.functional import normalize

from selfsup.losses.contrastive import contrast_logits, first_is_positive
from selfsup.losses.mixing import mixed_scores
from tests.support.figures import assert_agree, golden


def golden_numbers(g, scores):
    """The uniform numbers that lead to the given choices, and where there are such: i = j is never drawn."""
    hardest = scores.topk(int(g["N"]), dim=1).indices
    assert torch.equal(hardest.sort(dim=1).values, g["hard_idx"])
    size = int(g["N"])

    def place(chosen):  # rank among the hardest
        return (chosen[:, :, None] == hardest[:, None]).long().argmax(dim=2)

    i, j = place(g["pair_i"]), place(g["pair_j"])
    second = ((j - i - 1) % size + 0.5) / (size - 1)
    mixed = (place(g["mix_j"]) + 0.5) / size
    return torch.cat([(i + 0.5) / size, second, g["alpha"], mixed, 2 * g["beta"].double()], dim=1), i != j


def test_golden():
    g = golden("mochi")
    raw = g["q_raw"].double().requires_grad_()
    queries, keys, queue = normalize(raw), normalize(g["k"].double()), g["queue0"].double()
    logits = contrast_logits(queries, keys, queue, 1.0)
    numbers, distinct = golden_numbers(g, logits[:, 1:].detach())
    s, s_prime = int(g["s"]), int(g["s_prime"])
    mixed = mixed_scores(queries, queue, logits[:, 1:], numbers, int(g["N"]), s, s_prime)
    # Where the published choice was i = j, the mixture is the negative itself, twice.
    twice = torch.einsum("bd,bsd->bs", queries, queue[g["pair_i"]])
    mixed = torch.cat([torch.where(distinct, mixed[:, :s], twice), mixed[:, s:]], dim=1)
    logits = torch.cat([logits, mixed], dim=1) / g["T"]
    assert_agree(logits, g["logits"], 1e-5)
    loss, _ = first_is_positive(logits)
    assert_agree(loss, g["loss"], 1e-5)
    loss.backward()
    assert_agree(raw.grad, g["grad_q_raw"], 1e-5)


def test_chunks_and_what_does_not_count(monkeypatch):
    torch.manual_seed(0)
    queries, negatives = normalize(torch.randn(6, 8)).requires_grad_(), normalize(torch.randn(20, 8))
    numbers = torch.rand(6, 3 * 10 + 2 * 5)
    numbers[0, 20:30] = 0  # shares of exactly 0 ...
    scores = queries @ negatives.T
    whole = mixed_scores(queries, negatives, scores, numbers, 8, 10, 5)
    monkeypatch.setattr("selfsup.losses.mixing._ALIVE", 2 * 10 * 8)
    assert torch.equal(whole, mixed_scores(queries, negatives, scores, numbers, 8, 10, 5))
    masked = scores.masked_fill(torch.arange(20) >= 5, -torch.inf)  # ... of negatives that do not count
    part = mixed_scores(queries, negatives, masked, numbers, 8, 10, 5)
    assert part.isneginf().any()
    assert not part.isnan().any()
    part.logsumexp(dim=1).sum().backward()
    assert queries.grad.isfinite().all()


def test_mixtures_are_between_what_they_are_made_of():
    """A mixture of a query with a negative is nearer to the query than the negative; one of two lies between them."""
    torch.manual_seed(0)
    queries, negatives = normalize(torch.randn(6, 32)), normalize(torch.randn(50, 32))
    scores = queries @ negatives.T
    mixed = mixed_scores(queries, negatives, scores, torch.rand(6, 40), 2, 10, 5)
    top = scores.topk(2, dim=1).values
    assert (mixed[:, :10] >= top[:, 1:] - 1e-6).all()
    assert (mixed[:, 10:] >= top[:, 1:] - 1e-6).all()
    assert (mixed <= 1 + 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mixture_without_direction_scores_0_and_has_no_gradient(dtype):
    """Two opposite negatives by halves, and a query with its opposite; exactly, and by rounding alone."""
    torch.manual_seed(0)
    queries = normalize(torch.randn(500, 24, dtype=dtype))
    one = normalize(torch.randn(1, 24, dtype=dtype))
    numbers = torch.tensor([[0.0, 0.0, 0.5]], dtype=dtype).expand(500, 3)
    leaf = queries.clone().requires_grad_()
    opposite = torch.cat([one, -one])
    mixed = mixed_scores(leaf, opposite, leaf @ opposite.T, numbers, 2, 1, 0)
    assert torch.equal(mixed, torch.zeros_like(mixed))
    mixed.logsumexp(dim=1).sum().backward()
    assert torch.equal(leaf.grad, torch.zeros_like(queries))

    for query in queries:
        leaf = query[None].clone().requires_grad_()
        negative = -query[None] * (1 + 3 * torch.finfo(dtype).eps)
        almost = torch.tensor([[0.0, 1 - torch.finfo(dtype).eps]], dtype=dtype)
        mixed = mixed_scores(leaf, negative, leaf @ negative.T, almost, 1, 0, 1)
        (gradient,) = torch.autograd.grad(mixed.sum(), leaf)
        assert torch.equal(mixed, torch.zeros_like(mixed))
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_mixtures_that_nearly_cancel_out_stay_bounded():
    torch.manual_seed(0)
    queries, one = normalize(torch.randn(500, 24)).requires_grad_(), normalize(torch.randn(1, 24))
    for angle in (1e-5, 1e-4, 3e-4, 1e-3, 1e-2):
        other = normalize(-one + angle * normalize(torch.randn(1, 24)))
        negatives = torch.cat([one, other])
        numbers = torch.tensor([[0.0, 0.0, 0.5]]).expand(500, 3)
        mixed = mixed_scores(queries, negatives, queries @ negatives.T, numbers, 2, 1, 0)
        assert mixed.abs().max() < 1.5
        (gradient,) = torch.autograd.grad(mixed.sum(), queries)
        assert gradient.norm(dim=1).max() < 1.5
