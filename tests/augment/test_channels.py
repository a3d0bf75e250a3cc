"""Views of images of any number of channels."""

import math
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

from selfsup.augment.bands import Bands, bands_of
from selfsup.augment.channels import meaningless
from selfsup.augment.parameters import Blur, Jitter, Parameters, View, draw
from selfsup.augment.views import Augment, Center, Views
from selfsup.batch import Batch

CPU = torch.device("cpu")
VIEW = View(
    size=(12, 10),
    crop_scale=(0.2, 1.0),
    flip=0.5,
    jitter=Jitter(brightness=0.4, contrast=0.4, probability=0.8),
    blur=Blur(probability=0.5, sigma=(0.3, 1.5), kernel_size=5),
    solarize=0.4,
)


def of_channels(view: View, channels: int) -> View:
    return replace(
        view, mean=tuple(0.1 * c for c in range(channels)), std=tuple(0.5 + 0.1 * c for c in range(channels))
    )


def batch(channels: int, height: int = 17, width: int = 14, count: int = 24) -> Batch:
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)
    return Batch(images, torch.zeros(count, dtype=torch.int64), torch.arange(count))


def resized(line: list[float], start: int, length: int, size: int) -> list[float]:
    """An interval of a line of pixels in `size` new ones, by the triangle that widens as the interval shrinks."""
    scale, result = length / size, []
    for place in range(size):
        center = start + (place + 0.5) * scale
        weights = {p: max(0.0, 1 - abs(p + 0.5 - center) / max(scale, 1)) for p in range(start, start + length)}
        result.append(sum(w * line[p] for p, w in weights.items()) / sum(weights.values()))
    return result


def along_rows(picture: list[list[float]], change) -> list[list[float]]:
    return [change(row) for row in picture]


def turned(picture: list[list[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*picture, strict=True)]


def blurred(line: list[float], sigma: float, taps: int) -> list[float]:
    radius = taps // 2
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
    mirrored = [
        line[abs(p)] if p < len(line) else line[2 * len(line) - 2 - p] for p in range(-radius, len(line) + radius)
    ]
    return [sum(w * mirrored[place + k] for k, w in enumerate(weights)) / sum(weights) for place in range(len(line))]


def naive_view(view: View, image: np.ndarray, drawn: Parameters, row: int) -> np.ndarray:
    """One sample, (C, H, W), channel by channel in double precision; contrast alone looks at all channels."""
    top, left, height, width = drawn.boxes[row].tolist()
    planes = []
    for channel in image.astype(float) / 255:
        picture = along_rows(channel.tolist(), lambda line: resized(line, left, width, view.shape[1]))
        picture = turned(along_rows(turned(picture), lambda line: resized(line, top, height, view.shape[0])))
        planes.append([line[::-1] for line in picture] if drawn.flip[row] else picture)
    values = np.clip(np.array(planes), 0, 1)
    if drawn.jitter[row]:
        brightness, contrast, *_ = drawn.factors[row].double().tolist()
        for operation in drawn.order[row].tolist():
            if operation == 0:
                values = np.clip(brightness * values, 0, 1)
            elif operation == 1:
                values = np.clip(contrast * values + (1 - contrast) * values.mean(), 0, 1)
    if drawn.blur[row]:
        sigma, taps = float(drawn.sigma[row]), view.blur.kernel_size
        for channel in range(len(values)):
            picture = along_rows(values[channel].tolist(), lambda line: blurred(line, sigma, taps))
            values[channel] = turned(along_rows(turned(picture), lambda line: blurred(line, sigma, taps)))
    if drawn.solarize[row]:
        values = np.where(values >= 0.5, 1 - values, values)
    return (values - np.array(view.mean)[:, None, None]) / np.array(view.std)[:, None, None]


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_views_equal_a_naive_loop(channels: int) -> None:
    view, data = of_channels(VIEW, channels), batch(channels)
    (made,) = Views(Augment(views=(view,)), seed=5)(data, 2, CPU)
    assert made.shape == (24, channels, 12, 10)
    assert made.dtype == torch.float32
    assert isinstance(data.images, Tensor)
    sizes = torch.tensor([17, 14]).expand(24, 2)
    drawn = draw(view, 5, 2, data.indices, 0, sizes)
    for part in (drawn.flip, drawn.jitter, drawn.blur, drawn.solarize):
        assert 0 < int(part.sum()) < 24, "the samples do not show all operations"
    for row in range(24):
        wanted = torch.from_numpy(naive_view(view, data.images[row].numpy(), drawn, row))
        near_edge = (
            (wanted * torch.tensor(view.std)[:, None, None] + torch.tensor(view.mean)[:, None, None]) - 0.5
        ).abs() < 1e-4
        gap = (made[row].double() - wanted).abs().masked_fill(near_edge, 0.0)  # of a solarized pixel on the threshold
        assert gap.max() < 2e-5, row


def test_a_channel_of_three_alike_is_a_gray_picture() -> None:
    """Without colour operations the channels of one image are treated as those of any other number."""
    plain = replace(VIEW, jitter=replace(VIEW.jitter, contrast=0.0))
    data = batch(3)
    assert isinstance(data.images, Tensor)
    (three,) = Views(Augment(views=(of_channels(plain, 3),), colour=False), seed=5)(data, 2, CPU)
    more = data._replace(images=torch.cat([data.images, data.images[:, :2]], dim=1))
    five = replace(plain, mean=(0.0, 0.1, 0.2, 0.0, 0.1), std=(0.5, 0.6, 0.7, 0.5, 0.6))
    (made,) = Views(Augment(views=(five,)), seed=5)(more, 2, CPU)
    assert torch.allclose(made[:, :3], three, atol=2e-5)
    assert torch.equal(made[:, 3:], made[:, :2])


def test_without_colour_leaves_the_rest_as_drawn() -> None:
    colourful = replace(VIEW, grayscale=0.5, jitter=replace(VIEW.jitter, saturation=0.4, hue=0.1))
    data = batch(3)
    (off,) = Views(Augment(views=(of_channels(colourful, 3),), colour=False), seed=5)(data, 2, CPU)
    (plain,) = Views(Augment(views=(of_channels(VIEW, 3),)), seed=5)(data, 2, CPU)
    assert torch.equal(off, plain)
    (on,) = Views(Augment(views=(of_channels(colourful, 3),)), seed=5)(data, 2, CPU)
    assert not torch.equal(on, plain)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "bicubic_aliased"])
