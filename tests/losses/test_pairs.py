from functools import partial
from itertools import product
from math import exp, inf, log, sqrt

import pytest
import torch

from selfsup.losses.contrastive import l2_normalize, similarity
from selfsup.losses.pairs import (
    contrastive,
    distance_similarity,
    distances,
    margin_loss,
    similarity_contrastive,
    triplet,
)
from selfsup.losses.soft_pairs import circle, circle_of_batch, generalized_lifted, lifted, multi_similarity, n_pair
from tests.support.figures import assert_agree, golden


def masks(labels):
    same = labels[:, None] == labels
    return same & ~torch.eye(len(labels), dtype=torch.bool), ~same


def assert_golden(case, loss, rows, labels, suffix, tolerance, dtype=torch.float64, measure=distance_similarity):
    """`loss` of all pairs of the rows, and its gradient, against the arrays loss_<suffix> and grad_<suffix>."""
    g = golden(case)
    leaf = g[rows].to(dtype).requires_grad_()
    value = loss(measure(leaf, leaf), *masks(g[labels]))
    assert value.dtype == (torch.float64 if measure is distance_similarity else dtype)
    assert_agree(value, g[f"loss_{suffix}"], tolerance, suffix)
    assert_agree(torch.autograd.grad(value, leaf)[0], g[f"grad_{suffix}"], tolerance, suffix)


SETS = {"": ("emb", "labels"), "_unit": ("emb_unit", "labels"), "_unbalanced": ("emb_unit", "labels_unbalanced")}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("suffix", SETS)
def test_golden_of_lifted_structure_and_batch_hard(suffix, dtype):
    rows, labels = SETS[suffix]
    check = partial(assert_golden, rows=rows, labels=labels, dtype=dtype)
    for case, loss, names in (
        ("metric_lifted", lifted, ("lifted", "tfa_lifted")),
        ("metric_general_lifted", generalized_lifted, ("glifted",)),
        ("metric_batch_hard", partial(triplet, mining="hard"), ("hard", "tfa_hard")),
    ):
        for name in names:
            exact = dtype == torch.float64 and "tfa" not in name
            check(case, loss, suffix=name + suffix, tolerance=1e-11 if exact else 5e-6)


@pytest.mark.parametrize("set_", ["unit", "unbalanced"])
def test_golden_of_the_other_triplet_losses(set_):
    rows, labels = SETS[f"_{set_}"]
    hard = partial(assert_golden, "metric_batch_hard", rows=rows, labels=labels, tolerance=5e-6)
    hard(partial(triplet, mining="hard", squared=True), suffix=f"tfa_squared_hard_{set_}")
    hard(partial(triplet, mining="hard", soft_margin=True), suffix=f"tfa_soft_hard_{set_}")
    for distance, (name, margin) in product(["l2", "squared"], [("a", 0.2), ("b", 1.0)]):
        loss = partial(triplet, margin=margin, mining="semihard", squared=distance == "squared")
        assert_golden("metric_semihard", loss, rows, labels, f"{distance}_{set_}_{name}", 1e-5)


@pytest.mark.parametrize(("setting", "margin", "scale"), [("a", 0.25, 64.0), ("b", 0.4, 80.0)])
def test_golden_of_circle(setting, margin, scale):
    check = partial(assert_golden, "metric_circle", rows="emb_unit", labels="labels_unbalanced", measure=similarity)
    check(partial(circle_of_batch, margin=margin, scale=scale), suffix=f"batch_{setting}", tolerance=1e-12)
    check(
        partial(circle, margin=margin, scale=scale),
        suffix=f"anchor_{setting}",
        tolerance=1e-7,  # the rows are of unit norm in single precision
        measure=lambda a, b: similarity(l2_normalize(a), l2_normalize(b)),
    )


def test_golden_of_contrastive():
    """The reference lacks the paper's factor of a half; its pairs are row i of one matrix and row i of the other."""
    g = golden("metric_contrastive")
    a, b = (g[name].double().requires_grad_() for name in ("a", "b"))
    s = distance_similarity(a, b).diagonal()[:, None]  # 16 anchors with one reference each
    assert_agree(distances(s)[:, 0], g["distance"], 2e-6)
    same = g["same"].bool()[:, None]
    pairs = torch.stack([contrastive(s[i : i + 1], same[i : i + 1], ~same[i : i + 1]) for i in range(len(s))])
    assert_agree(2 * pairs, g["loss_per_pair"], 2e-6)
    loss = 2 * contrastive(s, same, ~same)
    assert_agree(loss, g["loss_mean"], 2e-6)
    for leaf, name in zip(torch.autograd.grad(loss, (a, b)), ("grad_a", "grad_b"), strict=True):
        assert_agree(leaf, g[name], 2e-6, name)


