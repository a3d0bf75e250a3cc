"""Colour operations with torchvision's semantics, in place on planes (C, B, H, W) of values in [0, 1].

C is 3: red, green and blue. Of any other number of channels the gray picture is their mean, which contrast goes by;
saturation, hue and grayscale have no meaning then, and `channels.require_views` refuses them.

Numbers that steer the operations stay on the CPU: which samples an operation concerns is known there, so nothing ever
waits for the device. Samples that share an operation should lie next to each other (`processing_order`): a run of them
is a slice of the planes, and no pixel is gathered or masked.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from selfsup.augment.parameters import BRIGHTNESS, CONTRAST, HUE, SATURATION, Parameters
from selfsup.devices.moving import send

LUMA = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue
_LARGEST_REST = 0.9
_SOLARIZE_THRESHOLD = 0.5


def processing_order(parameters: Parameters) -> Tensor:
    """(B,) int64: an order of the samples in which those with the same operations are neighbours."""
    key = torch.where(parameters.jitter, hue_place(parameters.order) + 1, 0)
    for chosen in (parameters.blur, parameters.grayscale, parameters.solarize):
        key = key * 2 + chosen
    return torch.argsort(key, stable=True)


def runs(values: Tensor) -> list[tuple[int, slice]]:
    """The runs of equal neighbours in (B,) integers on the CPU: each value and where it stands."""
    found, start = [], 0
    for value, neighbours in itertools.groupby(values.tolist()):
        stop = start + sum(1 for _ in neighbours)
        found.append((value, slice(start, stop)))
        start = stop
    return found


def runs_of_true(chosen: Tensor) -> list[slice]:
    """The runs of neighbours that are True in (B,) bool on the CPU."""
    return [run for value, run in runs(chosen) if value]


def hue_place(order: Tensor) -> Tensor:
    """(B,) int64: when in the order of four operations, (B, 4), the hue comes."""
    return (order == HUE).int().argmax(dim=1)


def jitter_(planes: Tensor, factors: Tensor, order: Tensor, additive_brightness: bool = False) -> None:
    """Brightness, contrast, saturation and hue in each sample's order, clamped to [0, 1] after each.

    The first three are all clamp(f x + (1 - f) t), with t black, the mean of the gray picture, or the gray picture
    itself: one pass serves samples that are at different operations. The hue falls before, between or after them.

    Args:
        planes: (C, B, H, W) float32 in [0, 1], changed in place.
        factors: (B, 4) float32 on the CPU: brightness, contrast, saturation, and the hue's shift in turns.
        order: (B, 4) int64 on the CPU: 0 brightness, 1 contrast, 2 saturation, 3 hue, in the order to apply them.
        additive_brightness: the first of the factors is not multiplied by but added.
    """
    hues = runs(hue_place(order))
    kinds = order[order != HUE].view(-1, 3).T  # (3, B), what the blends are
    kept = factors.T.gather(0, kinds)
    added = torch.zeros_like(kept)
    if additive_brightness:
        brightness = kinds == BRIGHTNESS
        kept, added = torch.where(brightness, 1.0, kept), torch.where(brightness, kept, 0.0)
    table = torch.stack([kept, (1 - kept) * (kinds == CONTRAST), (1 - kept) * (kinds == SATURATION), added], dim=1)
    present = [set(slot) for slot in kinds.tolist()]
    table = send(table, planes.device)[..., None, None]  # (slot, coefficient, B, 1, 1)
    turns = send(factors[:, HUE].contiguous(), planes.device)
    for slot in range(4):
        for place, run in hues:
            if place == slot and len(planes) == len(LUMA):
                hue_(planes[:, run], turns[run])
        if slot < 3:
            kept, of_mean, of_gray, added = table[slot]
            _blend_(
                planes,
                kept,
                of_mean if CONTRAST in present[slot] else None,
                of_gray if SATURATION in present[slot] else None,
                added if additive_brightness and BRIGHTNESS in present[slot] else None,
            )


def _blend_(planes: Tensor, kept: Tensor, of_mean: Tensor | None, of_gray: Tensor | None, added: Tensor | None) -> None:
    """clamp(kept x + of_mean mean(gray) + of_gray gray + added), coefficients (B, 1, 1)."""
    if of_mean is None and of_gray is None:
        planes.mul_(kept)
        (planes if added is None else planes.add_(added)).clamp_(0, 1)
        return
    gray = luma(planes)
    constant = 0.0 if of_mean is None else of_mean * gray.mean(dim=(1, 2), keepdim=True)
    if added is not None:
        constant = constant + added
    total = constant if of_gray is None else gray.mul_(of_gray).add_(constant)
    planes.mul_(kept).add_(total).clamp_(0, 1)


def luma(planes: Tensor) -> Tensor:
    """The gray picture, (C, B, H, W) -> (B, H, W); of others than three channels their mean."""
    if len(planes) != len(LUMA):
        return planes.mean(dim=0)
    red, green, blue = planes
    gray: Tensor = red.mul(LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
    return gray


def grayscale_(planes: Tensor) -> None:
    """Every colour becomes the gray picture; (3, B, H, W)."""
    planes.copy_(luma(planes))


def solarize_(planes: Tensor) -> None:
    """Values of one half and above are inverted."""
    planes.copy_(torch.where(planes >= _SOLARIZE_THRESHOLD, 1 - planes, planes))


def hue_parts(turns: Sequence[float]) -> list[tuple[int, bool, float]]:
    """Each shift of the hue, of at most half a turn, as thirds of a turn (-1, 0 or 1), half a turn or none, and a rest.

    The rest, in sixths of a turn, is at most `_LARGEST_REST`. A third of a turn exchanges the colours, half of one
    makes R of V + m - R (V and m are the largest and the smallest colour of a pixel), and the rest is small.
    """
    parts = []
    for turn in turns:
        thirds = round(3 * turn)
        rest = 6 * turn - 2 * thirds
        opposite = abs(rest) > _LARGEST_REST
        if opposite:
            side = 1 if rest > 0 else -1
            thirds, rest = thirds - side, rest - side
        parts.append(((thirds + 1) % 3 - 1, opposite, rest))
    return parts


def hue_(planes: Tensor, turns: Tensor) -> None:
    """Turn the hue of each sample, keeping value and saturation of HSV; (3, B, H, W) and (B,) in turns.

    HSV is never formed. With V, m the largest and the smallest colour of a pixel and C = V - m, the hue in sixths of
    a turn is h = +-(1 + (G + B - R - m) / C), negative where G < B (it is zero at red and three at cyan), and a hue h
    has the colours R = m + C clamp(|h - 3| - 1, 0, 1), and 2 - |h - 2|, 2 - |h - 4| likewise for G and B. So there is
    no branch over the six sectors, which on a CPU would cost more than all of the arithmetic.
    """
    red, green, blue = planes
    chroma, smallest = torch.maximum(green, blue), torch.minimum(green, blue)
    torch.maximum(chroma, red, out=chroma)
    torch.minimum(smallest, red, out=smallest)
    chroma.sub_(smallest)
    hue = torch.add(green, blue).sub_(red).sub_(smallest)
    buffer = torch.clamp(chroma, min=1e-12)  # gray pixels: any hue will do, as it is multiplied by C = 0
    hue.div_(buffer).add_(1.0)
    torch.copysign(hue, torch.sub(green, blue, out=buffer), out=hue)
    hue.add_((6.0 * turns)[:, None, None])
    torch.mul(hue, 1 / 6, out=buffer).floor_()
    hue.sub_(buffer, alpha=6.0)  # in [0, 6]

    # clamp(|h - 3| - 1, 0, 1) = clamp(|h - 3|, 1, 2) - 1: the constant goes into what is added.
    base = torch.sub(smallest, chroma)
    torch.addcmul(base, chroma, _distance(hue, 3.0, buffer), out=red)
    torch.add(smallest, chroma, alpha=2.0, out=base)
    torch.addcmul(base, chroma, _distance(hue, 2.0, buffer), value=-1.0, out=green)
    torch.addcmul(base, chroma, _distance(hue, 4.0, buffer), value=-1.0, out=blue)


def _distance(hue: Tensor, center: float, out: Tensor) -> Tensor:
    return torch.sub(hue, center, out=out).abs_().clamp_(1.0, 2.0)
