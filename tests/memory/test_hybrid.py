import pytest
import torch
import torch.nn.functional as F

from selfsup.memory.hybrid import HybridMemory, memory_rows
from tests.support.figures import assert_agree, golden


def test_golden():
    g = golden("spcl_memory")
    memory = HybridMemory(30, 12)
    memory.features.copy_(g["memory0"])
    for batch in range(2):
        memory.update(g["x"][batch], g["idx"][batch], float(g["m"]), repeats=2)
        assert_agree(memory.features, g["memory"][batch], 5e-6)


@pytest.mark.parametrize("spare", [0, 3])
def test_rows_are_updated_in_the_order_of_the_batch(spare):
    """Against one feature after the other, with rows that occur up to many times."""
    generator = torch.Generator().manual_seed(0)
    memory = HybridMemory(9, 5).double()
    memory.initialise(F.normalize(torch.randn(9, 5, generator=generator)), torch.arange(9))
    rows = torch.randint(6, (20,), generator=generator)
    features = F.normalize(torch.randn(20, 5, generator=generator)).double()
    expected = memory.features.clone()
    for row, feature in zip(rows, features, strict=True):
        expected[row] = F.normalize(0.3 * expected[row] + 0.7 * feature, dim=0)
    memory.update(features, rows, 0.3, int(rows.bincount().max()) + spare)
    torch.testing.assert_close(memory.features, expected, rtol=0, atol=1e-14)


def test_a_class_starts_as_the_mean_direction_of_its_images():
    memory = HybridMemory(3, 4)
    assert not memory.initialised
    features = F.normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(1)))
    memory.initialise(features, torch.tensor([0, 1, 0, 2, 0]))
    assert memory.initialised
    torch.testing.assert_close(memory.features[0], F.normalize(features[[0, 2, 4]].mean(dim=0), dim=0))
    torch.testing.assert_close(memory.features[1:], features[[1, 3]])


def test_all_state_is_in_the_state_dict():
    full, fresh = HybridMemory(4, 2), HybridMemory(4, 2)
    full.initialise(torch.eye(2).repeat(2, 1), torch.arange(4))
    full.labels.copy_(torch.tensor([1, 1, 0, 2]))
    fresh.load_state_dict(full.state_dict())
    assert fresh.initialised
    assert all(torch.equal(a, b) for a, b in zip(full.buffers(), fresh.buffers(), strict=True))


def test_classes_have_the_first_rows_and_one_without_images_has_none():
    rows, classes = memory_rows(torch.tensor([-1, 4, -1, 2, 4, -1]))
    assert (rows.tolist(), classes) == ([2, 1, 3, 0, 1, 4], 2)
    rows, classes = memory_rows(torch.full((4,), -1))
    assert (rows.tolist(), classes) == ([0, 1, 2, 3], 0)
