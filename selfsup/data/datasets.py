"""Images of a torch data set of one's own."""

import hashlib
from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from selfsup.augment.bands import Picture, bands_of
from selfsup.data.base import Source, UnreadableImage
from selfsup.data.channels import Channels, channel_count
from selfsup.data.decode import as_picture

_LOOKED_AT = 256  # images that tell one data set from another, spread evenly


class Dataset(Protocol):
    """What torch calls a map-style data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class DatasetSource(Source):
    """A map-style data set as a source: its item, or the first part of it, is an image.

    Views are made here, so the data set must give whole images without augmentation: PIL images, uint8 arrays (H, W, 3)
    or (H, W), uint8 tensors (3, H, W) or (1, H, W), or floats of these forms between 0 and 1. Two data sets are told
    apart by their number, labels and the pixels of 256 images, since reading all of them might take long.

    With `channels` C, arrays are (H, W, C), tensors (C, H, W), and both or PIL images of another number are unreadable.

    Args:
        dataset: with `len` and `[index]`; each item an image, or a tuple that begins with one.
        labels: (N,) whole numbers from 0, -1 where an image has none. None: the data set's `targets` or `labels`, as
            torchvision names them, or none at all.
        classes: names in the order of labels. None: the data set's `classes`, or the numbers.
        name: of the data set, for messages.
        channels: "rgb", gray is repeated; or the number of channels that images have and keep.

    Raises:
        ValueError: there are no images, or the labels do not fit.
    """

    def __init__(
        self,
        dataset: Dataset,
        labels: Sequence[int] | Tensor | np.ndarray | None = None,
        classes: Sequence[str] | None = None,
        name: str = "",
        channels: Channels = "rgb",
    ) -> None:
        self.kept = channels
        self.dataset = dataset
        self.title = name or type(dataset).__name__
        if len(dataset) < 1:
            raise ValueError(f"{self.title} holds no images")
        given = _labels_of(dataset) if labels is None else labels
        self.labels = _checked(given, len(dataset), self.title)
        self.rows = torch.arange(len(dataset))  # of the data set; kept by `select`
        highest = int(self.labels.max())
        named = tuple(str(n) for n in (getattr(_root(dataset), "classes", ()) if classes is None else classes))
        self.classes = named if len(named) > highest else tuple(map(str, range(highest + 1)))
        if classes is not None and len(named) <= highest:
            raise ValueError(f"{self.title}: a label is {highest}, but there are {len(named)} class names")

    @property
    def channels(self) -> int:
        return channel_count(self.kept)

    def name(self, index: int) -> str:
        return f"{self.title}[{int(self.rows[index])}]"

    def load(self, index: int) -> Picture:
        try:
            item = self.dataset[int(self.rows[index])]
            return _picture(item[0] if isinstance(item, tuple | list) else item, self.kept)
        except (OSError, ValueError, SyntaxError) as error:
            raise UnreadableImage(self.name(index), str(error)) from error

    def select(self, rows: Tensor) -> Self:
        part = super().select(rows)
        part.rows = self.rows[rows]
        return part

    def digests(self) -> dict[int, bytes]:
        """SHA-256 of the size and pixels of some images, by their position."""
        found = {}
        for place in sorted({n * (len(self) - 1) // (_LOOKED_AT - 1) for n in range(_LOOKED_AT)}):
            try:
                image = self.load(place)
                content = f"{image.size}".encode() + image.tobytes()
            except UnreadableImage:
                content = b"unreadable"
            found[place] = hashlib.sha256(content).digest()
        return found


def as_source(images: "Source | Dataset", channels: Channels = "rgb") -> Source:
    """A source as it is, any other data set as `DatasetSource` with these channels."""
    return images if isinstance(images, Source) else DatasetSource(images, channels=channels)


def _root(dataset: Any) -> Any:
    """The data set itself, of which `torch.utils.data.Subset` may be a part."""
    while isinstance(dataset, torch.utils.data.Subset):
        dataset = dataset.dataset
    return dataset


def _labels_of(dataset: Any) -> Any:
    if isinstance(dataset, torch.utils.data.Subset):
        within = _labels_of(dataset.dataset)
        return None if within is None else torch.as_tensor(np.asarray(within))[list(dataset.indices)]
    for name in ("targets", "labels"):
        found = getattr(dataset, name, None)
        if isinstance(found, Sequence | Tensor | np.ndarray) and not isinstance(found, str):
            return found
    return None


def _checked(labels: Any, count: int, title: str) -> Tensor:
    if labels is None:
        return torch.full((count,), -1)
    found = torch.as_tensor(np.asarray(labels))
    if found.shape != (count,) or found.is_floating_point() or found.is_complex():
        raise ValueError(
            f"{title}: {count} images, and labels of {found.dtype} {tuple(found.shape)}; wanted a whole number for each"
        )
    if int(found.min()) < -1:
        raise ValueError(f"{title}: a label is {int(found.min())}; wanted numbers from 0, or -1 for none")
    return found.long()


def _picture(image: Any, channels: Channels) -> Picture:
    """The image in RGB, or with its channels. Raises ValueError for what is none."""
    if isinstance(image, Image.Image):
        return as_picture(image, channels=channels)
    if isinstance(image, Tensor):
        image = image.detach().cpu().numpy()
        image = np.moveaxis(image, 0, -1) if image.ndim == 3 else image
    if not isinstance(image, np.ndarray):
        raise ValueError(f"the data set gives {type(image).__name__}; wanted a PIL image, an array or a tensor")
    if np.issubdtype(image.dtype, np.floating):
        if not (image.min() >= 0 and image.max() <= 1):  # NaN too
            raise ValueError(
                f"the data set gives floats from {image.min():.3g} to {image.max():.3g}; wanted 0 to 1, so leave its "
                "normalisation to the views"
            )
        image = np.rint(image * 255).astype(np.uint8)
    if channels != "rgb":
        return _in_channels(image, channels)
    image = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[-1] != 3):
        raise ValueError(f"the data set gives {image.dtype} {image.shape}; wanted uint8 with 1 or 3 channels")
    return Image.fromarray(np.ascontiguousarray(image)).convert("RGB")


def _in_channels(image: np.ndarray, channels: int) -> Picture:
    """(H, W, C) or, of one channel, (H, W) uint8 with its channels."""
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != channels:
        raise ValueError(
            f"the data set gives {image.dtype} {image.shape}; wanted uint8 (H, W, {channels}), as data.channels says"
        )
    return bands_of(image)
