import pytest
import torch
from torch.nn.functional import normalize

from selfsup.memory.bank import FeatureBank
from tests.support.figures import assert_agree


def naive_update(rows, indices, features, momentum):
    """One image after the other, in double precision."""
    rows = rows.double().clone()
    for y, x in zip(indices.tolist(), features.double(), strict=True):
        moved = momentum * rows[y] + (1 - momentum) * x
        rows[y] = moved / moved.norm()
    return rows


@pytest.mark.parametrize("indices", [[5, 0, 3, 8], [5, 3, 5, 0, 5, 3, 3, 8, 3], [2] * 6])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_update_is_that_of_one_image_after_the_other(indices, momentum):
    torch.manual_seed(0)
    bank = FeatureBank(9, 4, seed=0)
    for _ in range(3):  # from rows that are not of unit norm, and from rows that are
        features = normalize(torch.randn(len(indices), 4))
        expected = naive_update(bank.features, torch.tensor(indices), features, momentum)
        bank.update(torch.tensor(indices), features, momentum, repeats=6)
        assert_agree(bank.features, expected, 1e-6)


def test_occurrences_beyond_those_announced_have_no_effect():
    torch.manual_seed(0)
    indices, features = torch.tensor([4, 1, 4, 4, 1]), normalize(torch.randn(5, 3))
    for repeats, kept in ((1, [0, 1]), (2, [0, 1, 2, 4])):
        bank = FeatureBank(6, 3, seed=0)
        expected = naive_update(bank.features, indices[kept], features[kept], 0.5)
        bank.update(indices, features, 0.5, repeats)
        assert_agree(bank.features, expected, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_a_matter_of_storage(dtype):
    torch.manual_seed(0)
    bank = FeatureBank(9, 16, seed=0, dtype=dtype)
    indices, features = torch.tensor([1, 7, 1]), normalize(torch.randn(3, 16))
    before = bank.features.clone()
    assert bank.rows(indices).dtype == torch.float32
    bank.update(indices, features, 0.5, repeats=2)
    # Rounded once, at the end.
    assert torch.equal(bank.features, naive_update(before, indices, features, 0.5).float().to(dtype))


def test_starts_uniform_with_norms_near_one():
    bank = FeatureBank(5000, 16, seed=3)
    bound = (3 / 16) ** 0.5
    assert bank.features.abs().max() <= bound
    assert bank.features.mean().abs() < 0.005
    assert (bank.features.square().sum(dim=1).mean() - 1).abs() < 0.01
    assert torch.equal(bank.features, FeatureBank(5000, 16, seed=3).features)
    assert torch.equal(bank.features[:100], FeatureBank(100, 16, seed=3).features)
    assert not torch.equal(bank.features, FeatureBank(5000, 16, seed=4).features)
    halved = FeatureBank(5000, 16, seed=3, dtype=torch.bfloat16).features
    assert torch.equal(halved, bank.features.bfloat16())


def test_an_empty_bank_is_refused():
    with pytest.raises(ValueError, match="bank of 0 images"):
        FeatureBank(0, 4, seed=0)
