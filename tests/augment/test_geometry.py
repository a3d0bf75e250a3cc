"""Crop, resize and blur against torchvision, PIL and the published blur."""

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

from selfsup.augment.files import crop_files
from selfsup.augment.geometry import blur_planes, erase_, resized_crop, shift_planes
from selfsup.augment.parameters import Interpolation
from selfsup.augment.size import Size
from tests.support.places import GOLDEN

MODES = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}


def pictures(count: int, height: int, width: int) -> Tensor:
    """(B, 3, H, W) uint8: edges, noise and smooth parts."""
    generator = torch.Generator().manual_seed(height * width)
    noise = torch.randint(0, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8)
    coarse = F.interpolate(noise[:, :, ::5, ::5].float(), (height, width))
    noise[:, :, :, : width // 2] = coarse[:, :, :, : width // 2].to(torch.uint8)
    return noise


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("height", "width", "size"), [(32, 32, 32), (40, 61, 17), (64, 48, 96), (23, 90, 1), (75, 75, 33)]
)
def test_equals_torchvision(interpolation: Interpolation, height: int, width: int, size: int) -> None:
    images = pictures(6, height, width)
    boxes = torch.tensor(
        [
            [0, 0, height, width],
            [3, 5, 11, 9],
            [height - 1, width - 1, 1, 1],
            [0, 7, height, 2],
            [2, 0, 18, width],
            [1, 1, 20, 22],
        ]
    )
    flip = torch.tensor([False, True, False, True, True, False])
    ours = resized_crop(images, boxes, flip, size, interpolation)
    for image, box, flipped, mine in zip(images.float(), boxes.tolist(), flip, ours, strict=True):
        theirs = TF.resized_crop(image, *box, [size, size], MODES[interpolation], antialias=True).clamp(0, 255)
        theirs = TF.horizontal_flip(theirs) if flipped else theirs
        assert (mine - theirs).abs().max() < 0.01  # of 255


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("box", [[0, 0, 90, 140], [31, 17, 50, 45], [80, 139, 10, 1]])
@pytest.mark.parametrize("flipped", [False, True])
def test_a_lone_large_crop_equals_torchvision(interpolation: Interpolation, box: list[int], flipped: bool) -> None:
    images = pictures(1, 90, 140)  # one sample, several blocks: the path of banded matrices
    ours = resized_crop(images, torch.tensor([box]), torch.tensor([flipped]), 150, interpolation)
    theirs = TF.resized_crop(images.float(), *box, [150, 150], MODES[interpolation], antialias=True).clamp(0, 255)
    assert (ours - (TF.horizontal_flip(theirs) if flipped else theirs)).abs().max() < 0.01


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(24, 11), (11, 24), (130, 40), (40, 130)])
@pytest.mark.parametrize("count", [1, 3])
def test_rectangles_equal_torchvision(interpolation: Interpolation, size: tuple[int, int], count: int) -> None:
    images = pictures(count, 90, 70)  # a lone one takes the path of banded matrices where a side is long
    boxes, flip = torch.tensor([[31, 17, 50, 45], [0, 0, 90, 70], [80, 69, 10, 1]]), torch.tensor([True, False, True])
    ours = resized_crop(images, boxes[:count], flip[:count], size, interpolation)
    for image, box, flipped, mine in zip(images.float(), boxes.tolist(), flip, ours, strict=False):
        theirs = TF.resized_crop(image, *box, size, MODES[interpolation], antialias=True).clamp(0, 255)
        assert (mine - (TF.horizontal_flip(theirs) if flipped else theirs)).abs().max() < 0.01


