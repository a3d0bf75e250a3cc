"""`mean_contrast` and `log_sums` in tiles of any size against one row and one column after the other."""

from dataclasses import replace
from math import exp, inf, log

import pytest
import torch
from torch.nn.functional import normalize

from selfsup.losses import tiles, whole
from selfsup.losses.contrastive import info_nce, l2_normalize, nt_xent
from selfsup.losses.nce import softmax_over_bank
from selfsup.losses.pairing import Pairing, Same
from selfsup.losses.sup_con import class_pairs, sup_con
from selfsup.losses.tiles import log_sums, mean_contrast, tile_size
from tests.support.figures import assert_agree
from tools.benchmarks.live import LiveBytes

SIZES = [None, (512, 1024), (1, 1), (5, 4), (100, 3)]
B, M, D = 12, 17, 5


@pytest.fixture(params=SIZES, ids=str)
def sizes(request, monkeypatch):
    """Tiles of few rows and columns; a strip of all columns is kept whatever room there is. None: no tiles at all."""
    if request.param is None:
        return
    height, width = request.param
    monkeypatch.setattr(whole, "_SCORES", {"cpu": 0})
    monkeypatch.setattr(tiles, "tile_size", lambda rows, columns, *_: (min(height, rows), min(width, columns)))


def problem(dtype, scale=3.0):
    torch.manual_seed(0)
    rows, columns, extra = torch.randn(B, D), torch.randn(M, D), torch.randn(B)
    labels, others = torch.randint(-1, 3, (B,)), torch.randint(-1, 3, (M,))
    rows, columns, extra = ((scale * part).to(dtype).requires_grad_() for part in (rows, columns, extra))
    return rows, columns, extra, labels, others


def pairings(labels, others):
    mask = torch.rand(B, M, generator=torch.Generator().manual_seed(1)) < 0.4
    mask[3] = True  # nothing counts
    positive = torch.rand(B, M, generator=torch.Generator().manual_seed(2)) < 0.3
    positive[5] = False
    return {
        "all": Pairing(),
        "own": Pairing(own=(2,)),
        "own, two blocks": Pairing(own=(1, 9), partner=(9, 2), rivals_from=8),
        "own, three blocks": Pairing(own=(1, 5, 13), positive=Same(labels, others)),
        "own, out of the columns": Pairing(own=(-5, 14)),
        "mask": Pairing(left_out=mask),
        "same": Pairing(left_out=Same(labels, others)),
        "same, but": Pairing(left_out=Same(labels, others, nobody=True, kept=4), positive=Same(others[:B], others)),
        "mask, positives": Pairing(left_out=mask, positive=positive, own=(0,)),
    }


NAMES = list(pairings(torch.zeros(B), torch.zeros(M)))


