"""All that is found out about data: part by part, and of all parts together."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from selfsup.data.base import Source, TooManyUnreadable, check_unreadable
from selfsup.data.layout import Split
from selfsup.data.same_bytes import Contents, contents_numbered, contents_of
from selfsup.survey.measures import all_measures
from selfsup.survey.twins import Twins, alike_twins, equal_twins

Parts = dict[Split, Source]


@dataclass
class Part:
    """What was found in the training images or in the test images: N of C channels."""

    source: Source
    sizes: np.ndarray  # (N, 2) int32: height and width; zeros where an image cannot be read
    levels: np.ndarray  # (C, 256) int64: pixels of each value
    moments: np.ndarray  # (C, 2) float64: sums over images of their means and mean squares, of values in [0, 1]
    forms: Counter[str] = field(default_factory=Counter)  # of files
    unreadable: dict[int, str] = field(default_factory=dict)  # number -> reason
    misnamed: list[int] = field(default_factory=list)
    cut_short: list[str] = field(default_factory=list)  # by name, read in part

    @property
    def readable(self) -> int:
        """How many images can be read."""
        return len(self.source) - len(self.unreadable)

    @property
    def of_pixels(self) -> list[tuple[float, float]]:
        """Mean and standard deviation of each channel, in [0, 1]: every pixel counts alike. Nothing without pixels."""
        found = []
        values = np.arange(256) / 255
        for counts in self.levels if self.readable else ():
            shares = counts / counts.sum()
            mean = float(shares @ values)
            found.append((mean, float(shares @ (values - mean) ** 2) ** 0.5))
        return found

    @property
    def of_images(self) -> list[tuple[float, float]]:
        """The same where every image counts alike, whatever its size."""
        if not self.readable:
            return []
        means, squares = (self.moments / self.readable).T.tolist()
        return [(mean, max(0.0, square - mean**2) ** 0.5) for mean, square in zip(means, squares, strict=True)]

    @property
    def classes(self) -> list[tuple[str, int]]:
        """Names and numbers of images of the classes that have any, or had in training; the largest first."""
        counts = torch.bincount(self.source.labels[self.source.labels >= 0], minlength=len(self.source.classes))
        named = [(self.source.class_name(label), count) for label, count in enumerate(counts.tolist())]
        return sorted(named, key=lambda pair: -pair[1])

    @property
    def refusal(self) -> str:
        """What training would say instead of passing over what cannot be read; "" where it would go on."""
        try:
            check_unreadable(self.source, self.unreadable)
        except TooManyUnreadable as error:
            return str(error).partition(": ")[0]
        return ""


@dataclass
class Account:
    """What was found in data."""

    place: str  # as it was named
    parts: dict[Split, Part]
    bytes: int | None  # of all image files; None where there are none
    equal: Twins
    alike: Twins
    seconds: float = 0.0

    def name(self, image: int) -> str:
        """Where an image lies, by its number among all parts."""
        source, row = self.located(image)
        return source.name(row)

    def located(self, image: int) -> tuple[Source, int]:
        """The part of an image, and its number there."""
        for part in self.parts.values():
            if image < len(part.source):
                return part.source, image
            image -= len(part.source)
        raise IndexError(image)

    @property
    def unreadable(self) -> dict[str, str]:
        """Name -> reason, of all parts."""
        return {
            part.source.name(row): reason for part in self.parts.values() for row, reason in part.unreadable.items()
        }


def account_of(
    place: str, parts: Parts, workers: int, verify_full: bool, advance: Callable[[int], None] = lambda images: None
) -> Account:
    """Decode every image once, in full, and find equal and alike ones.

    About 400 bytes are kept of each image, whatever its size.

    Args:
        place: what the data are called.
        parts: the training images first.
        workers: processes that decode; 0: this one.
        verify_full: read what the list of files knows, too.
        advance: told how many images more are done.
    """
    sources = list(parts.values())
    contents = contents_of(sources, verify_full)
    found: dict[Split, Part] = {}
    sketches, begin = [], 0
    for split, source in parts.items():
        known = slice(begin, begin + len(source))
        by_pixels = not contents.known[known].any()
        found[split], sketched, digests = _part(source, by_pixels, workers, advance)
        sketches.append(sketched)
        if by_pixels:
            contents.digests[known] = digests
        begin += len(source)
    readable = np.concatenate([part.sizes[:, 0] > 0 for part in found.values()])
    contents.digests[~readable] = 0  # of what cannot be read no twin is looked for
    numbers = contents_numbered(sources, contents)
    training = len(parts["train"]) if "train" in parts else 0
    labels = _labels(sources)
    alike = alike_twins(np.concatenate(sketches), numbers, labels, readable, training)
    return Account(place, found, _bytes(contents), equal_twins(numbers, labels, training), alike)


def _labels(sources: list[Source]) -> np.ndarray:
    """(N,) int64: classes of one name have one number, in whatever part; -1 where there is no label."""
    numbers: dict[str, int] = {}
    found = []
    for source in sources:
        labels = source.labels.numpy()
        table = [numbers.setdefault(source.class_name(label), len(numbers)) for label in range(labels.max() + 1)]
        found.append(np.array([*table, -1])[labels])  # -1 is the last one
    return np.concatenate(found)


def _bytes(contents: Contents) -> int | None:
    files = contents.bytes >= 0
    return int(contents.bytes[files].sum()) if files.any() else None


def _part(
    source: Source, by_pixels: bool, workers: int, advance: Callable[[int], None]
) -> tuple[Part, np.ndarray, np.ndarray]:
    """What is measured of a part; its sketches; and digests of its pixels."""
    part = Part(
        source,
        np.zeros((len(source), 2), np.int32),
        np.zeros((source.channels, 256), np.int64),
        np.zeros((source.channels, 2)),
    )
    sketches, digests = [], []
    done = 0
    for measured in all_measures(source, by_pixels, workers):
        count = len(measured.sizes)
        part.sizes[done : done + count] = measured.sizes
        part.levels += measured.levels
        part.moments += measured.moments
        part.forms += measured.forms
        part.unreadable |= measured.unreadable
        part.misnamed += measured.misnamed
        sketches.append(measured.sketches)
        digests.append(measured.digests)
        done += count
        advance(count)
    part.cut_short = source.names_cut_short()
    return part, np.concatenate(sketches), np.concatenate(digests)
