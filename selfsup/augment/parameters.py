"""What a view of a sample is to look like: the configuration of a view, and the numbers drawn for each sample.

A sample's numbers are a pure function of (seed, epoch, index, view, its size) and of how often it has come before in
the epoch, so no batch, process or device has a say in them, and any training image can be drawn again.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from selfsup.augment.crops import LEAST_COVERED, Sampler, between, corners, shapes
from selfsup.augment.size import Size, height_and_width
from selfsup.config.checks import require
from selfsup.randomness import Stream, Wanted, uniform, uniforms

# Resizing is antialiased as PIL's is, but for bicubic_aliased: four pixels of each axis whatever the scale, as
# TensorFlow's tf.image.resize does it.
Interpolation = Literal["bilinear", "bicubic", "bicubic_aliased"]
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # torchvision's numbering of the four colour operations
_ORDERS = tuple(itertools.permutations(range(4)))
_FIRST_ATTEMPTS = 10  # enough for all but one sample in a million; the others draw on
_ERASE_ATTEMPTS = 10  # of which about one in twenty fails; the published code has 100


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """Colour jitter with torchvision's meaning; the four operations come in a random order of their own."""

    stored_as: ClassVar[str] = "jitter"
    brightness: float = 0.0  # the factor is uniform in [max(0, 1 - brightness), 1 + brightness]
    contrast: float = 0.0  # likewise
    saturation: float = 0.0  # likewise
    hue: float = 0.0  # the shift is uniform in [-hue, hue], in turns of the colour wheel
    probability: float = 1.0  # of a sample to be jittered at all
    # Brightness is added, uniform in [-brightness, brightness], instead of multiplied by (SimCLR's first version).
    additive_brightness: bool = False

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            value = getattr(self, name)
            require(value >= 0, f"Jitter.{name} is {value}; it is a strength: give 0 (none) or more.")
        require(0 <= self.hue <= 0.5, f"Jitter.hue is {self.hue}; give 0 (none) to 0.5 (half the colour wheel).")
        _check_probability("Jitter.probability", self.probability)


@dataclass(frozen=True, kw_only=True)
class Blur:
    """Gaussian blur of a random width."""

    stored_as: ClassVar[str] = "blur"
    probability: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)  # uniform between the two, in pixels of the view
    kernel_size: int = 23  # taps, an odd number
    border: Literal["reflect", "zero"] = "reflect"  # reflect: torchvision; zero: SimCLR's code, without renormalising

    def __post_init__(self) -> None:
        _check_probability("Blur.probability", self.probability)
        require(
            0 < self.sigma[0] <= self.sigma[1], f"Blur.sigma is {self.sigma}; give (smallest, largest), both above 0."
        )
        require(
            self.kernel_size > 0 and self.kernel_size % 2 == 1,
            f"Blur.kernel_size is {self.kernel_size}; give an odd number of taps, such as 23.",
        )


@dataclass(frozen=True, kw_only=True)
class Erase:
    """A random box of the finished view is set to 0, which is the mean (random erasing, Zhong et al. 2020)."""

    stored_as: ClassVar[str] = "erase"
    probability: float = 0.0  # of a sample
    area: tuple[float, float] = (0.02, 0.4)  # share of the view's area, uniform between the two
    aspect: tuple[float, float] = (0.3, 3.3)  # height over width of the box, uniform between the two

    def __post_init__(self) -> None:
        _check_probability("Erase.probability", self.probability)
        low, high = self.area
        require(
            0 < low <= high < 1,
            f"Erase.area is {self.area}; give (smallest, largest) share of the view, above 0 and below 1.",
        )
        low, high = self.aspect
        require(0 < low <= high, f"Erase.aspect is {self.aspect}; give (smallest, largest) height over width.")


