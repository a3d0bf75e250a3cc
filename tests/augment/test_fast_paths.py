"""Every way to make a view against plain loops in double precision, on random inputs and at the edges."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import selfsup.augment.views as views_module
from selfsup.augment import threads
from selfsup.augment.compiled import loops
from selfsup.augment.parameters import Blur, Erase, Jitter, View, draw_views
from selfsup.augment.presets import moco_v2, multi_crop, simclr
from selfsup.augment.threads import in_threads
from selfsup.augment.views import Augment, Views, fused_view
from selfsup.batch import Batch
from tests.support.slow_views import finished, slow_view

CPU = torch.device("cpu")
STRONG = Jitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.5, probability=0.9)
EVERYTHING = View(
    size=(21, 15),
    jitter=STRONG,
    grayscale=0.3,
    blur=Blur(probability=0.6, kernel_size=9, sigma=(0.1, 2.0)),
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.3, 0.4),
    erase=Erase(probability=0.5),
)
CASES = {
    "bilinear": EVERYTHING,
    "cubic": replace(EVERYTHING, interpolation="bicubic", grayscale_first=True),
    "aliased": replace(EVERYTHING, interpolation="bicubic_aliased", crop_sampler="tensorflow", crop_scale=(0.2, 1.0)),
    "zero": replace(EVERYTHING, blur=replace(EVERYTHING.blur, border="zero"), interpolation="bicubic"),
    "added": replace(EVERYTHING, jitter=replace(STRONG, additive_brightness=True)),
    "shifted": replace(EVERYTHING, crop="shifted", shift=4, interpolation="bicubic"),
    "enlarged": replace(EVERYTHING, size=70, crop_scale=(0.01, 0.1)),
    "black": replace(EVERYTHING, jitter=replace(STRONG, brightness=1.0, contrast=1.0, saturation=1.0)),
}


@pytest.fixture(params=["compiled", "lone", "batch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(views_module, "_LONE_PIXELS", 0 if request.param == "lone" else 2**40)
    if request.param != "compiled":
        monkeypatch.setattr(views_module, "loops", lambda: None)
    elif loops() is None:
        pytest.skip("numba is not installed")
    return str(request.param)


def pictures(count: int, channels: int, height: int, width: int) -> Tensor:
    images = torch.randint(0, 256, (count, channels, height, width), generator=torch.Generator().manual_seed(8))
    images[0] = 0
    images[1 % count, :, : height // 2] = 255
    images[2 % count] = images[2 % count, :1]  # gray
    return images.to(torch.uint8)


def largest_gap(view: View, images: Tensor) -> float:
    """Of the view of a batch, from that of plain loops, in units of pixel values."""
    indices = torch.arange(len(images))
    (numbers,) = draw_views([view], 3, 1, indices, torch.tensor([images.shape[-2:]] * len(images)))
    ours = fused_view(view, images, numbers, None, cropped=False)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    theirs = torch.stack([slow_view(view, image, numbers, row) for row, image in enumerate(images)])
    scale = torch.tensor(view.std)[:, None, None]
    return ((ours - theirs).abs() * scale).max().item()


@pytest.mark.parametrize("name", CASES)
def test_every_path_equals_plain_loops(path: str, name: str) -> None:
    assert largest_gap(CASES[name], pictures(12, 3, 37, 29)) < 1e-5


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (33, 2)])
def test_images_of_a_few_pixels(path: str, shape: tuple[int, int]) -> None:
    assert largest_gap(replace(EVERYTHING, size=9), pictures(3, 3, *shape)) < 1e-5


@pytest.mark.parametrize("channels", [1, 7])
def test_images_of_other_channels(path: str, channels: int) -> None:
    view = replace(EVERYTHING.without_colour(), mean=(0.3,) * channels, std=(0.4,) * channels, solarize=0.0)
    assert largest_gap(view, pictures(6, channels, 30, 41)) < 1e-5


def test_one_image_alone(path: str) -> None:
    assert largest_gap(EVERYTHING, pictures(1, 3, 37, 29)) < 1e-5


def test_solarized_views_jump_at_one_half_alone(path: str) -> None:
    view = replace(EVERYTHING, solarize=1.0, jitter=Jitter(), blur=Blur(), std=(1.0,) * 3)
    assert largest_gap(view, pictures(8, 3, 37, 29)) < 1e-5  # value and 1 - value meet there


def test_crops_of_files(path: str) -> None:
    view = replace(EVERYTHING, shift=3, crop="shifted")
    crops = pictures(9, 3, *view.shape)
    (numbers,) = draw_views([view], 5, 0, torch.arange(9), torch.full((9, 2), 50))
    ours = fused_view(view, crops, numbers, None, cropped=True)
    for row, crop in enumerate(crops.double() / 255):
        theirs = finished(view, crop.flip(-1) if numbers.flip[row] else crop, numbers, row)
        torch.testing.assert_close(ours[row].double(), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("augment", [simclr(140), moco_v2(130), multi_crop(moco_v2(40), 24, 2)])
def test_the_bits_do_not_depend_on_the_number_of_threads(augment: Augment) -> None:
    images = pictures(300 if augment.views[0].shape[0] < 100 else 20, 3, 150, 140)
    batch = Batch(images, torch.zeros(len(images), dtype=torch.int64), torch.arange(len(images)))
    before, made = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            made.append(Views(augment, 2)(batch, 0, CPU))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(before)
    for other in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(made[0], other, strict=True))


def test_parts_are_shared_among_threads_which_work_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, bool, bool]] = []

    def work(part: int) -> None:
        seen.append((part, torch.get_num_threads(), torch.is_inference_mode_enabled(), torch.is_grad_enabled()))

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            in_threads(work, range(5), CPU)
        assert sorted(seen) == [(part, 1, True, False) for part in range(5)]
        with pytest.raises(ZeroDivisionError):
            in_threads(lambda part: 1 // part, [1, 0], CPU)
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(threads, "ThreadPoolExecutor", None)  # a device needs one thread, which it obeys
        in_threads(work, [5], torch.device("meta"))
    finally:
        torch.set_num_threads(before)
    assert seen[-1][0] == 5
