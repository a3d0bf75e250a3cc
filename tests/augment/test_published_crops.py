"""SimCLR's published views: TensorFlow's crop sampler, cubic resizing without antialiasing, added brightness."""

import math
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

from selfsup.augment.color import jitter_
from selfsup.augment.files import crop_files
from selfsup.augment.geometry import resized_crop
from selfsup.augment.parameters import Jitter, View, draw
from selfsup.augment.presets import multi_crop, simclr, simclr_cifar
from selfsup.augment.size import Size
from selfsup.augment.views import Augment, Center, Views
from selfsup.batch import Batch
from selfsup.randomness import Stream, uniform

CPU = torch.device("cpu")
VIEW = View(size=8, crop_scale=(0.08, 1.0), crop_attempts=100, crop_sampler="tensorflow")


def naive_shape(height_number: float, ratio_number: float, view: View, height: int, width: int) -> tuple[int, int]:
    """One attempt, as sample_distorted_bounding_box_op.cc describes it; (0, 0) where it fails."""
    ratio = view.crop_ratio[0] + ratio_number * (view.crop_ratio[1] - view.crop_ratio[0])
    least, most = (share * height * width for share in view.crop_scale)
    low, high = round(math.sqrt(least / ratio)), round(math.sqrt(most / ratio))
    while round(high * ratio) > width:
        high -= 1
    high = min(high, height)
    low = min(low, high)
    h = low + int(height_number * (high - low + 1))
    if h * round(h * ratio) < least:
        h += 1
    if h * round(h * ratio) > most:
        h -= 1
    w = round(h * ratio)
    fits = least <= h * w <= most and 0 < h <= height and 0 < w <= width
    return (h, w) if fits and 10 * h * w >= height * width else (0, 0)


def naive_box(view: View, numbers: list[float], height: int, width: int) -> list[int]:
    for height_number, ratio_number in zip(numbers[3::2], numbers[4::2], strict=True):
        h, w = naive_shape(height_number, ratio_number, view, height, width)
        if h:
            return [int(numbers[0] * max(height - h, 1)), int(numbers[1] * max(width - w, 1)), h, w]
    return [0, 0, height, width]


@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.02, 0.12), (0.9, 0.95)])
def test_boxes_equal_a_naive_loop(scale: tuple[float, float]) -> None:
    view = replace(VIEW, crop_scale=scale)
    sizes = torch.randint(3, 300, (500, 2), generator=torch.Generator().manual_seed(1))
    sizes[::5] = torch.tensor([20, 290])  # no box of most ratios fits: more attempts, and the whole image
    indices = torch.arange(500)
    numbers = uniform(6, Stream.CROP, indices, 203, 2, 1).tolist()
    expected = [naive_box(view, row, *size) for row, size in zip(numbers, sizes.tolist(), strict=True)]
    assert draw(view, 6, 2, indices, 1, sizes).boxes.tolist() == expected


@pytest.mark.parametrize(
    ("height", "width", "tensorflow", "torchvision"), [(375, 500, 0.388, 0.435), (32, 32, 0.435, 0.490)]
)
def test_crops_are_as_large_as_the_published_ones(
    height: int, width: int, tensorflow: float, torchvision: float
) -> None:
    indices, sizes = torch.arange(40_000), torch.tensor([[height, width]]).expand(40_000, 2)
    for sampler, mean in (("tensorflow", tensorflow), ("torchvision", torchvision)):
        boxes = draw(replace(VIEW, crop_sampler=sampler), 0, 0, indices, 0, sizes).boxes.double()
        area = boxes[:, 2] * boxes[:, 3] / (height * width)
        assert area.mean() == pytest.approx(mean, abs=0.005)
        assert (area.min() >= 0.1) == (sampler == "tensorflow")


def test_height_and_ratio_are_uniform_and_the_last_position_is_never_drawn() -> None:
    indices, sizes = torch.arange(20_000), torch.full((20_000, 2), 1000)
    view = replace(VIEW, crop_scale=(0.2, 0.3))  # all of these fit and cover a tenth
    top, _, height, width = draw(view, 0, 0, indices, 0, sizes).boxes.double().unbind(1)
    ratio = width / height
    within = (height - (0.2e6 / ratio).sqrt()) / ((0.3e6 / ratio).sqrt() - (0.2e6 / ratio).sqrt())
    for values in ((ratio - 3 / 4) / (4 / 3 - 3 / 4), within):
        ranks = torch.arange(1, 20_001, dtype=torch.float64) / 20_000
        assert (values.sort().values - ranks).abs().max() < 0.02
    assert (top <= 999 - height).all()
    small = draw(view, 0, 0, indices, 0, torch.full((20_000, 2), 6)).boxes
    assert (small[:, 0] + small[:, 2]).max() == 5


