"""Few labels: which of the training images may be used with theirs."""

import hashlib
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

import torch
from torch import Tensor

from selfsup.config.checks import require
from selfsup.config.settings import execution
from selfsup.data.base import ArraySource, Source
from selfsup.data.encoded import Decoded
from selfsup.data.joined import JoinedSource
from selfsup.data.packed import Packed
from selfsup.randomness import Stream, permutation
from selfsup.storage.untrusted import plain_name, read_bytes


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Which training images may be used with their label: all, a fraction, so many of each class, or those of a list.

    What is drawn is a function of the seed and the labels alone. Choices of one seed are nested: 1 % lies within 10 %,
    4 of each class within 10 of each class.
    """

    stored_as: ClassVar[str] = "labelled"
    fraction: float | None = None  # of the images, in (0, 1]
    per_class: int | None = None  # this many of every class
    file: str = execution("", path=True)  # a text file with one image name a line, as the published 1 % and 10 % lists
    balanced: bool = True  # a fraction is taken of every class on its own, rounded; False: of all images at random
    # proportional: of every class its fraction; equal: of every class as many, give or take one, as in the published
    # lists for ImageNet (SimCLR: 12 or 13, and 128 or 129, of every class, however large).
    shares: Literal["proportional", "equal"] = "proportional"
    seed: int = 0  # of the draw

    def __post_init__(self) -> None:
        given = [name for name in ("fraction", "per_class", "file") if getattr(self, name) not in (None, "")]
        require(len(given) <= 1, f"labelled images are given by {' and by '.join(given)}; give one of them")
        require(
            self.fraction is None or 0 < self.fraction <= 1,
            f"labelled.fraction is {self.fraction}; it must be above 0 and at most 1, such as 0.01",
        )
        require(
            self.per_class is None or self.per_class >= 1,
            f"labelled.per_class is {self.per_class}; it must be at least 1, such as 10",
        )
        require(
            self.shares != "equal" or (self.fraction is not None and self.balanced),
            "labelled.shares is equal, which is a way to divide a balanced fraction among the classes; give "
            "labelled.fraction, or leave shares as it is",
        )
        require(self.seed >= 0, f"labelled.seed is {self.seed}; it must not be negative")

    @property
    def name(self) -> str:
        """For folders: all, 1pct, 0.5pct, 1pct_unbalanced, 1pct_equal, 10_per_class, listed, 1pct_seed1."""
        if self.file:
            return "listed"
        if self.fraction is None and self.per_class is None:
            return "all"
        seed = f"_seed{self.seed}" if self.seed else ""
        if self.fraction is None:
            return f"{self.per_class}_per_class{seed}"
        kind = "_equal" if self.shares == "equal" else "" if self.balanced else "_unbalanced"
        return f"{100 * self.fraction:g}pct{kind}{seed}"

    def described(self, chosen: Source) -> str:
        """What a protocol says of the images that were chosen: the seed plays no part, the content of a list does."""
        if self.file:
            return f"listed {choice_digest(chosen)}"
        return replace(self, seed=0).name

    def choose(self, source: Source) -> Tensor:
        """Positions of the chosen images in `source`: (n,) int64, ascending, each once, all with a label.

        Raises:
            ValueError: `source` has no labels, a class would be left without image or has too few, or the list names
                images that are not there.
        """
        if not len(source) or int(source.labels.max()) < 0:
            raise ValueError(f"the images have no labels: {source.found.no_labels}")
        if self.file:
            chosen = _listed(Path(self.file), source)
            _check_classes(source, chosen, f"the list {self.file}", "add images of theirs to it")
        elif self.per_class is not None:
            chosen = _first_of_each(source, torch.full_like(_class_sizes(source), self.per_class), self.seed)
            self._check_per_class(source, self.per_class)
        elif self.fraction is None:
            chosen = torch.arange(len(source))[source.labels >= 0]
        elif self.shares == "equal":
            chosen = _first_of_each(source, self._equal(source, self.fraction), self.seed)
        elif self.balanced:
            chosen = _first_of_each(source, _rounded(self.fraction * _class_sizes(source).double()), self.seed)
            least = 0.5 / int(_class_sizes(source)[source.labels[source.labels >= 0]].min())
            _check_classes(source, chosen, f"labelled.fraction {self.fraction}", _would_do(least))
        else:
            chosen = self._at_random(source, self.fraction)
        return chosen.sort().values

    def _equal(self, source: Source, fraction: float) -> Tensor:
        """How many of each class, (classes,) int64: classes that come first in the random order have one more."""
        sizes = _class_sizes(source)
        total = int(_rounded(fraction * sizes.sum().double()))
        present = sizes > 0
        share, more = divmod(total, int(present.sum()))
        labels = source.labels[_random_order(source, self.seed)]
        turn = torch.stack([(labels == label).nonzero()[0, 0] for label in present.nonzero()[:, 0]]).argsort().argsort()
        wanted = torch.zeros_like(sizes)
        wanted[present] = share + (turn < more).long()
        if not share:
            raise ValueError(
                f"labelled.fraction {fraction} gives {total} images for {int(present.sum())} classes; "
                f"{_would_do((int(present.sum()) - 0.5) / int(sizes.sum()))}"
            )
        short = [label for label in range(len(sizes)) if int(sizes[label]) < int(wanted[label])]
        if short:
            raise ValueError(
                f"labelled.shares equal wants {int(wanted[short[0]])} images of every class, but of "
                f"{_classes(source, short)} there are only {int(sizes[short].min())}; give a smaller "
                "labelled.fraction, or labelled.shares proportional"
            )
        return wanted

    def _at_random(self, source: Source, fraction: float) -> Tensor:
        order = _random_order(source, self.seed)
        chosen = order[: int(_rounded(torch.tensor(fraction * len(order), dtype=torch.float64)))]
        labels = source.labels[order]
        last = max(int((labels == label).nonzero()[0]) for label in labels.unique())  # where the last class turns up
        _check_classes(source, chosen, f"labelled.fraction {fraction}", _would_do((last + 0.5) / len(order)))
        return chosen

    def _check_per_class(self, source: Source, wanted: int) -> None:
        sizes = _class_sizes(source)
        small = [label for label in range(len(sizes)) if 0 < int(sizes[label]) < wanted]
        if small:
            raise ValueError(
                f"labelled.per_class is {wanted}, but of {_classes(source, small)} there are only "
                f"{int(sizes[small].min())} images; give at most that"
            )


def image_names(source: Source) -> list[str]:
    """What a list calls the images: the path below the data's folder or archive, or `file.npz[17]`.

    Of several roots the number of the root stands before it, as `1/cat/7.jpg`.

    They are the same wherever the data lie.
    """
    if isinstance(source, Decoded | Packed):
        return [path.decode("utf-8", "surrogateescape") for path in source.paths.tolist()]
    if isinstance(source, ArraySource):
        return [f"{Path(source.origin).name}[{row}]" for row in source.rows.tolist()]
    if isinstance(source, JoinedSource):
        own = [iter(image_names(part)) for part in source.chosen()]
        places = [source.place(index)[0] for index in range(len(source))]
        return [source.titles[number] + next(own[number]) for number in places]
    return [source.name(index) for index in range(len(source))]


def content_names(source: Source) -> list[str]:
    """`image_names` in which the name of an array's file plays no part."""
    names = image_names(source)
    return [_place(name) for name in names] if _by_place(source) else names