def test_golden_of_n_pair():
    g = golden("metric_npair")
    anchor, positive = (g[name].double().requires_grad_() for name in ("anchor", "positive"))
    own = torch.eye(8, dtype=torch.bool)
    loss = n_pair(similarity(anchor, positive), own, ~own)
    gradients = torch.autograd.grad(loss, (anchor, positive))
    for name, value in zip(("loss", "grad_anchor", "grad_positive"), (loss, *gradients), strict=True):
        assert_agree(value, g[name], 1e-12, name)
        assert_agree(value, g[name.replace("loss", "loss_tfa").replace("grad", "grad_tfa")], 5e-6, name)


BY_DISTANCE = {
    "contrastive": partial(contrastive, margin=1e-2),
    "triplet": partial(triplet, margin=1e-3, mining="all"),
    "semihard": partial(triplet, margin=1e-3, mining="semihard"),
    "hard": partial(triplet, margin=1e-3, mining="hard"),
    "lifted": lifted,
    "generalized_lifted": generalized_lifted,
    "margin": partial(margin_loss, beta=2e-3, margin=1e-3),
}


# Mined pairs are chosen by comparing distances, of which the reference's own have no digits to spare at 1e-5.
NEAR = [(name, apart) for name in BY_DISTANCE for apart in (1e-2, 1e-3, 3e-4, 1e-4 if "hard" in name else 1e-5)]


@pytest.mark.parametrize(("name", "apart"), NEAR)
def test_rows_near_each_other_keep_their_distances_and_gradients(name, apart):
    """Single precision, as in training, against norms of differences in double: 2 - 2 s has no digit left there."""
    generator = torch.Generator().manual_seed(0)
    center, spread = torch.randn(1, 16, generator=generator), torch.randn(24, 16, generator=generator)
    rows = l2_normalize(l2_normalize(center) + apart * l2_normalize(spread) * torch.rand(24, 1, generator=generator))
    assert rows.dtype == torch.float32
    labels = torch.arange(24) % 4
    exact, leaf = rows.double().requires_grad_(), rows.clone().requires_grad_()
    apart_by = (exact[:, None] - exact).square().sum(dim=2)
    wanted = BY_DISTANCE[name](1 - apart_by / 2, *masks(labels))
    found = BY_DISTANCE[name](distance_similarity(leaf, leaf), *masks(labels))
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    (gradient,), (right,) = (torch.autograd.grad(value, leaf) for value, leaf in ((found, leaf), (wanted, exact)))
    assert (gradient - right).norm() <= 1e-5 * right.norm()


@pytest.mark.parametrize("apart", [1e-1, 1e-3, 1e-4, 1e-5])
def test_distances_are_norms_of_differences(apart):
    generator = torch.Generator().manual_seed(2)
    rows = l2_normalize(
        l2_normalize(torch.randn(1, 16, generator=generator)) + apart * torch.randn(24, 16, generator=generator)
    )
    exact = (rows.double()[:, None] - rows.double()).norm(dim=2)
    assert torch.allclose(distances(distance_similarity(rows, rows)), exact, rtol=1e-5, atol=1e-7)


def test_a_row_is_at_distance_zero_of_its_copy():
    rows = l2_normalize(torch.randn(40, 64, generator=torch.Generator().manual_seed(1))).requires_grad_()
    apart = distances(distance_similarity(rows, rows)).diagonal()
    assert not apart.any()
    assert not torch.autograd.grad(apart.sum(), rows)[0].any()


def counts(anchors, others, size):
    return torch.zeros(size, size).index_put_((anchors, others), torch.tensor(1.0), accumulate=True)


