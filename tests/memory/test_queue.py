import pytest
import torch

from selfsup.memory.queue import FeatureQueue


@pytest.mark.parametrize("size", [1, 5, 8, 12])
def test_any_batch_and_queue_size(size):
    """Against a list: pushed one by one into slot `count mod size`."""
    queue = FeatureQueue(size, 3, seed=0)
    slots = [(queue.features[i].clone(), -1) for i in range(size)]
    count = 0
    torch.manual_seed(0)
    for batch in (4, 4, 1, 7, 20, 3, 24, 5):
        features, indices = torch.randn(batch, 3), torch.arange(count, count + batch)
        queue.push(features, indices, indices % 7)
        for row in range(batch):
            slots[count % size] = (features[row], count)
            count += 1
        assert torch.equal(queue.features, torch.stack([feature for feature, _ in slots]))
        assert queue.indices.tolist() == [index for _, index in slots]
        assert queue.labels.tolist() == [index % 7 if index >= 0 else -1 for _, index in slots]
        assert queue.pointer == count % size
        assert queue.filled == min(count, size)


def test_starts_with_random_unit_rows_of_no_image():
    queue = FeatureQueue(5000, 16, seed=3)
    assert queue.indices.eq(-1).all()
    assert queue.filled == 0
    assert torch.allclose(queue.features.norm(dim=1), torch.ones(5000))
    # Uniform on the sphere: mean 0, covariance 1 / D.
    assert queue.features.mean(dim=0).abs().max() < 0.02
    assert (queue.features.T @ queue.features / 5000 - torch.eye(16) / 16).abs().max() < 0.01
    assert torch.equal(queue.features, FeatureQueue(5000, 16, seed=3).features)
    assert torch.equal(queue.features[:100], FeatureQueue(100, 16, seed=3).features)
    assert not torch.equal(queue.features, FeatureQueue(5000, 16, seed=4).features)


def test_all_state_is_in_the_state_dict():
    full, fresh = FeatureQueue(6, 2, seed=0), FeatureQueue(6, 2, seed=1)
    full.push(torch.randn(4, 2), torch.arange(4), torch.arange(4))
    fresh.load_state_dict(full.state_dict())
    for queue in (full, fresh):
        queue.push(torch.ones(3, 2), torch.arange(3), torch.ones(3).long())
    assert all(torch.equal(a, b) for a, b in zip(full.buffers(), fresh.buffers(), strict=True))


def test_empty_queue_is_refused():
    with pytest.raises(ValueError, match="queue_size is 0"):
        FeatureQueue(0, 4, seed=0)