@pytest.mark.parametrize("channels", [1, 5])
def test_crops_of_pictures_give_the_same_views(channels: int, interpolation) -> None:
    """As crops of RGB do: what a worker crops is what is cut out of whole images, to a level or two."""
    view = replace(of_channels(VIEW, channels), interpolation=interpolation, solarize=0.0)
    views, data = Views(Augment(views=(view, view)), seed=5), batch(channels)
    assert isinstance(data.images, Tensor)
    # Pillow cuts what a cubic resize overshoots after its first pass already: nothing is to reach black or white.
    data = data._replace(images=data.images // 4 + 96)
    assert isinstance(data.images, Tensor)
    pictures = [bands_of(image.permute(1, 2, 0).numpy()) for image in data.images]
    cropped = views.crop(pictures, data.indices, 2)
    assert cropped[1].shape == (24, channels, 12, 10)
    from_files = views(data._replace(images=cropped), 2, CPU)
    for a, b in zip(from_files, views(data, 2, CPU), strict=True):
        assert (a - b).abs().max() < 2.5 / 255 / min(view.std)


def test_bands_are_resized_each_for_itself() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 4), dtype=np.uint8)
    pixels[..., 3] = 0  # Pillow would take a fourth channel of 0 for nothing to be seen
    made = np.asarray(bands_of(pixels).resize((5, 4), PIL.Image.Resampling.BILINEAR))
    for channel in range(4):
        alone = PIL.Image.fromarray(pixels[..., channel]).resize((5, 4), PIL.Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(made[..., channel], np.asarray(alone))
    assert np.array_equal(np.asarray(bands_of(pixels)), pixels)
    upright = bands_of(pixels).transpose(PIL.Image.Transpose.ROTATE_90)
    assert isinstance(upright, Bands)
    assert np.array_equal(np.asarray(upright), np.rot90(pixels))


@pytest.mark.parametrize("channels", [1, 5])
def test_the_test_view_normalises_each_channel(channels: int) -> None:
    data, view = batch(channels, 12, 12), of_channels(VIEW, channels)
    assert isinstance(data.images, Tensor)
    made = Center(12, 1.0, view.mean, view.std)(data.images, None, CPU)
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (view.mean, view.std))
    assert torch.allclose(made.double(), (data.images.double() / 255 - mean) / std, atol=1e-6)


def test_other_channels_than_means_are_refused() -> None:
    told = r"images have 5 channels and are normalised by 3 values; give a mean and a std for each channel"
    with pytest.raises(ValueError, match=told):
        Views(Augment(views=(of_channels(VIEW, 3),)), 0)(batch(5), 0, CPU)
    with pytest.raises(ValueError, match=told):
        Center(12, 1.0, (0.0,) * 3, (1.0,) * 3)(batch(5).images, None, CPU)
    with pytest.raises(ValueError, match=r"View.mean has 3 values and View.std 5; give both one for each channel"):
        View(std=(1.0,) * 5)


def test_what_has_no_meaning_is_named() -> None:
    colourful = replace(VIEW, grayscale=0.5, jitter=replace(VIEW.jitter, saturation=0.4, hue=0.1))
    augment = Augment(views=(VIEW, colourful))
    remedy = "give --augment.no-colour, which leaves saturation, hue and grayscale out of every view"
    named = "augment.views.1.jitter.saturation 0.4, augment.views.1.jitter.hue 0.1, augment.views.1.grayscale 0.5"
    assert list(meaningless(augment, 3)) == []
    assert list(meaningless(augment, 5)) == [
        f"{named} change colours, and these images are no red, green and blue; {remedy}"
    ]
    gray = Augment(views=(replace(VIEW, grayscale=0.5),))
    assert list(meaningless(gray, 1)) == [
        f"augment.views.0.grayscale 0.5 changes colours, and these images are gray already; {remedy}"
    ]
    assert list(meaningless(replace(augment, colour=False), 5)) == []
    (told,) = meaningless(Augment(views=(VIEW,), backend="kornia"), 5)
    assert told == 'augment.backend "kornia" makes views of three channels; give --augment.backend fused'
