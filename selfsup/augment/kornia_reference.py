"""The same views from the same parameters by kornia's operators, sample by sample: slow, and a check on the fast path.

Where kornia's default means something else than torchvision's, the operator that agrees is named: its brightness is
additive (`adjust_brightness_accumulative` multiplies), its contrast scales about black (`..._with_mean_subtraction`
about the gray mean), its saturation is HSV's (`..._with_gray_subtraction` blends with gray), its hue is in radians.
kornia's crop has no antialiasing, so the box is cut out and resized by torch itself; torch's cubic without antialiasing
is another one than TensorFlow's (a = -3/4), which `files.sample` computes pixel by pixel.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.augment.files import sample
from selfsup.augment.parameters import Parameters, View
from selfsup.packages import optional


def library() -> Any:
    """kornia itself, which nothing else needs.

    Raises:
        ValueError: it is not installed.
    """
    return optional("kornia", 'augment.backend "kornia" (the backend "fused" makes the same views)')


def kornia_view(view: View, images: Tensor, parameters: Parameters, cropped: bool) -> Tensor:
    """One view of a batch.

    Args:
        view: its configuration.
        images: (B, 3, H, W) uint8.
        parameters: of the B samples, on the CPU.
        cropped: `images` are crops of the view's size already.

    Returns:
        (B, 3, S, T) float32, normalised.
    """
    kornia = library()
    mean, std = (torch.tensor(values, device=images.device) for values in (view.mean, view.std))
    results = []
    for number, image in enumerate(images):
        drawn = Parameters(*(values[number] for values in parameters))
        x = _geometry(view, image[None].float() / 255, drawn, cropped)
        if drawn.grayscale and view.grayscale_first:
            x = _gray(x)
        if drawn.jitter:
            x = _jitter(x, drawn.factors.to(x.device), drawn.order.tolist(), view.jitter.additive_brightness)
        if drawn.grayscale and not view.grayscale_first:
            x = _gray(x)
        if drawn.blur:
            sigma = float(drawn.sigma)
            border = "reflect" if view.blur.border == "reflect" else "constant"
            x = kornia.filters.gaussian_blur2d(x, view.blur.kernel_size, (sigma, sigma), border)
        if drawn.solarize:
            x = kornia.enhance.solarize(x, 0.5)
        x = kornia.enhance.normalize(x, mean, std)
        top, left, height, width = drawn.erase.tolist()
        x[:, :, top : top + height, left : left + width] = 0
        results.append(x)
    return torch.cat(results)


def _geometry(view: View, image: Tensor, drawn: Parameters, cropped: bool) -> Tensor:
    if not cropped:
        top, left, height, width = drawn.boxes.tolist()
        box = image[:, :, top : top + height, left : left + width]
        if view.interpolation == "bicubic_aliased":
            resized = sample(box[0].permute(1, 2, 0), (0, 0, height, width), view.shape).permute(2, 0, 1)[None]
        else:
            resized = F.interpolate(box, view.shape, mode=view.interpolation, antialias=True)
        image = resized.clamp(0, 1)
    image = library().geometry.hflip(image) if drawn.flip else image
    if view.crop == "shifted":
        down, right = drawn.shift.tolist()
        image = F.pad(image, (right, -right, down, -down))  # negative: cut there
    return image


def _gray(image: Tensor) -> Tensor:
    color = library().color
    gray: Tensor = color.grayscale_to_rgb(color.rgb_to_grayscale(image))
    return gray


def _jitter(image: Tensor, factors: Tensor, order: list[int], additive_brightness: bool) -> Tensor:
    brightness, contrast, saturation, hue = factors
    enhance = library().enhance
    brighten = enhance.adjust_brightness if additive_brightness else enhance.adjust_brightness_accumulative
    operations = (
        lambda x: brighten(x, brightness),
        lambda x: enhance.adjust_contrast_with_mean_subtraction(x, contrast),
        lambda x: enhance.adjust_saturation_with_gray_subtraction(x, saturation),
        lambda x: enhance.adjust_hue(x, 2 * math.pi * hue),
    )
    for operation in order:
        image = operations[operation](image)
    return image