@pytest.mark.parametrize("kind", ["fixed", "class", "class_nu"])
def test_golden_of_margin(kind):
    g = golden("metric_margin")
    anchors, positives, negatives = g["triplets"].T
    rows, beta = g["emb_unit"].double().requires_grad_(), g["beta_class"].double().requires_grad_()
    loss = margin_loss(
        distance_similarity(rows, rows),
        counts(anchors, positives, 16),
        counts(anchors, negatives, 16),
        beta=float(g["beta"]) if kind == "fixed" else beta[g["labels_unbalanced"]],
        margin=float(g["margin"]),
        nu=float(g["nu"]) if kind == "class_nu" else 0.0,
    )
    assert_agree(loss, g[f"loss_{kind}"], 1e-8)
    loss.backward()
    assert_agree(rows.grad, g[f"grad_{kind}"], 1e-8)
    if kind != "fixed":
        assert_agree(beta.grad, g[f"grad_beta_{kind}"], 1e-8)


def test_golden_of_xbm():
    """Loss and gradient against the batch and against the published memory, which contains the batch."""
    g = golden("xbm_pair")
    for step in range(4):
        x, y = g["x"][step].double().requires_grad_(), g["y"][step]
        valid = int(g["num_valid"][step])
        memory, labels = g["memory"][step][:valid].double(), g["memory_labels"][step][:valid].long()
        for name, references, classes in (("batch", x, y), ("memory", memory, labels)):
            own = (x[:, None] == references).all(dim=2)
            assert own.sum() == 8
            same = y[:, None] == classes
            loss = similarity_contrastive(similarity(x, references), same & ~own, ~same)
            assert_agree(loss, g[f"loss_{name}"][step], 1e-12, name)
            assert_agree(torch.autograd.grad(loss, x)[0], g[f"grad_{name}"][step], 1e-12, name)


def naive_all(s, positive, negative, margin, squared):
    terms = []
    for a, p, n in product(range(len(s)), range(s.shape[1]), range(s.shape[1])):
        if positive[a, p] and negative[a, n]:
            near, far = 2 - 2 * s[a, p], 2 - 2 * s[a, n]
            terms.append(((near - far if squared else near.sqrt() - far.sqrt()) + margin).relu())
    return torch.stack(terms).mean()


def some_pairs(seed, anchors=7, references=11, loners=True):
    """Similarities below 1, and masks with an anchor each without positives, without negatives, without either."""
    generator = torch.Generator().manual_seed(seed)
    s = torch.rand(anchors, references, dtype=torch.float64, generator=generator) * 1.6 - 0.7
    kind = torch.randint(3, s.shape, generator=generator)
    positive, negative = kind == 0, kind == 1
    if loners:
        positive[0] = negative[1] = positive[2] = negative[2] = False
    return s.requires_grad_(), positive, negative


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("margin", [0.05, 0.6])
def test_all_triplets_equal_the_naive_loop(margin, squared):
    s, positive, negative = some_pairs(0)
    loss = triplet(s, positive, negative, margin, "all", squared)
    expected = naive_all(s, positive, negative, margin, squared)
    assert_agree(loss, expected, 1e-12)
    assert_agree(torch.autograd.grad(loss, s)[0], torch.autograd.grad(expected, s)[0], 1e-12)


def test_multi_similarity_equals_the_naive_loop():
    s, positive, negative = some_pairs(1)
    total = 0.0
    for row, pos, neg in zip(s.tolist(), positive, negative, strict=True):
        near = [row[j] for j in range(len(row)) if pos[j]]
        far = [row[j] for j in range(len(row)) if neg[j]]
        kept_near = [x for x in near if x - 0.1 < max(far, default=-inf)]
        kept_far = [x for x in far if x + 0.1 > min(near, default=inf)]
        if kept_near and kept_far:
            total += log(1 + sum(exp(-2 * (x - 0.5)) for x in kept_near)) / 2
            total += log(1 + sum(exp(50 * (x - 0.5)) for x in kept_far)) / 50
    assert_agree(multi_similarity(s, positive, negative), torch.tensor(total / len(s), dtype=torch.float64), 1e-12)


def test_lifted_against_a_memory_takes_the_anchors_negatives_for_both():
    s, positive, negative = some_pairs(2)
    terms = []
    for row, pos, neg in zip(s.tolist(), positive, negative, strict=True):
        own = sum(exp(1 - sqrt(2 - 2 * row[j])) for j in range(len(row)) if neg[j])
        for j in range(len(row)):
            if pos[j]:
                excess = log(2 * own) + sqrt(2 - 2 * row[j]) if own else 0
                terms.append(max(0, excess) ** 2 / 2)
    expected = torch.tensor(sum(terms) / len(terms), dtype=torch.float64)
    assert_agree(lifted(s, positive, negative, mutual=False), expected, 1e-12)


