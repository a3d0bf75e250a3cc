"""What small batches and tiles must have alike where little counts, and the numbers of a mask."""

from math import exp, inf, log

import pytest
import torch
from torch.nn.functional import normalize

from selfsup.losses import whole
from selfsup.losses.pairing import Pairing, Same, as_numbers
from selfsup.losses.sup_con import sup_con
from selfsup.losses.tiles import mean_contrast


@pytest.fixture(params=["at once", "in tiles"])
def ways(request, monkeypatch):
    if request.param == "in tiles":
        monkeypatch.setattr(whole, "_SCORES", {"cpu": 0})


def test_positives_beside_columns_that_are_left_out_and_infinite(ways):
    """They are neither summed nor averaged; nor is a row that has nothing but such columns, and a score of its own."""
    rows, extra = torch.ones(2, 1).double().requires_grad_(), torch.tensor([0.5, 0.5]).double()
    columns = torch.tensor([[1.0], [-inf], [2.0]]).double()
    left_out = torch.tensor([[False, True, False], [True, True, True]])
    positive = torch.tensor([[True, True, False], [True, True, True]])
    mean, figures = mean_contrast(rows, columns, Pairing(left_out=left_out, positive=positive), extra)
    assert mean.item() == pytest.approx((log(exp(1) + exp(2) + exp(0.5)) - 1) / 2)
    assert figures.rival.tolist() == [2.0, -inf]


def test_where_all_are_positives_there_is_no_rival(ways):
    rows = normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))
    same = torch.zeros(6, dtype=torch.int64)
    _, figures = mean_contrast(rows, rows, Pairing(own=(0,), positive=Same(same, same)))
    assert figures.rival.tolist() == [-inf] * 6
    assert all(figures.nearest > -inf)


def test_a_row_that_has_itself_alone_adds_nothing(ways):
    row = torch.ones(1, 3, requires_grad=True)
    loss, _ = sup_con(row, row, Same(torch.zeros(1), torch.zeros(1)), None, 0.1, own=(0,))
    loss.backward()
    assert (loss, row.grad.abs().max()) == (0, 0)


def test_numbers_of_a_mask():
    rows, columns = torch.tensor([0, -1, 2]), torch.tensor([0, 2, -1, 2, 0])
    for mask in (Same(rows, columns), Same(rows, columns, nobody=True), Same(rows, columns, nobody=True, kept=1)):
        part = mask[slice(0, 3), slice(0, 5)]
        assert torch.equal(as_numbers(mask, torch.float64), part.double())
        assert torch.equal(as_numbers(part, torch.float64), part.double())
