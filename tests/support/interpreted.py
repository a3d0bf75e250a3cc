"""Views by Triton's interpreter against plain loops: `python -m tests.support.interpreted`, which prints the gaps."""

import json
import os

os.environ["TRITON_INTERPRET"] = "1"

from dataclasses import replace

import torch

from selfsup.augment.on_device import views_by_kernels
from selfsup.augment.parameters import Blur, Erase, Jitter, Parameters, View, draw_views
from tests.support.slow_views import finished, slow_view

STRONG = Jitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.5, probability=0.8)
EVERYTHING = View(
    size=(21, 15),
    interpolation="bicubic",
    jitter=STRONG,
    grayscale=0.4,
    blur=Blur(probability=0.6, kernel_size=9),
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.3, 0.4),
    erase=Erase(probability=0.5),
)
ALIASED = replace(EVERYTHING, interpolation="bicubic_aliased", blur=replace(EVERYTHING.blur, border="zero"))
UNBLURRED = replace(EVERYTHING, size=17, interpolation="bilinear", grayscale_first=True, blur=Blur())
SHIFTED = replace(EVERYTHING, crop="shifted", shift=4, jitter=replace(STRONG, contrast=0.0, additive_brightness=True))
SOLARIZED = replace(EVERYTHING, solarize=0.6, jitter=Jitter(), blur=Blur())


def of_channels(channels: int) -> View:
    return replace(EVERYTHING.without_colour(), mean=(0.3,) * channels, std=(0.4,) * channels)


def gap(views: list[View], shape: tuple[int, int, int, int], cropped: bool = False) -> float:
    """The largest difference from plain loops in units of pixel values."""
    generator = torch.Generator().manual_seed(8)
    count, channels, *extent = shape
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    sources = [images[..., : view.shape[0], : view.shape[1]] if cropped else images for view in views]
    drawn = draw_views(views, 3, 1, torch.arange(count), torch.tensor([extent] * count))
    made = views_by_kernels(views, sources, drawn, None, cropped)
    gaps = []
    for view, source, numbers, ours in zip(views, sources, drawn, made, strict=True):
        assert ours.is_contiguous(memory_format=torch.channels_last) or count == 1 or channels == 1
        for row, image in enumerate(source):
            theirs = from_crop(view, image, numbers, row) if cropped else slow_view(view, image, numbers, row)
            gaps.append(((ours[row] - theirs).abs() * torch.tensor(view.std)[:, None, None]).max().item())
    return max(gaps)


def from_crop(view: View, crop: torch.Tensor, numbers: Parameters, row: int) -> torch.Tensor:
    picture = crop.double() / 255
    return finished(view, picture.flip(-1) if numbers.flip[row] else picture, numbers, row)


def main() -> None:
    gaps = {
        "two views": gap([EVERYTHING, ALIASED], (4, 3, 37, 29)),
        "unblurred": gap([UNBLURRED], (3, 3, 30, 40)),
        "shifted": gap([SHIFTED], (3, 3, 40, 20)),
        "solarized": gap([SOLARIZED], (2, 3, 25, 20)),
        "crops": gap([replace(SHIFTED, jitter=STRONG), EVERYTHING], (3, 3, 21, 15), cropped=True),
        "one image of one pixel": gap([UNBLURRED], (1, 3, 1, 1)),
        "1 channel": gap([of_channels(1)], (2, 1, 20, 31)),
        "7 channels": gap([of_channels(7)], (2, 7, 20, 31)),
    }
    print(json.dumps(gaps))


if __name__ == "__main__":
    main()
