"""Whole views: the fast path against the reference, and the ways an image may reach it."""

from dataclasses import replace

import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as TF

import selfsup.augment.views as views_module
from selfsup.augment.parameters import View, draw
from selfsup.augment.presets import PRESETS, instdisc, metric, moco_v1, multi_crop, reid, simclr, simclr_cifar
from selfsup.augment.views import Augment, Center, Views
from selfsup.batch import Batch

CPU = torch.device("cpu")
MODES = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}


def batch_of(count: int, height: int, width: int, first: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(9)
    coarse = torch.rand(count, 3, height // 4, width // 4, generator=generator)
    noise = torch.rand(count, 3, height, width, generator=generator)
    images = F.interpolate(coarse, (height, width), mode="bilinear") * 0.8 + noise * 0.2
    return Batch(
        (images * 255).to(torch.uint8), torch.full((count,), -1), torch.arange(first, first + count), sizes=None
    )


def largest_gap(ours: list[Tensor], theirs: list[Tensor], augment: Augment) -> float:
    """In units of pixel values [0, 1]: the normalisation's scale is taken out."""
    gaps = [
        (mine - other).abs() * torch.tensor(view.std, device=mine.device).view(3, 1, 1)
        for mine, other, view in zip(ours, theirs, augment.views, strict=True)
    ]
    return max(gap.max().item() for gap in gaps)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_fused_equals_kornia(name: str) -> None:
    pytest.importorskip("kornia")
    augment = PRESETS[name]()
    height, width = (min(extent, 48) for extent in augment.views[0].shape)
    size = (48, 30) if name == "reid" else (height, width)
    solarized = tuple(replace(view, size=size, solarize=0.3) for view in augment.views)
    # Solarize is discontinuous: a last bit of the colour before it may become half of the range after it.
    for views in (tuple(replace(view, solarize=0.0) for view in solarized), solarized):
        augment = replace(augment, views=views)
        batch = batch_of(16, 60, 72)
        fused = Views(augment, seed=3)(batch, 1, CPU)
        kornia = Views(replace(augment, backend="kornia"), seed=3)(batch, 1, CPU)
        if views is solarized:
            wrong = [((a - b).abs() > 0.01).float().mean() for a, b in zip(fused, kornia, strict=True)]
            assert max(wrong) < 1e-3
        else:
            assert largest_gap(fused, kornia, augment) < 1 / 255


def test_views_are_float_channels_last_without_gradient_and_differ() -> None:
    one, two = Views(simclr_cifar(), seed=0)(batch_of(5, 32, 32), 0, CPU)
    for view in (one, two):
        assert view.shape == (5, 3, 32, 32)
        assert view.dtype == torch.float32
        assert view.is_contiguous(memory_format=torch.channels_last)
        assert not view.requires_grad
        assert view.min() >= 0
        assert view.max() <= 1 + 1e-5
    assert (one - two).abs().mean() > 0.02


@pytest.mark.parametrize("size", [16, 20, 32])
@pytest.mark.parametrize("parts", [2, 3, 6])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_part_of_a_batch_has_the_bits_of_the_whole(
    size: int, parts: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that several processes see what one sees, whichever neighbours an image has."""
    if not compiled:
        monkeypatch.setattr(views_module, "loops", lambda: None)
    views, batch = Views(simclr_cifar(size), 5), batch_of(24, 40, 32)
    assert isinstance(batch.images, Tensor)
    pieces = [
        views(Batch(images, batch.labels[:0], indices), 0, CPU)
        for images, indices in zip(batch.images.chunk(parts), batch.indices.chunk(parts), strict=True)
    ]
    for number, whole in enumerate(views(batch, 0, CPU)):
        assert torch.equal(torch.cat([piece[number] for piece in pieces]), whole)


@pytest.mark.parametrize("chunk", [2**12, 2**30])
def test_a_view_does_not_depend_on_its_batch_or_chunk(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views_module, "loops", lambda: None)
    augment, batch = simclr(32, blur=0.5), batch_of(40, 32, 32)
    whole = Views(augment, seed=0)(batch, 2, CPU)
    monkeypatch.setitem(views_module._CHUNK_PIXELS, "cpu", chunk)
    part = Batch(batch.images[11:30], batch.labels[11:30], batch.indices[11:30])
    for view, again in zip(whole, Views(augment, seed=0)(part, 2, CPU), strict=True):
        torch.testing.assert_close(view[11:30], again, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["moco_v2", "simclr"])
def test_crops_of_files_give_the_same_views(name: str) -> None:
    augment = PRESETS[name]()
    # Without hue and solarize, which amplify the rounding of PIL's crops to whole values.
    views = tuple(replace(view, size=48, jitter=replace(view.jitter, hue=0.0)) for view in augment.views)
    augment, batch = replace(augment, views=views), batch_of(20, 80, 100, first=7)
    maker = Views(augment, seed=1)
    files = [PIL.Image.fromarray(image.permute(1, 2, 0).numpy()) for image in batch.images]
    crops = maker.crop(files, batch.indices, 4)
    assert [crop.shape for crop in crops] == [(20, 3, 48, 48)] * 2
    direct, from_files = maker(batch, 4, CPU), maker(batch._replace(images=crops), 4, CPU)
    assert largest_gap(direct, from_files, augment) < 12 / 255  # three strong factors in a row, each up to 1.8
    assert max((a - b).abs().mean() for a, b in zip(direct, from_files, strict=True)) < 1 / 100


def test_a_squeezed_batch_gives_nearly_the_same_views() -> None:
    generator = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(16, 3, 5, 8, generator=generator), (120, 200), mode="bilinear")
    images = (smooth * 255).to(torch.uint8)
    batch = Batch(images, torch.zeros(16, dtype=torch.int64), torch.arange(16))
    squeezed = batch._replace(images=TF.resize(images, [96, 96], antialias=True), sizes=torch.tensor([[120, 200]] * 16))
    augment = Augment(views=(View(size=32), View(size=24, interpolation="bicubic")))
    for direct, canvas in zip(Views(augment, 0)(batch, 0, CPU), Views(augment, 0)(squeezed, 0, CPU), strict=True):
        assert (direct - canvas).abs().mean() < 0.01


def test_kornia_takes_no_squeezed_batch() -> None:
    pytest.importorskip("kornia")
    squeezed = batch_of(4, 32, 32)._replace(sizes=torch.tensor([[60, 72]] * 4))
    with pytest.raises(ValueError, match="kornia backend"):
        Views(Augment(backend="kornia"), 0)(squeezed, 0, CPU)


@pytest.mark.parametrize("size", [(96, 48), (130, 140)])  # in chunks, and one by one
def test_reid_equals_the_published_sequence(size: tuple[int, int]) -> None:
    augment, batch = reid(size, shift=7), batch_of(12, 100, 72)
    (ours,) = Views(augment, seed=4)(batch, 2, CPU)
    view = augment.views[0]
    drawn = draw(view, 4, 2, batch.indices, 0, torch.tensor([[100, 72]] * 12))
    assert ours.shape == (12, 3, *size)
    for number, image in enumerate(batch.images.float() / 255):
        x = TF.resize(image, list(size), MODES["bicubic"], antialias=True).clamp(0, 1)
        x = TF.pad(TF.horizontal_flip(x) if drawn.flip[number] else x, [7])
        down, right = drawn.shift[number].tolist()
        x = TF.normalize(TF.crop(x, 7 - down, 7 - right, *size), view.mean, view.std)
        torch.testing.assert_close(ours[number], TF.erase(x, *drawn.erase[number].tolist(), v=0), atol=1e-3, rtol=0)
    assert len(drawn.shift.unique(dim=0)) > 6
    assert 2 < (drawn.erase[:, 2] > 0).sum() < 10


def test_reid_from_files_and_canvases_gives_nearly_the_same_views() -> None:
    generator = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(10, 3, 6, 5, generator=generator), (150, 90), mode="bilinear")
    batch = Batch((smooth * 255).to(torch.uint8), torch.zeros(10, dtype=torch.int64), torch.arange(10))
    maker = Views(reid((64, 32), shift=5), seed=1)
    (direct,) = maker(batch, 0, CPU)
    canvas = batch._replace(
        images=TF.resize(batch.images, [80, 80], antialias=True), sizes=torch.tensor([[150, 90]] * 10)
    )
    files = [PIL.Image.fromarray(image.permute(1, 2, 0).numpy()) for image in batch.images]
    for other in (canvas, batch._replace(images=maker.crop(files, batch.indices, 0))):
        (again,) = maker(other, 0, CPU)
        assert torch.equal(again == 0, direct == 0)  # the same boxes are erased
        assert (again - direct).abs().max() < 0.15  # of 4.4 deviations
        assert (again - direct).abs().mean() < 0.02


def test_multi_crop_appends_small_views() -> None:
    augment = multi_crop(simclr_cifar(), small_size=16, count=3, small_scale=(0.05, 0.2), large_scale=(0.3, 1.0))
    views = Views(augment, seed=0)(batch_of(4, 32, 32), 0, CPU)
    assert [tuple(view.shape) for view in views] == [(4, 3, 32, 32)] * 2 + [(4, 3, 16, 16)] * 3
    assert [view.crop_scale for view in augment.views] == [(0.3, 1.0)] * 2 + [(0.05, 0.2)] * 3
    large, *small = multi_crop(reid((64, 32)), small_size=16, count=1).views
    assert {view.crop for view in (large, *small)} == {"resized"}  # boxes of the wanted scale, not the whole image
    with pytest.raises(ValueError, match="count is 0"):
        multi_crop(simclr_cifar(), count=0)


def test_presets_say_what_the_papers_say() -> None:
    assert len(instdisc().views) == 1
    assert moco_v1().views == instdisc().views * 2
    assert instdisc().views[0].grayscale_first
    assert PRESETS["instdisc_cifar"]().views[0].flip == 0
    assert PRESETS["moco_cifar"]().views[0].crop_scale == (0.08, 1.0)
    assert simclr().views[0].blur.kernel_size == 23
    assert simclr().views[0].jitter.hue == pytest.approx(0.2)
    assert simclr_cifar().views[0].jitter.brightness == pytest.approx(0.4)
    assert simclr_cifar().views[0].blur.probability == 0
    assert (metric().views[0].shape, metric().views[0].crop_scale) == ((224, 224), (0.2, 1.0))
    assert (reid().views[0].shape, reid().views[0].shift, reid().views[0].erase.probability) == ((256, 128), 10, 0.5)


def test_wrong_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="0 views"):
        Augment(views=())
    batch = batch_of(2, 32, 32)
    with pytest.raises(ValueError, match="crops for 1 views"):
        Views(simclr_cifar(), 0)(batch._replace(images=(batch.images,)), 0, CPU)
    for arguments in ({"size": 0, "fraction": 1.0}, {"size": (4, 0), "fraction": 1.0}, {"size": 8, "fraction": 1.1}):
        with pytest.raises(ValueError, match="Center's"):
            Center(**arguments, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 96), (128, 64)])
def test_center_equals_resize_and_center_crop(interpolation: str, height: int, width: int) -> None:
    batch = batch_of(3, height, width)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    center = Center(28, 28 / 32, mean, std, interpolation)
    resized = TF.resize(batch.images.float(), [32], MODES[interpolation], antialias=True).clamp(0, 255)
    expected = TF.normalize(TF.center_crop(resized, [28, 28]) / 255, mean, std)
    torch.testing.assert_close(center(batch.images, None, CPU), expected, atol=2e-5, rtol=0)
    files = [PIL.Image.fromarray(image.permute(1, 2, 0).numpy()) for image in batch.images]
    from_files = center((center.crop(files),), None, CPU)
    assert (from_files - expected).abs().max() * max(std) < 2.1 / 255  # rounded to whole values, twice


@pytest.mark.parametrize(("height", "width", "box"), [(120, 50, (100, 50)), (60, 90, (60, 30))])
def test_a_rectangular_center_keeps_the_aspect_ratio(height: int, width: int, box: tuple[int, int]) -> None:
    batch = batch_of(3, height, width)
    plain = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    center = Center((40, 20), 1.0, *plain)
    scale = 40 / box[0]
    resized = TF.resize(batch.images.float(), [round(height * scale), round(width * scale)], antialias=True)
    expected = TF.center_crop(resized, [40, 20]) / 255
    files = [PIL.Image.fromarray(image.permute(1, 2, 0).numpy()) for image in batch.images]
    torch.testing.assert_close(center(batch.images, None, CPU), expected, atol=2e-5, rtol=0)
    assert (center((center.crop(files),), None, CPU) - expected).abs().max() < 2.1 / 255
    whole = Center((40, 20), 1.0, *plain, fit="whole")
    expected = TF.resize(batch.images.float(), [40, 20], antialias=True) / 255
    torch.testing.assert_close(whole(batch.images, None, CPU), expected, atol=2e-5, rtol=0)
    assert (whole((whole.crop(files),), None, CPU) - expected).abs().max() < 2.1 / 255


def test_center_of_a_fitting_image_only_normalises() -> None:
    batch = batch_of(3, 32, 32)
    center = Center(32, 1.0, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    expected = (batch.images.float() / 255 - 0.5) / 0.25
    torch.testing.assert_close(center(batch.images, None, CPU), expected, atol=1e-6, rtol=1e-6)
    assert center(batch.images, None, CPU).is_contiguous(memory_format=torch.channels_last)


def test_center_of_a_squeezed_image_uses_its_original_shape() -> None:
    ramp = torch.arange(0, 240, dtype=torch.uint8).expand(1, 3, 80, 240)
    squeezed = TF.resize(ramp, [80, 80], antialias=True)
    center = Center(40, 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    direct, canvas = center(ramp, None, CPU), center(squeezed, torch.tensor([[80, 240]]), CPU)
    assert (direct - canvas).abs().max() < 3 / 255


@pytest.mark.gpu
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_gpu_makes_the_same_views(name: str) -> None:
    augment, batch = PRESETS[name](), batch_of(32, 96, 80)
    on_cpu = Views(augment, seed=5)(batch, 1, CPU)
    with torch.autocast("cuda", torch.bfloat16):
        on_gpu = Views(augment, seed=5)(batch, 1, torch.device("cuda"))
    assert largest_gap([view.cpu() for view in on_gpu], on_cpu, augment) < 1 / 255