def test_a_shift_pads_with_black_and_cuts() -> None:
    planes = torch.rand(3, 4, 7, 5, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([[0, 0], [2, -3], [-1, 3], [3, 0]])
    moved = shift_planes(planes, shift, reach=3)
    for number, (down, right) in enumerate(shift.tolist()):
        for row in range(7):
            for column in range(5):
                inside = 0 <= row - down < 7 and 0 <= column - right < 5
                expected = planes[:, number, row - down, column - right] if inside else torch.zeros(3)
                assert torch.equal(moved[:, number, row, column], expected)


def test_a_box_is_erased_and_nothing_else() -> None:
    planes = torch.rand(3, 3, 6, 8, generator=torch.Generator().manual_seed(0)) + 1
    expected = planes.clone()
    expected[:, 0, 1:4, 2:8] = 0
    expected[:, 2, 5:6, 0:1] = 0
    erase_(planes, torch.tensor([[1, 2, 3, 6], [0, 0, 0, 0], [5, 0, 1, 1]]))
    assert torch.equal(planes, expected)


def test_float_images_keep_their_scale_and_overshoot() -> None:
    images = (torch.arange(8) >= 4).float().expand(1, 3, 8, 8)
    box, flip = torch.tensor([[0, 0, 8, 8]]), torch.tensor([False])
    ours = resized_crop(images, box, flip, 16, "bicubic")
    torch.testing.assert_close(ours[0], TF.resize(images[0], [16, 16], MODES["bicubic"], antialias=True))
    assert ours.max() > 1.05
    assert resized_crop((images * 255).to(torch.uint8), box, flip, 16, "bicubic").max() == 255


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_squeezed_image_gives_nearly_the_same_crop(interpolation: Interpolation) -> None:
    smooth = F.interpolate(
        torch.rand(4, 3, 6, 8, generator=torch.Generator().manual_seed(1)), (150, 300), mode="bicubic"
    )
    images = (smooth.clamp(0, 1) * 255).to(torch.uint8)
    canvas = TF.resize(images, [96, 96], MODES["bilinear"], antialias=True)
    boxes = torch.tensor([[0, 0, 150, 300], [20, 31, 80, 100], [75, 200, 75, 100], [10, 10, 60, 45]])
    flip = torch.tensor([False, True, True, False])
    direct = resized_crop(images, boxes, flip, 32, interpolation)
    squeezed = resized_crop(canvas, boxes, flip, 32, interpolation, sizes=torch.tensor([[150, 300]] * 4))
    assert (direct - squeezed).abs().mean() < 1.5  # of 255
    assert (direct - squeezed).abs().max() < 12


def test_a_box_narrower_than_a_canvas_pixel_is_not_empty() -> None:
    canvas = torch.full((1, 3, 4, 4), 77, dtype=torch.uint8)
    box, sizes = torch.tensor([[999, 0, 1, 1]]), torch.tensor([[1000, 1000]])
    assert torch.equal(
        resized_crop(canvas, box, torch.tensor([True]), 5, "bicubic", sizes), torch.full((1, 3, 5, 5), 77.0)
    )


@pytest.mark.parametrize("size", [24, (31, 12)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_files_give_the_same_crops(interpolation: Interpolation, size: Size) -> None:
    images = pictures(3, 70, 50) // 2 + 64  # of middle brightness: PIL clips what overshoots between its two passes
    boxes = torch.tensor([[0, 0, 70, 50], [11, 5, 40, 30], [30, 20, 9, 12]])
    files = [PIL.Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    crops = crop_files(files, boxes, size, interpolation)
    expected = resized_crop(images, boxes, torch.zeros(3, dtype=torch.bool), size, interpolation)
    assert crops.dtype == torch.uint8
    assert (crops - expected).abs().max() < 1.6  # PIL rounds to whole values after each of the two directions


def test_files_of_other_modes_become_rgb() -> None:
    gray = PIL.Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    crops = crop_files([gray], torch.tensor([[0, 0, 8, 8]]), 8, "bilinear")
    assert torch.equal(crops[0], torch.arange(64, dtype=torch.uint8).view(8, 8).expand(3, 8, 8))


@pytest.mark.parametrize(("height", "width", "taps"), [(32, 32, 23), (70, 13, 5), (113, 60, 23), (20, 64, 1)])
def test_reflected_blur_equals_torchvision(height: int, width: int, taps: int) -> None:
    images = pictures(3, height, width).float() / 255
    sigma = torch.tensor([0.1, 0.9, 2.0])
    ours = blur_planes(images.transpose(0, 1), sigma, taps, "reflect").transpose(0, 1)
    for image, width_of_blur, mine in zip(images, sigma.tolist(), ours, strict=True):
        torch.testing.assert_close(mine, TF.gaussian_blur(image, [taps, taps], [width_of_blur] * 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("case", ["a", "b", "c", "d", "e", "f"])
def test_zero_bordered_blur_equals_the_published_one(case: str) -> None:
    golden = np.load(GOLDEN / "simclr_blur_0.npz")
    image = torch.from_numpy(golden[f"image_{case}"])
    images = image.view(-1, *image.shape[-3:]).permute(3, 0, 1, 2).contiguous()  # (3, B, H, W)
    sigma = torch.tensor(golden[f"sigma_{case}"].item()).expand(images.shape[1])
    taps = 2 * (int(golden[f"kernel_size_{case}"]) // 2) + 1
    expected = torch.from_numpy(golden[f"blurred_{case}"]).view(-1, *image.shape[-3:])
    blurred = blur_planes(images, sigma, taps, "zero").permute(1, 2, 3, 0)
    assert (blurred - expected).abs().max() <= 3e-6 * expected.abs().max()