def test_circle_of_a_memory_counts_each_pair_once():
    s, positive, negative = some_pairs(3)
    pull = sum(exp(-9 * max(0, 1.3 - x) * (x - 0.7)) for x in s[positive].tolist())
    push = sum(exp(9 * max(0, x + 0.3) * (x - 0.3)) for x in s[negative].tolist())
    loss = circle_of_batch(s, positive, negative, margin=0.3, scale=9, mutual=False)
    assert_agree(loss, torch.tensor(log(1 + pull * push), dtype=torch.float64), 1e-12)


LOSSES = {
    "contrastive": contrastive,
    "similarity_contrastive": similarity_contrastive,
    "triplet_all": partial(triplet, mining="all"),
    "triplet_semihard": partial(triplet, mining="semihard"),
    "triplet_hard": partial(triplet, mining="hard"),
    "triplet_soft": partial(triplet, mining="hard", soft_margin=True),
    "margin": partial(margin_loss, nu=0.1),
    "n_pair": n_pair,
    "lifted": lifted,
    "generalized_lifted": generalized_lifted,
    "circle": circle,
    "circle_of_batch": circle_of_batch,
    "multi_similarity": multi_similarity,
}


# The circle loss has weights that are constants to its gradient, and not to a difference; the golden figures have it.
@pytest.mark.parametrize("name", [name for name in LOSSES if not name.startswith("circle")])
def test_gradient_numerically(name):
    torch.manual_seed(4)
    rows = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    positive, negative = masks(torch.tensor([0, 0, 0, 1, 1, 2, 2, 3]))  # one of class 3: without a positive
    assert torch.autograd.gradcheck(
        lambda x: LOSSES[name](similarity(l2_normalize(x), l2_normalize(x)), positive, negative), rows
    )


@pytest.mark.parametrize("name", LOSSES)
def test_duplicates_and_lone_anchors_have_finite_gradients(name):
    """Rows that are equal, antipodal, without positives, without negatives, in single precision."""
    loss = LOSSES[name]
    rows = l2_normalize(torch.tensor([[1.0, 2, 3], [1, 2, 3], [-1, -2, -3], [0, 1, 0], [0, 1, 0]])).requires_grad_()
    for labels in ([0, 0, 1, 1, 2], [0, 0, 0, 0, 0], [0, 1, 2, 3, 4]):
        value = loss(similarity(rows, rows), *masks(torch.tensor(labels)))
        gradient = torch.autograd.grad(value, rows)[0]
        assert value.isfinite(), labels
        assert gradient.isfinite().all(), labels
    nothing = torch.zeros(5, 5, dtype=torch.bool)
    value = loss(similarity(rows, rows), nothing, nothing)
    assert value == 0
    assert torch.autograd.grad(value, rows)[0].abs().max() == 0


def of_two_processes(loss, s, positive, negative, sent):
    """Both processes' losses and what they gathered, where `sent` is what each had to gather before."""
    gathered, results = ([], []), []
    for process, part in enumerate((slice(0, 4), slice(4, 8))):

        def gather(local, process=process):
            others = sent[1 - process]
            theirs = others[len(gathered[process])] if others else local
            gathered[process].append(local)
            return torch.cat([local, theirs] if process == 0 else [theirs, local])

        results.append(loss(s[part], positive[part], negative[part], gather=gather))
    return results, gathered


@pytest.mark.parametrize("name", LOSSES)
def test_local_anchors_give_the_loss_of_all(name):
    torch.manual_seed(5)
    rows = l2_normalize(torch.randn(8, 4, dtype=torch.float64))
    pairs = similarity(rows, rows), *masks(torch.tensor([0, 1, 0, 2, 1, 1, 2, 0]))
    sent = ([], [])
    for _ in range(3):  # what is gathered second depends on what the others sent first
        results, sent = of_two_processes(LOSSES[name], *pairs, sent)
    for result in results:
        assert_agree(result, LOSSES[name](*pairs), 1e-12)


def test_equal_rows_cost_nothing_where_rounding_puts_their_similarity_above_one():
    above = torch.tensor([[1 + 2**-22]], requires_grad=True)
    value = contrastive(above, torch.tensor([[True]]), torch.tensor([[False]]))
    assert value.item() == 0
    assert torch.autograd.grad(value, above)[0].item() == 0
