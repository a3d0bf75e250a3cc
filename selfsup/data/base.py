"""What a data set is to the rest of the project, and the rule for images that cannot be read."""

import copy
from abc import ABC, abstractmethod
from typing import NamedTuple, Self

import torch
from PIL import Image
from torch import Tensor

from selfsup.augment.bands import Held, Picture, bands_of
from selfsup.data.deep import Depth
from selfsup.data.deep_arrays import Ends
from selfsup.data.formats import FORMATS
from selfsup.data.found import Found
from selfsup.storage.untrusted import plain_name

TOLERATED = 0.01  # share of the images that may be unreadable before the run stops


class UnreadableImage(ValueError):
    """One image could not be decoded: `path` names it, `reason` says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # both, so that the exception survives the way between processes
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"cannot read the image {plain_name(self.path)}: {self.reason}"


class NoTestPart(ValueError):
    """The data are not divided into training and test images.

    Args:
        where: what has no test part, and what was looked for.
    """

    def __init__(self, where: str) -> None:
        super().__init__(f"{where}; or name test images by --data.test-root PATH, or keep some by --data.holdout 0.2")


class NoTrainingPart(ValueError):
    """There are test images alone."""


class TooManyUnreadable(ValueError):
    """More than 1 % of the images (and more than one) cannot be read, or none can."""


class Header(NamedTuple):
    """How an image lies in its file."""

    form: str  # as Pillow calls it: JPEG, PNG
    mode: str  # Pillow's, of its pixels: RGB, L, P
    channels: int | None  # None where its values are no pixels, as those of a palette
    depth: str  # how pixels of more than 8 bits are called: 16-bit; "" for all others


class Source(ABC):
    """A numbered set of images with labels, RGB but where `channels` says otherwise.

    The numbering is the same on every machine.
    """

    labels: Tensor  # (N,) int64; -1 where there is none
    classes: tuple[str, ...]  # class names in the order of labels; () where there are no labels
    found: Found = Found()  # how the data were read, and what was left out
    tolerated: float = TOLERATED  # share of the images that may be unreadable; from 1 on nothing stops for any

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        """C of every image."""
        return 3

    @abstractmethod
    def name(self, index: int) -> str:
        """Where image `index` comes from, for messages: a path, or `file.npz[17]`."""

    @abstractmethod
    def load(self, index: int) -> Picture:
        """Image `index`, RGB or in its channels, whole and upright. Raises UnreadableImage."""

    def load_for_canvas(self, index: int, side: int) -> tuple[Picture, tuple[int, int]]:
        """Image `index` in a resolution that suffices for `side` x `side` pixels, and its original (height, width)."""
        image = self.load(index)
        return image, (image.height, image.width)

    def load_for_crop(self, index: int) -> Held:
        """Image `index` as `load` gives it, in the form that is there soonest."""
        return self.load(index)

    def depth(self, index: int) -> Depth | None:
        """Of an image whose file has more than 8 bits a pixel, what range they fill."""
        return None

    def header(self, index: int) -> Header | None:
        """What the file of an image says of itself, whatever it is read with; None where there is none to ask."""
        return None

    def names_cut_short(self) -> list[str]:
        """Of the images that were read in part, because their files are cut short and `data.truncated` allows it."""
        return []

    def is_cut_short(self, index: int) -> bool:
        """Whether image `index`, which has been loaded, is one of them."""
        return False

    def class_name(self, label: int) -> str:
        """What a class is called; its number where it has no name."""
        return self.classes[label] if label < len(self.classes) else str(label)

    def without_labels(self) -> Self:
        """The same images, none of which has a label."""
        part = copy.copy(self)
        part.labels, part.classes = torch.full_like(self.labels, -1), ()
        return part

    def select(self, rows: Tensor) -> Self:
        """The images of `rows`, an (M,) int64 tensor, in that order."""
        part = copy.copy(self)
        part.labels = self.labels[rows]
        return part


class ArraySource(Source):
    """Images of one size, held as one tensor.

    Where `mapped` says so, that tensor is a file whose pages all processes of the machine share: `select` leaves it
    whole, and `at` says where its images stand.

    Args:
        images: (N, C, H, W) uint8; C is 3 for red, green and blue.
        labels: (N,) integers, or None where there are none.
        classes: names in the order of labels; the numbers themselves where none are given.
        origin: where the array comes from, for messages.
    """

    mapped = False

    def __init__(
        self, images: Tensor, labels: Tensor | None = None, classes: tuple[str, ...] = (), origin: str = "array"
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] < 1:
            raise ValueError(f"{origin}: images are {images.dtype} {tuple(images.shape)}; wanted (N, C, H, W) uint8")
        if labels is not None and labels.shape != images.shape[:1]:
            raise ValueError(f"{origin}: {len(images)} images but labels of shape {tuple(labels.shape)}")
        self.images = images
        self.labels = torch.full((len(images),), -1) if labels is None else labels.long()
        highest = int(self.labels.max()) if len(images) else -1
        self.classes = classes or tuple(str(number) for number in range(highest + 1))
        if highest >= len(self.classes):
            raise ValueError(f"{origin}: a label is {highest}, but there are {len(self.classes)} class names")
        self.origin = origin
        self.rows = torch.arange(len(images))  # positions in the origin, kept by `select`
        self.ends: Ends | None = None  # what range they filled that had more than 8 bits, by positions in the origin

    def name(self, index: int) -> str:
        return f"{self.origin}[{int(self.rows[index])}]"

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    def load(self, index: int) -> Picture:
        pixels = self.pixels(index).permute(1, 2, 0).contiguous().numpy()
        return Image.fromarray(pixels) if self.channels == 3 else bands_of(pixels)

    def depth(self, index: int) -> Depth | None:
        return self.ends.depth(int(self.rows[index])) if self.ends else None

    def at(self, rows: Tensor) -> Tensor:
        """Where the images of `rows`, (B,) int64, stand in `images`."""
        return self.rows[rows] if self.mapped else rows

    def pixels(self, index: int) -> Tensor:
        """Image `index`, (C, H, W) uint8."""
        return self.images[int(self.rows[index]) if self.mapped else index]

    def select(self, rows: Tensor) -> Self:
        part = super().select(rows)
        part.rows = self.rows[rows]
        if not self.mapped:
            part.images = self.images[rows]
        return part


def check_unreadable(source: Source, unreadable: dict[int, str]) -> None:
    """Stop when too much of `source` cannot be read.

    Args:
        source: the data set.
        unreadable: number -> reason, of the images met so far that could not be read.

    Raises:
        TooManyUnreadable: they are more than one and more than the source tolerates, or there is no other image.
    """
    if source.tolerated >= 1:
        return
    if len(unreadable) <= max(1, int(source.tolerated * len(source))) and len(unreadable) < len(source):
        return
    first = [f"{plain_name(source.name(index))} ({reason})" for index, reason in sorted(unreadable.items())[:3]]
    if not any(_readable(source, index) for index in range(len(source)) if index not in unreadable):
        raise TooManyUnreadable(
            f"no readable image among {len(source)}: {'; '.join(first)}\n"
            f"point the data option at a folder of images of these formats: {', '.join(FORMATS)}"
        )
    raise TooManyUnreadable(
        f"{len(unreadable)} of {len(source)} images cannot be read, more than {source.tolerated:.0%}: "
        f"{'; '.join(first)}\n"
        "remove or replace the broken files, or check that the copy of the data is complete"
    )


def _readable(source: Source, index: int) -> bool:
    try:
        source.load(index)
    except UnreadableImage:
        return False
    return True