@dataclass(frozen=True, kw_only=True)
class View:
    """How one view is drawn from an image: crop, flip, jitter, grayscale, blur, solarize, normalise, erase."""

    stored_as: ClassVar[str] = "view"
    size: Size = 224  # of the view in pixels: the side of a square, or height and width
    crop: Literal["resized", "shifted"] = "resized"  # a random box, resized; or the whole image, resized and shifted
    shift: int = 0  # shifted: up to so many pixels of the view up or down, and left or right; black comes in
    crop_scale: tuple[float, float] = (0.2, 1.0)  # resized: share of the image's area, uniform between the two
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width over height, log-uniform between the two
    crop_attempts: int = 10  # to find a box that fits; after that the largest central one of an allowed ratio
    # How a box is drawn: as by torchvision; or as by TensorFlow for SimCLR: height and ratio uniform, no box below a
    # tenth of the image, after all attempts the whole image.
    crop_sampler: Sampler = "torchvision"
    interpolation: Interpolation = "bilinear"  # of the resize; bicubic_aliased: as TensorFlow, without antialiasing
    flip: float = 0.5  # probability of a horizontal flip
    jitter: Jitter = field(default_factory=Jitter)
    grayscale: float = 0.0  # probability
    grayscale_first: bool = False  # grayscale before the jitter, as InstDisc and MoCo v1 have it
    blur: Blur = field(default_factory=Blur)
    solarize: float = 0.0  # probability; values of one half and above are inverted
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)  # of each channel, subtracted last, of values in [0, 1]
    std: tuple[float, ...] = (1.0, 1.0, 1.0)  # of each channel, divided by last
    erase: Erase = field(default_factory=Erase)

    def __post_init__(self) -> None:
        least = min(self.shape)
        require(least >= 1, f"View.size is {self.size}; give its side, or height and width, in pixels, at least 1.")
        require(
            0 <= self.shift < least and (self.shift == 0 or self.crop == "shifted"),
            f"View.shift is {self.shift} for a view of {self.size} pixels and crop={self.crop!r}; give 0 or more, less "
            "than the view's shorter side, and crop='shifted' with it.",
        )
        low, high_share = self.crop_scale
        require(
            0 < low <= high_share <= 1,
            f"View.crop_scale is {self.crop_scale}; give (smallest, largest) share of the area, above 0 and up to 1.",
        )
        low, high = self.crop_ratio
        require(0 < low <= high, f"View.crop_ratio is {self.crop_ratio}; give (smallest, largest) width over height.")
        require(
            1 <= self.crop_attempts <= 1000,
            f"View.crop_attempts is {self.crop_attempts}; give 1 to 1000, 10 as in torchvision.",
        )
        require(
            self.crop_sampler == "torchvision" or high_share >= LEAST_COVERED,
            f"View.crop_scale is {self.crop_scale} with crop_sampler='tensorflow', which rejects crops below "
            f"{LEAST_COVERED} of the area; give a larger share, or crop_sampler='torchvision'.",
        )
        for name in ("flip", "grayscale", "solarize"):
            _check_probability(f"View.{name}", getattr(self, name))
        require(
            len(self.mean) == len(self.std) > 0,
            f"View.mean has {len(self.mean)} values and View.std {len(self.std)}; give both one for each channel.",
        )
        require(min(self.std) > 0, f"View.std is {self.std}; give values above 0, one for each channel.")
        require(
            self.blur.probability == 0 or self.blur.border == "zero" or self.blur.kernel_size // 2 < least,
            f"Blur.kernel_size is {self.blur.kernel_size} for a view of {self.size} pixels; a reflected border "
            f"holds at most {2 * least - 1} taps. Give fewer, or border='zero'.",
        )

    def without_colour(self) -> "View":
        """The same without what has a meaning for red, green and blue alone: saturation, hue and grayscale."""
        return replace(self, jitter=replace(self.jitter, saturation=0.0, hue=0.0), grayscale=0.0)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return height_and_width(self.size)


class Parameters(NamedTuple):
    """The numbers drawn for the samples of a batch in one view, on the device of the indices."""

    boxes: Tensor  # (B, 4) int64: top, left, height, width of the crop, in pixels of the original image
    flip: Tensor  # (B,) bool
    factors: Tensor  # (B, 4) float32: brightness (or what is added), contrast, saturation, and hue in turns
    order: Tensor  # (B, 4) int64: the operations 0 brightness, 1 contrast, 2 saturation, 3 hue as they follow
    jitter: Tensor  # (B,) bool, whether the jitter is applied
    grayscale: Tensor  # (B,) bool
    blur: Tensor  # (B,) bool
    solarize: Tensor  # (B,) bool
    sigma: Tensor  # (B,) float32, width of the blur in pixels of the view
    shift: Tensor  # (B, 2) int64: by how many pixels of the view the picture moves down and to the right
    erase: Tensor  # (B, 4) int64: top, left, height, width of the box to erase, in pixels of the view; 0 high for none

    def select(self, samples: Tensor | slice) -> "Parameters":
        """Those of the given samples, (n,) int64 positions in the batch or a range of them."""
        return Parameters(*(values[samples] for values in self))


def draw(view: View, seed: int, epoch: int | Tensor, indices: Tensor, number: int, sizes: Tensor) -> Parameters:
    """The parameters of one view of some samples, a pure function of its arguments, each sample on its own.

    Args:
        view: what to draw from.
        seed: of the run.
        epoch: counted from 0; or (B,) int64, for each sample its own: see `randomness.counter`.
        indices: (B,) int64, positions in the data set.
        number: which view of the sample, in [0, 1024).
        sizes: (B, 2) int64, height and width of the original images in pixels.

    Crops follow one of two samplers, see `crops.shapes`: the first box that fits is taken.
    Arithmetic is in double precision, so that every device rounds to the same pixel and the same float32.
    """
    return draw_views([view], seed, epoch, indices, sizes, first=number)[0]


def draw_views(
    views: Sequence[View], seed: int, epoch: int | Tensor, indices: Tensor, sizes: Tensor, first: int = 0
) -> list[Parameters]:
    """`draw` of several views at once, whose numbers begin with `first`."""
    wanted = [_wanted(view, number) for number, view in enumerate(views, first)]
    numbers = iter(uniforms(seed, list(itertools.chain(*wanted)), indices, epoch))
    return [
        _drawn(view, [next(numbers) for _ in wanted[0]], _Counters(seed, epoch, indices, number), sizes)
        for number, view in enumerate(views, first)
    ]


