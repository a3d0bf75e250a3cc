import pytest
import torch
from torch.nn.functional import normalize

from selfsup.losses.contrastive import info_nce, l2_normalize, nt_xent, similarity
from tests.support.figures import assert_agree, golden


def naive_nt_xent(rows, temperature):
    """Mean over 2N anchors, in double precision, one anchor after the other."""
    rows, count = rows.double(), len(rows) // 2
    losses = []
    for i in range(2 * count):
        scores = torch.stack([rows[i] @ rows[j] / temperature for j in range(2 * count) if j != i])
        losses.append(scores.exp().sum().log() - rows[i] @ rows[(i + count) % (2 * count)] / temperature)
    return torch.stack(losses).mean()


@pytest.mark.parametrize(("variant", "normed"), [("a", True), ("b", True), ("c", False)])
def test_simclr_golden(variant, normed):
    g = golden("simclr_loss")
    hidden = g["hidden"].clone().requires_grad_()
    views = (l2_normalize(hidden) if normed else hidden).chunk(2)
    loss, accuracy = nt_xent(views, views, 0, float(g[f"tau_{variant}"]), "simclr")
    assert_agree(loss, g[f"loss_{variant}"], 2e-5)
    assert accuracy == g[f"contrast_acc_{variant}"]
    assert_agree(torch.autograd.grad(loss, hidden)[0], g[f"grad_{variant}"], 2e-5)


def test_nt_xent_equals_the_naive_loop():
    torch.manual_seed(0)
    hidden = torch.randn(18, 5)
    expected_from, actual_from = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    expected = naive_nt_xent(normalize(expected_from), 0.2)
    views = l2_normalize(actual_from).chunk(2)
    actual, _ = nt_xent(views, views, 0, 0.2)
    assert_agree(actual, expected, 1e-6)
    assert_agree(
        torch.autograd.grad(3 * actual, actual_from)[0], torch.autograd.grad(3 * expected, expected_from)[0], 2e-6
    )


def test_nt_xent_of_local_rows_averages_to_the_whole():
    """What each of three processes would compute, with the gather replaced by the same tensor."""
    torch.manual_seed(1)
    hidden = torch.randn(24, 6, dtype=torch.float64, requires_grad=True)
    first, second = l2_normalize(hidden).chunk(2)
    whole, whole_accuracy = nt_xent((first, second), (first, second), 0, 0.3)
    parts = [nt_xent((first[at : at + 4], second[at : at + 4]), (first, second), at, 0.3) for at in (0, 4, 8)]
    loss = torch.stack([part for part, _ in parts]).mean()
    assert_agree(loss, whole, 1e-12)
    assert_agree(torch.stack([accuracy for _, accuracy in parts]).mean(), whole_accuracy, 1e-6)
    assert_agree(torch.autograd.grad(loss, hidden, retain_graph=True)[0], torch.autograd.grad(whole, hidden)[0], 1e-12)


def test_info_nce_equals_the_naive_loop():
    torch.manual_seed(3)
    q, k, negatives = (l2_normalize(torch.randn(n, 8)) for n in (6, 6, 11))
    mask = torch.rand(6, 11) < 0.3
    expected, hits = [], []
    for i in range(6):
        positive = q[i].double() @ k[i].double() / 0.1
        others = [q[i].double() @ negatives[j].double() / 0.1 for j in range(11) if not mask[i, j]]
        expected.append(torch.stack([positive, *others]).exp().sum().log() - positive)
        hits.append(float(positive > max(others)))
    loss, accuracy = info_nce(q, k, negatives, 0.1, mask)
    assert_agree(loss, torch.stack(expected).mean(), 1e-6)
    assert accuracy.item() == pytest.approx(sum(hits) / 6)


def test_masked_negatives_get_no_gradient():
    torch.manual_seed(4)
    q, k, negatives = (l2_normalize(torch.randn(n, 8)).requires_grad_() for n in (2, 2, 5))
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[:, 3] = True
    gradient = torch.autograd.grad(info_nce(q, k, negatives, 0.1, mask)[0], negatives)[0]
    assert gradient[3].abs().max() == 0
    assert gradient[[0, 1, 2, 4]].abs().amax(dim=1).min() > 0


def test_a_collapsed_encoder_scores_nothing():
    same = l2_normalize(torch.eye(4)[:1].expand(6, 4))
    assert info_nce(same, same, same, 0.1)[1] == 0
    assert nt_xent((same, same), (same, same), 0, 0.1)[1] == 0


def test_logits_are_never_in_half_precision():
    torch.manual_seed(5)
    a = torch.randn(4, 64)
    with torch.autocast("cpu", torch.bfloat16):
        low = similarity(a, a)
        halves = similarity(a.bfloat16(), a.bfloat16())
    assert low.dtype == halves.dtype == l2_normalize(a.half()).dtype == torch.float32
    assert_agree(low, a.double() @ a.double().T, 1e-6)
    assert l2_normalize(a.double()).dtype == torch.float64