def choice_digest(chosen: Source) -> str:
    """What tells one choice of images from another, for the record; the name of an array's file plays no part."""
    return names_digest(content_names(chosen))


def _by_place(source: Source) -> bool:
    """Whether images have no names but their places in an array."""
    return isinstance(source, ArraySource) and not isinstance(source, Packed)


def _place(name: str) -> str:
    """`[17]` of `file.npz[17]`."""
    return name[max(0, name.rfind("[")) :]


def names_digest(names: list[str]) -> str:
    """A digest of names, in their order."""
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _listed(file: Path, source: Source) -> Tensor:
    try:
        lines = read_bytes(file).decode("utf-8", "surrogateescape").splitlines()
    except OSError as error:
        raise ValueError(f"cannot read labelled.file {file}: {error.strerror}") from error
    array = _by_place(source)  # whose file may have got another name
    wanted = list(dict.fromkeys(_place(line.strip()) if array else line.strip() for line in lines if line.strip()))
    if not wanted:
        raise ValueError(f"labelled.file {file} is empty; wanted one image name a line")
    places: dict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(image_names(source)):
        for key in {_place(name)} if array else {name, PurePosixPath(name).name}:
            places[key].append(position)
    _refuse([name for name in wanted if name not in places], file, "that are not in the data", "check --data.root")
    several = [name for name in wanted if len(places[name]) > 1]
    _refuse(several, file, "that several images have", "give their paths below the data's folder")
    rows = torch.tensor([places[name][0] for name in wanted])
    unlabelled = [name for name, row in zip(wanted, rows.tolist(), strict=True) if int(source.labels[row]) < 0]
    _refuse(unlabelled, file, "of images without a label", "take them out of the list")
    once: Tensor = rows.unique()
    return once


def _refuse(names: list[str], file: Path, what: str, remedy: str) -> None:
    if names:
        raise ValueError(
            f"labelled.file {file} holds {len(names)} name(s) {what}, the first is {plain_name(names[0])}; {remedy}"
        )


def _class_sizes(source: Source) -> Tensor:
    return source.labels[source.labels >= 0].bincount()


def _random_order(source: Source, seed: int) -> Tensor:
    order = permutation(seed, Stream.SUBSET, len(source))
    return order[source.labels[order] >= 0]


def _first_of_each(source: Source, wanted: Tensor, seed: int) -> Tensor:
    """The first images of every class in the random order of the seed: so many as `wanted`, (classes,), says."""
    order, sizes = _random_order(source, seed), _class_sizes(source)
    order = order[source.labels[order].argsort(stable=True)]  # class by class
    rank = torch.arange(len(order)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)  # within the class
    return order[rank < wanted[source.labels[order]]]


def _rounded(counts: Tensor) -> Tensor:
    # Halves go up, so that 0.5 / n is enough for one of n images, in spite of a product that falls just short of it.
    return (counts + 0.5 + 1e-9).floor().long()


def _would_do(least: float) -> str:
    digits = 10 ** (3 - math.floor(math.log10(least)))  # four significant ones, rounded up
    return f"the smallest that would do is {min(1.0, math.ceil(least * digits - 1e-9) / digits):g}"


def _check_classes(source: Source, chosen: Tensor, what: str, remedy: str) -> None:
    present = set(source.labels[chosen].tolist())
    missing = sorted(set(source.labels[source.labels >= 0].tolist()) - present)
    if missing:
        raise ValueError(f"{what} leaves {_classes(source, missing)} without a labelled image; {remedy}")


def _classes(source: Source, labels: list[int]) -> str:
    names = [source.class_name(label) for label in labels]
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"{'class' if len(names) == 1 else 'classes'} {shown}"
