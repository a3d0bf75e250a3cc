"""Colour operations against torchvision's functionals with equal parameters."""

import itertools

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

from selfsup.augment.color import grayscale_, hue_, hue_parts, jitter_, processing_order, runs, runs_of_true, solarize_
from selfsup.augment.parameters import draw
from selfsup.augment.presets import PRESETS

THEIRS = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
ORDERS = torch.tensor(list(itertools.permutations(range(4))))


def pictures(count: int) -> Tensor:
    """(B, 3, 12, 14) float32 in [0, 1], with gray, black, white and pure pixels among them."""
    images = torch.rand(count, 3, 12, 14, generator=torch.Generator().manual_seed(3))
    images[:, :, 0, :5] = images[:, :1, 0, :5]
    images[:, :, 1, :4] = torch.tensor([0.0, 1.0, 0.0, 1.0])
    images[:, :, 2, :6] = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 1, 1]]).float()
    return images


def test_the_jitter_equals_torchvision_in_all_orders_at_once() -> None:
    images = pictures(24)
    factors = torch.rand(24, 4, generator=torch.Generator().manual_seed(4)) * 1.6 + 0.2
    factors[:, 3] = factors[:, 3] / 2 - 0.5
    planes = images.transpose(0, 1).contiguous()
    jitter_(planes, factors, ORDERS)
    for image, factor, order, ours in zip(images, factors.tolist(), ORDERS.tolist(), planes.unbind(1), strict=True):
        expected = image
        for operation in order:
            expected = THEIRS[operation](expected, factor[operation])
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("turn", [-0.5, -0.21, 0.0, 0.08, 0.34, 0.5])
def test_the_hue_equals_torchvision(turn: float) -> None:
    images = pictures(2)
    planes = images.transpose(0, 1).contiguous()
    hue_(planes, torch.tensor([turn, turn]))
    torch.testing.assert_close(planes.transpose(0, 1), TF.adjust_hue(images, turn), atol=1e-5, rtol=0)


def test_grayscale_equals_torchvision() -> None:
    images = pictures(2)
    planes = images.transpose(0, 1).contiguous()
    grayscale_(planes)
    torch.testing.assert_close(planes.transpose(0, 1), TF.rgb_to_grayscale(images, 3), atol=1e-6, rtol=0)


def test_solarize_equals_torchvision() -> None:
    images = pictures(2)
    planes = images.transpose(0, 1).contiguous()
    solarize_(planes)
    torch.testing.assert_close(planes.transpose(0, 1), TF.solarize(images, 0.5), atol=0, rtol=0)
    eighths = torch.arange(256) / 255
    byte_planes = eighths.expand(3, 1, 1, 256).clone()
    solarize_(byte_planes)
    theirs = TF.solarize(torch.arange(256, dtype=torch.uint8).expand(3, 1, 256), 128)  # the usual threshold of bytes
    torch.testing.assert_close(byte_planes[:, 0] * 255, theirs.float())


def test_runs_are_the_stretches_of_true() -> None:
    chosen = torch.tensor([True, False, True, True, False, False, True])
    assert runs_of_true(chosen) == [slice(0, 1), slice(2, 4), slice(6, 7)]
    assert runs_of_true(~chosen) == [slice(1, 2), slice(4, 6)]
    assert runs_of_true(chosen[:0]) == []
    assert runs(torch.tensor([3, 3, 0])) == [(3, slice(0, 2)), (0, slice(2, 3))]


def test_processing_order_brings_the_same_operations_together() -> None:
    view = PRESETS["moco_v2"]().views[0]
    parameters = draw(view, 0, 0, torch.arange(300), 0, torch.full((300, 2), 64))
    order = processing_order(parameters)
    assert torch.equal(order.sort().values, torch.arange(300))
    parameters = parameters.select(order)
    assert len(runs_of_true(parameters.jitter)) == 1
    for operation in range(4):
        assert len(runs_of_true((parameters.order[:, operation] == 3) & parameters.jitter)) == 1


def test_the_parts_of_a_shift_of_the_hue_add_up_to_it() -> None:
    turns = torch.linspace(-0.5, 0.5, 401)
    thirds, opposite, rest = hue_parts(turns)
    assert set(thirds.tolist()) == {-1, 0, 1}
    assert rest.abs().max() <= 0.9 + 1e-6  # of a sixth of a turn: at 1 the hue could not be turned by it
    missing = (2 * thirds + 3 * opposite + rest.double()) / 6 - turns.double()
    torch.testing.assert_close(missing, missing.round(), atol=1e-7, rtol=0)  # whole turns


def test_samples_of_one_batch_turn_by_any_hue() -> None:
    turns = torch.linspace(-0.5, 0.5, 61)
    images = pictures(61).double()
    planes = images.float().transpose(0, 1).contiguous()
    hue_(planes, turns)
    for image, turn, ours in zip(images, turns.tolist(), planes.unbind(1), strict=True):
        torch.testing.assert_close(ours.double(), TF.adjust_hue(image, turn), atol=3e-6, rtol=0)