def test_a_sample_does_not_depend_on_its_batch_and_an_impossible_scale_is_refused() -> None:
    sizes = torch.tensor([[20, 200], [200, 20], [50, 60]]).repeat(20, 1)
    together = draw(VIEW, 3, 1, torch.arange(60), 1, sizes).boxes
    alone = [draw(VIEW, 3, 1, torch.tensor([row]), 1, sizes[row : row + 1]).boxes for row in range(60)]
    assert torch.equal(together, torch.cat(alone))
    with pytest.raises(ValueError, match="rejects crops below"):
        replace(VIEW, crop_scale=(0.05, 0.09))
    # Small views of less than a tenth are what multi-crop is for: its own sampler, SwAV's, is torchvision's.
    assert {view.crop_sampler for view in multi_crop(simclr_cifar()).views} == {"torchvision"}


def naive_weights(start: float, length: float, size: int, first: int, last: int, extent: int) -> Tensor:
    """(size, extent) float64: Keys' cubic with a = -1/2 about each new centre, whatever the scale."""
    table = torch.zeros(size, extent, dtype=torch.float64)
    for new in range(size):
        for old in range(first, last):
            d = abs(old + 0.5 - (start + (new + 0.5) * length / size))
            if d < 1:
                table[new, old] = 1.5 * d**3 - 2.5 * d**2 + 1
            elif d < 2:
                table[new, old] = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return table / table.sum(dim=1, keepdim=True)


def pictures(count: int, height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(2)).to(torch.uint8)


@pytest.mark.parametrize("size", [9, (70, 31), 120])  # shrunk, one side each way, enlarged
@pytest.mark.parametrize("count", [1, 3])  # a lone large one takes the path of banded matrices
def test_resizing_without_antialiasing_equals_a_naive_sum(size: Size, count: int) -> None:
    images = pictures(count, 90, 64)
    boxes = torch.tensor([[0, 0, 90, 64], [31, 17, 50, 45], [80, 63, 10, 1]])[:count]
    flip = torch.tensor([False, True, False])[:count]
    ours = resized_crop(images, boxes, flip, size, "bicubic_aliased")
    files = [PIL.Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    from_files = crop_files(files, boxes, size, "bicubic_aliased")
    height, width = (size, size) if isinstance(size, int) else size
    for number, (top, left, h, w) in enumerate(boxes.tolist()):
        rows = naive_weights(top, h, height, top, top + h, 90)
        columns = naive_weights(left, w, width, left, left + w, 64)
        expected = (rows @ images[number].double() @ columns.T).clamp(0, 255)
        assert (from_files[number] - expected).abs().max() < 0.51  # rounded once, at the end
        mirrored = expected.flip(-1) if flip[number] else expected
        assert (ours[number] - mirrored).abs().max() < 0.02
    smooth = resized_crop(images, boxes, flip, size, "bicubic")
    gap = (smooth - ours).abs().max()
    assert gap < 0.01 if size == 120 else gap > 20  # another thing where a picture shrinks


def test_the_test_time_view_of_arrays_and_files_is_the_same() -> None:
    images = pictures(2, 90, 64)
    center = Center(24, 0.875, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bicubic_aliased")
    files = [PIL.Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    direct, read = center(images, None, CPU), center((center.crop(files),), None, CPU)
    assert (direct - read).abs().max() < 0.6 / 255
    rows, columns = naive_weights(17, 56, 24, 0, 90, 90), naive_weights(4, 56, 24, 0, 64, 64)
    expected = (rows @ images.double() @ columns.T).clamp(0, 255) / 255
    assert (direct - expected).abs().max() < 1e-4


def test_pictures_of_any_size_in_a_worker_give_the_views_of_arrays() -> None:
    images = pictures(4, 80, 100) // 2 + 64
    augment = Augment(views=(replace(simclr(32).views[0], jitter=Jitter(), blur=View().blur),))
    files = [PIL.Image.fromarray(np.asarray(image.permute(1, 2, 0))) for image in images]
    maker = Views(augment, seed=1)
    batch = Batch(images, torch.zeros(4, dtype=torch.int64), torch.arange(4))
    (direct,) = maker(batch, 2, CPU)
    (read,) = maker(batch._replace(images=maker.crop(files, batch.indices, 2)), 2, CPU)
    assert (direct - read).abs().max() < 0.6 / 255


def test_brightness_that_is_added() -> None:
    drawn = draw(
        View(size=8, jitter=Jitter(brightness=0.8, additive_brightness=True)),
        0,
        0,
        torch.arange(4000),
        0,
        torch.full((4000, 2), 8),
    )
    added = drawn.factors[:, 0].double()
    assert added.min() < -0.79
    assert added.max() > 0.79
    assert added.mean() == pytest.approx(0.0, abs=0.03)
    images = torch.rand(24, 3, 4, 5, generator=torch.Generator().manual_seed(3))
    planes = images.transpose(0, 1).contiguous()
    # A neutral contrast and saturation: in every order the sum is all that is left.
    factors = torch.ones(24, 4)
    factors[:, 0], factors[:, 3] = added[:24].float(), 0.0
    orders = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2], [3, 2, 1, 0]]).repeat(8, 1)
    jitter_(planes, factors, orders, additive_brightness=True)
    expected = (images + factors[:, 0, None, None, None]).clamp(0, 1)
    torch.testing.assert_close(planes.transpose(0, 1), expected, atol=1e-5, rtol=0)
