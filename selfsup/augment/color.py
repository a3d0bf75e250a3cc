"""Colour operations with torchvision's semantics, in place on planes (C, B, H, W) of values in [0, 1].

C is 3: red, green and blue. Of any other number of channels the gray picture is their mean, which contrast goes by;
saturation, hue and grayscale have no meaning then, and `channels.require_views` refuses them.

Numbers that steer the operations stay on the CPU: which samples an operation concerns is known there, so nothing ever
waits for the device. Samples that share an operation should lie next to each other (`processing_order`): a run of them
is a slice of the planes, and no pixel is gathered or masked.
"""

import itertools

import torch
from torch import Tensor

from selfsup.augment.parameters import BRIGHTNESS, CONTRAST, HUE, SATURATION, Parameters
from selfsup.devices.moving import send

LUMA = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue
_LARGEST_REST = 0.9
_SOLARIZE_THRESHOLD = 0.5


def processing_order(parameters: Parameters) -> Tensor:
    """(B,) int64: an order of the samples in which those with the same operations are neighbours."""
    thirds, opposite, _ = hue_parts(parameters.factors[:, HUE])
    key = torch.where(parameters.jitter, _hue_key(parameters.order, thirds, opposite) + 1, 0)
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


def _hue_key(order: Tensor, thirds: Tensor, opposite: Tensor) -> Tensor:
    """(B,) int64: when in the order of four operations, (B, 4), the hue comes, and its parts but for the rest."""
    return ((order == HUE).int().argmax(dim=1) * 3 + thirds + 1) * 2 + opposite


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
    thirds, opposite, rest = hue_parts(factors[:, HUE])
    hues = runs(_hue_key(order, thirds, opposite))
    kinds = order[order != HUE].view(-1, 3).T  # (3, B), what the blends are
    kept = factors.T.gather(0, kinds)
    added = torch.zeros_like(kept)
    if additive_brightness:
        brightness = kinds == BRIGHTNESS
        kept, added = torch.where(brightness, 1.0, kept), torch.where(brightness, kept, 0.0)
    table = torch.stack([kept, (1 - kept) * (kinds == CONTRAST), (1 - kept) * (kinds == SATURATION), added], dim=1)
    present = [set(slot) for slot in kinds.tolist()]
    table = send(table, planes.device)[..., None, None]  # (slot, coefficient, B, 1, 1)
    rest = send(rest, planes.device)
    for slot in range(4):
        for key, run in hues:
            place, key = divmod(key, 6)
            if place == slot and len(planes) == len(LUMA):
                _turn_(planes[:, run], key // 2 - 1, bool(key % 2), rest[run])
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


def hue_parts(turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shifts of the hue, (B,) in turns, each as thirds of a turn, whether half a turn comes with them, and a rest.

    A third of a turn exchanges the colours, half of one makes V + m - R of R (V and m are the largest and the smallest
    colour of a pixel), and the rest is small: in sixths of a turn at most `_LARGEST_REST`.

    Returns:
        (B,) int64, one of -1, 0 and 1; (B,) bool; (B,) float32.
    """
    sixths = 6.0 * turns.double()
    thirds = (sixths / 2).round()
    rest = sixths - 2 * thirds
    opposite = rest.abs() > _LARGEST_REST
    side = rest.sign() * opposite
    thirds, rest = thirds - side, rest - side
    return (thirds.long() + 1).remainder(3) - 1, opposite, rest.float()


def hue_(planes: Tensor, turns: Tensor) -> None:
    """Turn the hue of each sample, keeping value and saturation of HSV; (3, B, H, W), and (B,) in turns on the CPU."""
    thirds, opposite, rest = hue_parts(turns)
    rest = send(rest, planes.device)
    for key, run in runs(thirds * 2 + opposite):
        _turn_(planes[:, run], key // 2, bool(key % 2), rest[run])


def _turn_(planes: Tensor, thirds: int, opposite: bool, rest: Tensor) -> None:
    """The parts of `hue_parts` one after the other, of samples that differ in the rest alone.

    HSV is never formed. With the middle colour M of a pixel, and V, m and C = V - m, a rest of r turns R into 2 R - M -
    s C r, cut to what lies between m and V, where s is the sign of G - B; and G and B likewise, in cyclic order. Where
    the sign is in doubt the cut has the last word, for every |r| < 1: so s C r may be r / (1 - |r|) (G - B), G - B cut
    to what lies within (1 - |r|) C of 0, and nothing depends on a comparison.
    """
    rest = rest[:, None, None]
    red, green, blue = colours = [planes[(channel - thirds) % 3] for channel in range(3)]
    low, high = torch.minimum(red, green), torch.maximum(red, green)
    middle = torch.minimum(high, blue)
    torch.maximum(low, middle, out=middle)
    torch.minimum(low, blue, out=low)
    torch.maximum(high, blue, out=high)
    bound = torch.sub(high, low).mul_(1 - rest.abs())
    side = torch.empty_like(planes)
    for channel in range(3):
        torch.sub(colours[channel - 2], colours[channel - 1], out=side[channel])
    torch.minimum(side, bound, out=side)
    torch.maximum(side, bound.neg_(), out=side)
    if thirds:
        planes.copy_(torch.stack(colours))
    torch.lerp(planes, middle, -1.0, out=planes).sub_(side.mul_(rest / (1 - rest.abs())))
    if opposite:
        torch.sub(low + high, planes, out=planes)
    torch.clamp(planes, low, high, out=planes)