def counts(pairing, i, j):
    """Whether column j plays a part in row i."""
    size = B // max(1, len(pairing.own))
    own = bool(pairing.own) and j == pairing.own[i // size] + i % size
    return not own and not (pairing.left_out is not None and told(pairing.left_out, i, j))


def told(mask, i, j):
    if isinstance(mask, torch.Tensor):
        return bool(mask[i, j])
    inside = mask.rows[i] == mask.columns[j] or (mask.nobody and mask.columns[j] < 0)
    return bool(inside) and not (mask.kept is not None and j == mask.kept + i)


def naive(rows, columns, pairing, extra=None):
    """In double precision: each row's log-sum (None: of nothing), its value, its rival and its nearest."""
    found = []
    for i in range(B):
        scores = {j: rows[i].double() @ columns[j].double() for j in range(M) if counts(pairing, i, j)}
        all_scores = [*scores.values(), *([] if extra is None else [extra[i].double()])]
        log_sum = torch.stack(all_scores).logsumexp(dim=0) if all_scores else None
        positives = [j for j in scores if pairing.positive is not None and told(pairing.positive, i, j)]
        size = B // max(1, len(pairing.partner))
        partner = pairing.partner[i // size] + i % size if pairing.partner else None
        rivals = [scores[j] for j in scores if j not in positives and j != partner and j >= pairing.rivals_from]
        value = log_sum
        if partner is not None:
            positives = [partner]
            value = log_sum - scores[partner]
        if pairing.positive is not None:
            value = torch.zeros(()).double()
            if positives:
                value = log_sum - torch.stack([scores[j] for j in positives]).mean()
        best = -inf if partner is None else scores[partner].item()
        if pairing.positive is not None:
            best = max((score.item() for score in scores.values()), default=-inf)
        rival = max((score.item() for score in rivals), default=-inf)
        found.append((log_sum, value, rival, best))
    return found


@pytest.mark.parametrize(("dtype", "exact"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("name", NAMES)
def test_mean_contrast_equals_the_naive_loop(name, dtype, exact, sizes):
    rows, columns, extra, labels, others = problem(dtype)
    pairing = pairings(labels, others)[name]
    mean, figures = mean_contrast(rows, columns, pairing, extra)
    expected = naive(rows, columns, pairing, extra)
    wanted = torch.stack([value for _, value, *_ in expected]).mean()
    assert_agree(mean, wanted, exact)
    right = torch.autograd.grad(2 * wanted, [rows, extra, columns])
    for found, expected_one in zip(torch.autograd.grad(2 * mean, [rows, extra, columns]), right, strict=True):
        assert found.dtype == dtype
        assert_agree(found, expected_one, 10 * exact)
    constant, _ = mean_contrast(rows, columns.detach(), pairing, extra)  # which takes another way
    assert_agree(constant, wanted, exact)
    for found, expected_one in zip(torch.autograd.grad(2 * constant, [rows, extra]), right[:2], strict=True):
        assert_agree(found, expected_one, 10 * exact)
    for place, figure in ((2, figures.rival), (3, figures.nearest)):
        assert figure.tolist() == pytest.approx([row[place] for row in expected], rel=1e-5)


@pytest.mark.parametrize("name", ["all", "own", "own, two blocks", "own, three blocks"])
def test_mean_contrast_without_a_score_beside_the_columns(name, sizes):
    """And with rows that are the columns: one gradient, which is the sum of both."""
    rows, columns, _, labels, others = problem(torch.float64, scale=1.0)
    pairing = pairings(labels, others)[name]
    mean, _ = mean_contrast(rows, columns, pairing, scale=2.0)
    wanted = torch.stack([value for _, value, *_ in naive(2 * rows, columns, pairing)]).mean()
    assert_agree(mean, wanted, 1e-12)
    right = torch.autograd.grad(wanted, [rows, columns])
    for found, expected in zip(torch.autograd.grad(mean, [rows, columns]), right, strict=True):
        assert_agree(found, expected, 1e-12)
    rows = columns.detach()[:B].requires_grad_()
    pairing = (
        Pairing(own=(0, 6), partner=(6, 0))
        if pairing.positive is None
        else Pairing(own=(0,), positive=Same(labels, labels))
    )
    mean, wanted = (mean_contrast(rows, others, pairing, scale=2.0)[0] for others in (rows, rows.clone()))
    assert_agree(mean, wanted, 1e-12)
    assert_agree(torch.autograd.grad(mean, rows)[0], torch.autograd.grad(wanted, rows)[0], 1e-12)


@pytest.mark.parametrize("name", ["all", "mask", "same", "own, out of the columns"])
def test_log_sums_equal_the_naive_loop(name, sizes):
    rows, columns, _, labels, others = problem(torch.float64)
    pairing = pairings(labels, others)[name]
    sums, figures = log_sums(rows, columns.detach(), pairing)
    expected = naive(rows, columns.detach(), pairing)
    some = [i for i, row in enumerate(expected) if row[0] is not None]
    assert all(sums[i] == -inf for i in range(B) if i not in some)
    assert (len(some) < B) == (name == "mask")
    weights = torch.randn(B).double()
    right = sum(weights[i] * expected[i][0] for i in some)
    assert_agree(sums[some] @ weights[some], right, 1e-12)
    # Not of the finite ones alone: what counts nothing has gradient 0 and spoils no other.
    gradient = torch.autograd.grad(sums, rows, torch.where(sums.isfinite(), weights, 1.0))[0]
    assert_agree(gradient, torch.autograd.grad(right, rows)[0], 1e-12)
    assert figures.rival.tolist() == pytest.approx([row[2] for row in expected])


def test_gradients_numerically(sizes):
    rows, columns, extra, labels, others = problem(torch.float64, scale=1.0)
    for name in ("own, two blocks", "mask, positives", "same, but"):
        pairing = pairings(labels, others)[name]
        assert torch.autograd.gradcheck(
            lambda r, c, e, pairing=pairing: mean_contrast(r, c, pairing, e)[0], (rows, columns, extra), fast_mode=True
        )


def test_figures_have_no_gradient_and_a_second_derivative_is_refused():
    rows, columns, extra, *_ = problem(torch.float64)
    mean, figures = mean_contrast(rows, columns, Pairing(), extra)
    assert mean.requires_grad
    assert not any(figure.requires_grad for figure in figures)
    with pytest.raises(RuntimeError, match="differentiated once"):
        torch.autograd.grad(mean, rows, create_graph=True)


def test_one_row_and_one_column():
    row = torch.tensor([[2.0]], requires_grad=True)
    mean, figures = mean_contrast(row, torch.tensor([[3.0]]), Pairing())
    mean.backward()
    assert (mean, row.grad, figures.rival) == (6.0, 3.0, 6.0)
    views = [l2_normalize(torch.tensor([[1.0, 2.0]]))] * 2
    assert nt_xent(views, views, 0, 0.1)[0].abs() < 1e-5  # nothing but the positive


def test_a_temperature_whose_exponentials_overflow(sizes):
    """Scores from -100 to 100, and to 10,000, whose exponentials are no numbers of single precision."""
    torch.manual_seed(1)
    hidden = torch.randn(20, 6)
    for temperature, exact in ((0.01, 1e-5), (1e-4, 1e-5)):
        leaf, double = hidden.clone().requires_grad_(), hidden.double().requires_grad_()
        loss, _ = nt_xent(views := l2_normalize(leaf).chunk(2), views, 0, temperature)
        rows = normalize(double)
        scores = (rows @ rows.T / temperature).fill_diagonal_(-inf)
        expected = (scores.logsumexp(dim=1) - scores.diagonal(10).repeat(2)).mean()
        assert_agree(loss, expected, 1e-5)
        found, right = torch.autograd.grad(loss, leaf)[0], torch.autograd.grad(expected, double)[0]
        assert_agree(found, right, exact / temperature / 100)


def test_scores_that_are_infinite_play_no_part():
    rows, columns = torch.ones(2, 1, requires_grad=True), torch.tensor([[1.0], [-inf], [2.0]])
    mean, _ = mean_contrast(rows, columns, Pairing(left_out=torch.tensor([False, True, False]).expand(2, 3)))
    assert mean.item() == pytest.approx(log(exp(1) + exp(2)))


def test_several_processes_make_one():
    """Rows of three processes, each with its offset: their mean and summed gradients are those of all rows."""
    torch.manual_seed(2)
    hidden, labels = torch.randn(2, 12, 4).double().requires_grad_(), torch.randint(3, (12,))
    views = normalize(hidden, dim=2)

    def part(at, size):
        rows = views[:, at : at + size]
        contrast = nt_xent(rows, views, at, 0.2)[0]
        positive, own = class_pairs(labels[at : at + size], labels, at, 2, 2)
        return contrast + sup_con(rows.flatten(0, 1), views.flatten(0, 1), positive, None, 0.2, own=own)[0]

    together, parts = part(0, 12), torch.stack([part(at, 4) for at in (0, 4, 8)]).mean()
    assert_agree(parts, together, 1e-13)
    found, right = (torch.autograd.grad(loss, hidden, retain_graph=True)[0] for loss in (parts, together))
    assert_agree(found, right, 1e-12)


LOSSES = {
    "nt_xent": lambda rows, columns, numbers: nt_xent(rows.chunk(2), rows.chunk(2), 0, 0.1)[0],
    "info_nce": lambda rows, columns, numbers: info_nce(
        rows, rows.detach(), columns, 0.1, Same(numbers[:512], numbers)
    )[0],
    "sup_con": lambda rows, columns, numbers: sup_con(
        rows, rows, *class_pairs(numbers[:256], numbers[:256], 0, 2, 2)[:1], None, 0.1, own=(0, 256)
    )[0],
    "sup_con with a queue": lambda rows, columns, numbers: sup_con(
        rows, columns, Same(numbers[:512] % 7, numbers % 7), Same(numbers[:512], numbers), 0.1
    )[0],
    "softmax_over_bank": lambda rows, columns, numbers: softmax_over_bank(rows, columns.half(), numbers[:512])[0],
}


@pytest.mark.parametrize("name", LOSSES)
def test_memory_grows_with_rows_and_columns(name, monkeypatch):
    """512 rows, and 512 or 4,096 columns of 8 numbers: no tensor has an entry for each pair, in neither pass."""
    monkeypatch.setattr(whole, "_SCORES", {"cpu": 0})
    monkeypatch.setattr(tiles, "_CPU", {"height": 128, "width": 128, "room": 64 * 128})
    torch.manual_seed(3)
    hidden, columns = torch.randn(512, 8, requires_grad=True), normalize(torch.randn(4096, 8))
    with LiveBytes() as live:
        LOSSES[name](normalize(hidden), columns, torch.arange(4096) % 900).backward()
    dense = 4 * 512 * (512 if name in ("nt_xent", "sup_con") else 4096)
    assert live.largest < dense / 3
    assert live.peak < dense / 2
    assert hidden.grad.abs().sum() > 0


@pytest.mark.parametrize("name", LOSSES)
def test_same_bits_twice_and_single_precision_under_autocast(name):
    torch.manual_seed(4)
    hidden, columns, numbers = torch.randn(512, 8), normalize(torch.randn(4096, 8)), torch.arange(4096) % 900
    found = []
    for dtype in (None, None, torch.bfloat16):
        leaf = hidden.clone().requires_grad_()
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            loss = LOSSES[name](normalize(leaf), columns, numbers)
        loss.backward()
        found.append((loss.detach(), leaf.grad))
    assert all(loss.equal(found[0][0]) and gradient.equal(found[0][1]) for loss, gradient in found)
    with torch.no_grad():
        assert_agree(LOSSES[name](normalize(hidden), columns, numbers), found[0][0], 1e-6)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_strip_that_is_kept_is_small(device):
    for rows, columns in ((1, 1), (100, 0), (512, 4096), (32_768, 32_768), (131_072, 131_072)):
        height, width = tile_size(rows, columns, device, kept=True)
        assert 1 <= height <= rows
        assert 1 <= width <= max(1, columns)
        assert 4 * height * columns <= (200 if columns <= 32_768 else 500) * 2**20
        assert tile_size(rows, columns, device, kept=False)[1] == width


def test_a_pairing_keeps_what_it_is_given():
    """Masks are not written to: they are the caller's."""
    positive = torch.ones(B, M, dtype=torch.bool)
    rows, columns, _, labels, others = problem(torch.float32)
    pairing = Pairing(own=(0,), positive=positive, left_out=Same(labels, others))
    mean_contrast(rows, columns, pairing)
    assert positive.all()
    assert replace(pairing) == pairing
