"""Parameters are pure and per sample, follow the intended distributions, and refuse what makes no sense."""

import math

import pytest
import torch
from torch import Tensor

from selfsup.augment.parameters import Blur, Erase, Jitter, Parameters, View, draw
from selfsup.augment.presets import PRESETS, reid, simclr_cifar
from selfsup.augment.views import Augment
from selfsup.config.flags import parse
from selfsup.config.settings import dump, restore
from selfsup.randomness import Stream, counter, uniform

SAMPLES = 10_000


def sizes_of(count: int) -> Tensor:
    """Images of many shapes, some so narrow that crops have to be drawn again or fall back."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(20, 400, (count, 2), generator=generator)


def equal(a: Parameters, b: Parameters) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", ["moco_v2", "simclr", "reid"])
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    view = PRESETS[name]().views[0]
    indices, sizes = torch.arange(90).flip(0) * 1000, sizes_of(90)
    sizes[::7] = torch.tensor([20, 400])  # hardly any box fits: more attempts, and the fallback
    whole = draw(view, 5, 3, indices, 1, sizes)
    one_by_one = [draw(view, 5, 3, indices[i : i + 1], 1, sizes[i : i + 1]) for i in range(90)]
    assert equal(whole, Parameters(*(torch.cat(values) for values in zip(*one_by_one, strict=True))))
    assert equal(whole.select(torch.arange(13, 40)), draw(view, 5, 3, indices[13:40], 1, sizes[13:40]))
    assert equal(whole, draw(view, 5, 3, indices, 1, sizes))


def test_samples_may_have_counters_of_their_own() -> None:
    view, indices, sizes = (
        View(size=8, crop_attempts=30),
        torch.arange(40) // 2,
        sizes_of(20).repeat_interleave(2, dim=0),
    )
    sizes[20:] = torch.tensor([20, 90])  # about every 25th box fits: many draw on after the first attempts
    epochs = torch.as_tensor(counter(3, torch.arange(40) % 2))
    together = draw(view, 5, epochs, indices, 1, sizes)
    for row in range(40):
        alone = draw(view, 5, int(epochs[row]), indices[row : row + 1], 1, sizes[row : row + 1])
        assert equal(together.select(slice(row, row + 1)), alone)
    first, second = together.select(slice(0, None, 2)), together.select(slice(1, None, 2))
    assert (first.boxes != second.boxes).any(dim=1).float().mean() > 0.8


def test_seed_epoch_view_and_index_all_matter() -> None:
    view, indices, sizes = PRESETS["moco_v2"]().views[0], torch.arange(50), torch.full((50, 2), 64)
    base = draw(view, 0, 0, indices, 0, sizes)
    others = [
        draw(view, 1, 0, indices, 0, sizes),
        draw(view, 0, 1, indices, 0, sizes),
        draw(view, 0, 0, indices, 1, sizes),
        draw(view, 0, 0, indices + 50, 0, sizes),
    ]
    for other in others:
        assert (base.boxes != other.boxes).any(dim=1).float().mean() > 0.9
        assert (base.factors != other.factors).all(dim=1).float().mean() > 0.9


def test_boxes_follow_the_intended_distribution() -> None:
    view = View(size=8, crop_scale=(0.25, 0.5), crop_ratio=(0.5, 2.0))
    sizes = torch.full((SAMPLES, 2), 1000)
    top, left, height, width = draw(view, 0, 0, torch.arange(SAMPLES), 0, sizes).boxes.double().unbind(1)
    assert top.min() >= 0
    assert left.min() >= 0
    assert (top + height).max() <= 1000
    assert (left + width).max() <= 1000
    # Every box of these scales and ratios fits (side at most 1000): area and log ratio are uniform and independent.
    area, ratio = height * width / 1e6, (width / height).log()
    close_to_uniform(area, 0.25, 0.5)
    close_to_uniform(ratio, -math.log(2), math.log(2))
    close_to_uniform((top / (1001 - height)), 0, 1)
    close_to_uniform((left / (1001 - width)), 0, 1)
    table = torch.stack([area, ratio, top / (1001 - height), left / (1001 - width)])
    assert (torch.corrcoef(table) - torch.eye(4)).abs().max() < 0.04


def close_to_uniform(values: Tensor, low: float, high: float) -> None:
    """Kolmogorov-Smirnov: the largest gap of the distribution functions, 1.95 / sqrt(n) at the level 0.001."""
    ranks = torch.arange(1, len(values) + 1, dtype=torch.float64) / len(values)
    gap = (((values.sort().values - low) / (high - low)) - ranks).abs().max()
    assert gap < 1.95 / math.sqrt(len(values))


def naive_box(view: View, numbers: list[float], height: int, width: int) -> list[int]:
    """torchvision's loop over attempts, on the words of one sample."""
    for area, ratio in zip(numbers[3::2], numbers[4::2], strict=True):
        target = height * width * (view.crop_scale[0] + area * (view.crop_scale[1] - view.crop_scale[0]))
        low, high = math.log(view.crop_ratio[0]), math.log(view.crop_ratio[1])
        aspect = math.exp(low + ratio * (high - low))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return [int(numbers[0] * (height - h + 1)), int(numbers[1] * (width - w + 1)), h, w]
    if width / height < view.crop_ratio[0]:
        w, h = width, round(width / view.crop_ratio[0])
    elif width / height > view.crop_ratio[1]:
        w, h = round(height * view.crop_ratio[1]), height
    else:
        w, h = width, height
    return [(height - h) // 2, (width - w) // 2, h, w]


@pytest.mark.parametrize("attempts", [1, 10, 40])
def test_boxes_equal_a_naive_loop(attempts: int) -> None:
    view, indices, sizes = View(crop_scale=(0.2, 1.0), crop_attempts=attempts), torch.arange(400), sizes_of(400)
    numbers = uniform(6, Stream.CROP, indices, 3 + 2 * attempts, 2, 1).tolist()
    expected = [naive_box(view, row, *size) for row, size in zip(numbers, sizes.tolist(), strict=True)]
    assert draw(view, 6, 2, indices, 1, sizes).boxes.tolist() == expected


@pytest.mark.parametrize(("size", "expected"), [((100, 1000), (100, 133)), ((1000, 100), (133, 100))])
def test_an_image_without_a_fitting_box_gives_its_central_part(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    view = View(size=8, crop_scale=(1.0, 1.0), crop_attempts=20)
    boxes = draw(view, 0, 0, torch.arange(30), 0, torch.tensor([size] * 30)).boxes
    offset = ((torch.tensor(size) - torch.tensor(expected)) // 2).tolist()
    assert boxes.unique(dim=0).tolist() == [[*offset, *expected]]


def test_colour_blur_and_flip_follow_the_intended_distributions() -> None:
    view = View(
        size=8,
        flip=0.3,
        jitter=Jitter(brightness=0.4, contrast=1.5, saturation=0.2, hue=0.1, probability=0.8),
        grayscale=0.2,
        blur=Blur(probability=0.5, sigma=(0.1, 2.0), kernel_size=3),
        solarize=0.1,
    )
    drawn = draw(view, 7, 2, torch.arange(SAMPLES), 0, torch.full((SAMPLES, 2), 32))
    for i, (low, high) in enumerate([(0.6, 1.4), (0.0, 2.5), (0.8, 1.2), (-0.1, 0.1)]):
        close_to_uniform(drawn.factors[:, i].double(), low, high)
    close_to_uniform(drawn.sigma.double(), 0.1, 2.0)
    for chosen, probability in zip(drawn[4:8], (0.8, 0.2, 0.5, 0.1), strict=True):
        assert abs(chosen.double().mean() - probability) < 0.02
    assert abs(drawn.flip.double().mean() - 0.3) < 0.02
    orders, counts = drawn.order.unique(dim=0, return_counts=True)
    assert len(orders) == 24
    assert (orders.sort(dim=1).values == torch.arange(4)).all()
    assert (counts / SAMPLES - 1 / 24).abs().max() < 0.008


def test_a_shifted_view_is_the_whole_image_and_moves_every_way_alike() -> None:
    view, sizes = View(size=(64, 32), crop="shifted", shift=10, flip=0.3), sizes_of(SAMPLES)
    drawn = draw(view, 0, 0, torch.arange(SAMPLES), 0, sizes)
    assert torch.equal(drawn.boxes, torch.cat([torch.zeros_like(sizes), sizes], dim=1))
    assert abs(drawn.flip.double().mean() - 0.3) < 0.02
    for moved in drawn.shift.unbind(1):
        values, counts = moved.unique(return_counts=True)
        assert values.tolist() == list(range(-10, 11))
        assert (counts / SAMPLES - 1 / 21).abs().max() < 0.01
    assert abs(torch.corrcoef(drawn.shift.T.double())[0, 1]) < 0.04


def naive_erase(view: View, numbers: list[float]) -> list[int]:
    """The published loop over attempts, on the words of one sample."""
    height, width = view.shape
    if numbers[0] >= view.erase.probability:
        return [0, 0, 0, 0]
    for area, aspect in zip(numbers[3::2], numbers[4::2], strict=True):
        target = height * width * (view.erase.area[0] + area * (view.erase.area[1] - view.erase.area[0]))
        ratio = view.erase.aspect[0] + aspect * (view.erase.aspect[1] - view.erase.aspect[0])
        h, w = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if h < height and w < width:
            return [int(numbers[1] * (height - h + 1)), int(numbers[2] * (width - w + 1)), h, w]
    return [0, 0, 0, 0]


@pytest.mark.parametrize(
    "view",
    [
        reid().views[0],
        View(size=(80, 20), erase=Erase(probability=0.9, area=(0.3, 0.8))),
        View(size=(6, 5), erase=Erase(probability=1.0)),  # many boxes are exactly as high or as wide as the view
    ],
)
def test_erased_boxes_equal_a_naive_loop(view: View) -> None:
    indices = torch.arange(600)
    numbers = uniform(6, Stream.ERASE, indices, 23, 2, 1).tolist()
    expected = [naive_erase(view, row) for row in numbers]
    drawn = draw(view, 6, 2, indices, 1, sizes_of(600)).erase
    assert drawn.tolist() == expected
    assert len({tuple(box) for box in expected}) > 30
    if view.erase.probability == 0.5:  # one attempt in twenty fails, so that every sample finds a box
        assert abs((drawn[:, 2] > 0).double().mean() - 0.5) < 0.06


def test_a_size_is_a_side_or_height_and_width_for_flags_and_files() -> None:
    pytest.importorskip("tyro")
    square = parse(simclr_cifar(), ["--views.0.size", "24"], "test")
    assert [view.size for view in square.views] == [24, 32]
    assert square.views[0].shape == (24, 24)
    flags = "--views.0.size 64 48 --views.0.crop shifted --views.0.shift 5 --views.0.erase.probability 0.5".split()
    view = parse(simclr_cifar(), flags, "test").views[0]
    assert (view.size, view.shape, view.shift, view.erase.probability) == ((64, 48), (64, 48), 5, 0.5)
    assert parse(reid(), ["--views.0.size", "96"], "test").views[0].size == 96
    assert restore(dump(reid()), Augment) == reid()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: View(size=0), "size is 0"),
        (lambda: View(size=(8, 0)), r"size is \(8, 0\)"),
        (lambda: View(size=(8, 64), blur=Blur(probability=0.5)), "at most 15 taps"),
        (lambda: View(shift=4), "crop='shifted' with it"),
        (lambda: View(size=(8, 4), crop="shifted", shift=4), "View.shift is 4"),
        (lambda: Erase(probability=2.0), "probability is 2.0"),
        (lambda: Erase(area=(0.2, 1.0)), "Erase.area is"),
        (lambda: Erase(aspect=(0.0, 1.0)), "Erase.aspect is"),
        (lambda: View(crop_scale=(0.5, 1.2)), "crop_scale is"),
        (lambda: View(crop_scale=(0.5, 0.2)), "crop_scale is"),
        (lambda: View(crop_ratio=(0.0, 1.0)), "crop_ratio is"),
        (lambda: View(crop_attempts=0), "crop_attempts is 0"),
        (lambda: View(flip=1.5), "View.flip is 1.5"),
        (lambda: View(std=(1.0, 0.0, 1.0)), "std is"),
        (lambda: View(size=8, blur=Blur(probability=0.5)), "at most 15 taps"),
        (lambda: Jitter(brightness=-0.1), "brightness is -0.1"),
        (lambda: Jitter(hue=0.6), "hue is 0.6"),
        (lambda: Blur(kernel_size=22), "kernel_size is 22"),
        (lambda: Blur(sigma=(0.0, 1.0)), "sigma is"),
    ],
)
def test_nonsense_is_refused_with_its_name(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_gpu_draws_the_same_bits(name: str) -> None:
    view, indices, sizes = PRESETS[name]().views[0], torch.arange(5000), sizes_of(5000)
    on_gpu = draw(view, 1, 2, indices.cuda(), 0, sizes.cuda())
    assert equal(draw(view, 1, 2, indices, 0, sizes), Parameters(*(values.cpu() for values in on_gpu)))