class _Counters(NamedTuple):
    """For the few samples of a view that need more numbers."""

    seed: int
    epoch: int | Tensor
    indices: Tensor
    number: int


def _wanted(view: View, number: int) -> list[Wanted]:
    """The numbers of each sample of a view, in the order in which `_drawn` takes them."""
    crop = 3 if view.crop == "shifted" else 3 + 2 * min(view.crop_attempts, _FIRST_ATTEMPTS)
    erase = 3 + 2 * _ERASE_ATTEMPTS if view.erase.probability > 0 else 0
    counts = {Stream.CROP: crop, Stream.COLOR: 7, Stream.BLUR: 3, Stream.ERASE: erase}
    return [Wanted(stream, count, number) for stream, count in counts.items()]


def _drawn(view: View, numbers: list[Tensor], counters: _Counters, sizes: Tensor) -> Parameters:
    crop, color, blur, erase = numbers
    boxes, flip, shift = _boxes(view, crop, counters, sizes)
    jitter = view.jitter
    strengths = (jitter.brightness, jitter.contrast, jitter.saturation)
    ranges = [(max(0.0, 1.0 - strength), 1.0 + strength) for strength in strengths] + [(-jitter.hue, jitter.hue)]
    if jitter.additive_brightness:
        ranges[BRIGHTNESS] = (-jitter.brightness, jitter.brightness)
    factors = torch.stack([between(color[:, i], *ends) for i, ends in enumerate(ranges)], dim=1)
    orders = torch.tensor(_ORDERS, device=color.device)
    return Parameters(
        boxes=boxes,
        flip=flip,
        factors=factors.float(),
        order=orders[(color[:, 4] * len(_ORDERS)).long()],
        jitter=color[:, 5] < jitter.probability,
        grayscale=color[:, 6] < view.grayscale,
        blur=blur[:, 0] < view.blur.probability,
        solarize=blur[:, 2] < view.solarize,
        sigma=between(blur[:, 1], *view.blur.sigma).float(),
        shift=shift,
        erase=_erased(view, erase),
    )


def _boxes(view: View, numbers: Tensor, counters: _Counters, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (B, 4) int64, flips (B,) bool, shifts (B, 2) int64.

    The words of an index are [top, left, flip, then area, ratio, ...], or [down, right, flip] of a shifted image.
    """
    if view.crop == "shifted":
        shift = (numbers[:, :2] * (2 * view.shift + 1)).long() - view.shift
        return torch.cat([torch.zeros_like(sizes), sizes], dim=1), numbers[:, 2] < view.flip, shift
    shape, found = _attempt(view, numbers[:, 3:], sizes)
    if view.crop_attempts > _FIRST_ATTEMPTS and not bool(found.all()):
        # The few without a box draw on; the words they have used so far are a prefix of the longer row.
        rest = torch.nonzero(~found)[:, 0]
        seed, epoch, indices, number = counters
        again = epoch if isinstance(epoch, int) else epoch[rest]
        more = uniform(seed, Stream.CROP, indices[rest], 3 + 2 * view.crop_attempts, again, number)
        shape[rest], found[rest] = _attempt(view, more[:, 3:], sizes[rest])
    offset = corners(view.crop_sampler, numbers[:, :2], sizes, shape, found)
    return torch.cat([offset, shape], dim=1), numbers[:, 2] < view.flip, torch.zeros_like(offset)


def _attempt(view: View, numbers: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    return shapes(view.crop_sampler, numbers, sizes, view.crop_scale, view.crop_ratio)


def _erased(view: View, numbers: Tensor) -> Tensor:
    """Boxes to erase, (B, 4) int64: the first drawn that is smaller than the view both ways, if any is.

    The words of an index are [whether to erase, top, left, then area, aspect, ...].
    """
    if view.erase.probability == 0:
        return torch.zeros(len(numbers), 4, dtype=torch.int64, device=numbers.device)
    height, width = view.shape
    area = height * width * between(numbers[:, 3::2], *view.erase.area)  # (B, attempts)
    aspect = between(numbers[:, 4::2], *view.erase.aspect)
    heights, widths = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    found, first = ((heights < height) & (widths < width)).max(dim=1)  # the position of the first one that is true
    shape = torch.cat([heights.gather(1, first[:, None]), widths.gather(1, first[:, None])], dim=1)
    room = torch.tensor([height, width], device=numbers.device) - shape
    boxes = torch.cat([(numbers[:, 1:3] * (room + 1)).floor(), shape], dim=1)
    return torch.where((found & (numbers[:, 0] < view.erase.probability))[:, None], boxes, 0).long()


def _check_probability(name: str, value: float) -> None:
    require(0 <= value <= 1, f"{name} is {value}; a probability lies between 0 and 1.")
