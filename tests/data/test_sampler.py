import pytest
import torch

from selfsup.data.sampler import Sampler


def epoch_of(sampler: Sampler, epoch: int) -> torch.Tensor:
    return torch.cat([sampler.batch(epoch, number) for number in range(sampler.steps_per_epoch)])


def test_an_epoch_holds_every_image_once_but_for_the_incomplete_batch():
    sampler = Sampler(103, 10, seed=1)
    order = epoch_of(sampler, 4)
    assert sampler.steps_per_epoch == 10
    assert len(order) == 100
    assert len(order.unique()) == 100
    assert (order >= 0).all()
    assert (order < 103).all()


def test_the_order_does_not_depend_on_what_was_asked_before():
    used, fresh = Sampler(50, 8, seed=3), Sampler(50, 8, seed=3)
    epoch_of(used, 0)
    used.batch(7, 2)
    for epoch, number in ((2, 5), (0, 0), (2, 1)):
        assert torch.equal(used.batch(epoch, number), fresh.batch(epoch, number))


def test_epochs_and_seeds_differ_and_batch_sizes_share_one_order():
    first = epoch_of(Sampler(64, 8, seed=0), 0)
    assert not torch.equal(first, epoch_of(Sampler(64, 8, seed=0), 1))
    assert not torch.equal(first, epoch_of(Sampler(64, 8, seed=1), 0))
    assert torch.equal(first, epoch_of(Sampler(64, 16, seed=0), 0))


@pytest.mark.parametrize(
    ("length", "batch_size", "message"),
    [
        (0, 1, r"0 image\(s\); contrastive learning needs at least 2"),
        (1, 1, r"1 image\(s\)"),
        (10, 11, "batch size 11 is larger than the data set, 10 images; lower it to 10"),
        (10, 0, "batch size is 0; wanted at least 1"),
    ],
)
def test_impossible_sizes_are_refused(length, batch_size, message):
    with pytest.raises(ValueError, match=message):
        Sampler(length, batch_size, seed=0)


def test_a_batch_of_all_the_data_is_possible_and_there_is_no_batch_after_the_last():
    sampler = Sampler(10, 10, seed=0)
    assert sorted(sampler.batch(0, 0).tolist()) == list(range(10))
    with pytest.raises(ValueError, match="an epoch has 1 batches"):
        sampler.batch(0, 1)
