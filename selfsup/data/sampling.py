"""How batches are put together: a choice of the recipe."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from selfsup import randomness
from selfsup.config.checks import require
from selfsup.data.sampler import Sampler, occurrences
from selfsup.randomness import Stream


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an epoch's images are divided into batches."""

    @property
    def images_per_class(self) -> int:
        """Images of each class in every batch; 0 where classes play no part."""
        return 0

    def build(self, labels: Tensor, batch_size: int, seed: int) -> Sampler:
        """A sampler of the images with these (N,) labels, -1 where there is none.

        Raises:
            ValueError: the data cannot be sampled in this way.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Shuffled(Sampling):
    """Every image once per epoch, in random order."""

    stored_as: ClassVar[str] = "shuffled"

    def build(self, labels: Tensor, batch_size: int, seed: int) -> Sampler:
        return Sampler(len(labels), batch_size, seed)


SHUFFLED = Shuffled()


@dataclass(frozen=True, kw_only=True)
class ClassBalanced(Sampling):
    """Batches of a few images from each of many classes, in an order that is random in every epoch."""

    stored_as: ClassVar[str] = "class_balanced"
    per_class: int = 4
    steps_per_epoch: int | None = None  # None: as many batches as the images that can be drawn would fill
    # Classes of one image. skip: left out, for labels that do not change. once: one image, and its neighbours in the
    # batch move up, for clusters that change in every epoch (SpCL).
    singletons: Literal["skip", "once"] = "skip"

    def __post_init__(self) -> None:
        require(
            self.per_class >= 2, f"per_class is {self.per_class}; it must be at least 2, or no image has a positive"
        )
        require(
            self.steps_per_epoch is None or self.steps_per_epoch >= 1,
            f"steps_per_epoch is {self.steps_per_epoch}; it must be at least 1, or None",
        )

    @property
    def images_per_class(self) -> int:
        return self.per_class

    def build(self, labels: Tensor, batch_size: int, seed: int) -> Sampler:
        return ClassSampler(self, labels, batch_size, seed)


@dataclass(frozen=True, kw_only=True)
class TwoDomains(ClassBalanced):
    """Labelled and unlabelled images in turn, so that any even part of a batch holds as many of each.

    Images with a label in the data are one domain, those without the other; each is sampled by classes, the unlabelled
    one by the clusters that the method finds.
    """

    stored_as: ClassVar[str] = "two_domains"
    singletons: Literal["skip", "once"] = "once"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.singletons != "skip",
            'two domains need singletons="once": before the first clusters every image is one',
        )

    def build(self, labels: Tensor, batch_size: int, seed: int) -> Sampler:
        return DomainSampler(self, labels, batch_size, seed)


class ClassSampler(Sampler):
    """`ClassBalanced`: classes in random order, `per_class` random images of each.

    No image of a class comes again before all the others have come, so a class with fewer images than `per_class` gives
    some of them twice. Where singletons are skipped, a batch holds batch_size / per_class different classes, exactly.

    Raises:
        ValueError: see `ClassBalanced`; fewer classes than a batch needs, or no labels.
    """

    repeating = True

    def __init__(self, config: ClassBalanced, labels: Tensor, batch_size: int, seed: int) -> None:
        super().__init__(len(labels), batch_size, seed)
        self.config = config
        self.strict = config.singletons == "skip"
        if self.strict and batch_size % config.per_class:
            raise ValueError(
                f"a batch of {batch_size} cannot hold {config.per_class} images of each class; "
                f"use a batch_size divisible by {config.per_class}"
            )
        self.labels: Tensor | None = None
        if self.strict or int(labels.min()) >= 0:
            self.use(labels)
        usable = len(labels)
        if self.strict:
            sizes = labels.bincount()
            alone = int((sizes == 1).sum())
            usable -= alone
            if alone:
                self.remark = f"{alone} of {int((sizes > 0).sum())} classes have one image and are left out"
        self.steps_per_epoch = config.steps_per_epoch or max(1, usable // batch_size)
        self.length = self.steps_per_epoch * batch_size

    def use(self, labels: Tensor | None) -> None:
        if labels is None:
            return
        if int(labels.min()) < 0:
            raise ValueError(
                "class-balanced batches need a label for every image; put the images of each class in a folder of "
                "its own, or use sampling=Shuffled()"
            )
        sizes = labels.bincount()
        wanted = self.batch_size // self.config.per_class
        if self.strict and int((sizes > 1).sum()) < wanted:
            raise ValueError(
                f"a batch of {self.batch_size} with {self.config.per_class} images per class needs {wanted} classes of "
                f"at least 2 images, and the data have {int((sizes > 1).sum())}; lower batch_size or raise per_class"
            )
        self.labels, self._order = labels, None

    def draw(self, epoch: int) -> Tensor:
        """(at least steps_per_epoch * batch_size,) positions: the epoch's batches one after the other."""
        assert self.labels is not None, "labels are handed over by `use` before the first batch"
        sizes = self.labels.bincount()
        by_chance = randomness.permutation(self.seed, Stream.CLASSES, len(self.labels), epoch << 32)
        grouped = by_chance[self.labels[by_chance].argsort(stable=True)]  # class by class, random within each
        chosen = self._classes(epoch, sizes)
        # Each draw from a class takes its next image, and after the last the first again.
        return grouped[(sizes.cumsum(0) - sizes)[chosen] + occurrences(chosen) % sizes[chosen]]

    def _classes(self, epoch: int, sizes: Tensor) -> Tensor:
        """The class of each position of the epoch: passes over all classes, each in a random order of its own."""
        classes = (sizes > (1 if self.strict else 0)).nonzero().flatten()  # (C,)
        counts = torch.where(sizes[classes] > 1, self.config.per_class, 1)  # of positions in a pass
        in_pass = int(counts.sum())
        if self.strict:
            in_pass = in_pass // self.batch_size * self.batch_size  # a pass has each class only once
        passes = -(-self.length // in_pass)
        numbers = (epoch << 32) + torch.arange(1, passes + 1)  # number 0 is the images' own
        order = randomness.permutations(self.seed, Stream.CLASSES, len(classes), numbers)  # (passes, C)
        if self.strict:
            order = order[:, : in_pass // self.config.per_class]
        order = order.flatten()
        return classes[order].repeat_interleave(counts[order])


class DomainSampler(Sampler):
    """`TwoDomains`: even rows of a batch are labelled images, odd rows unlabelled ones."""

    repeating = True

    def __init__(self, config: ClassBalanced, labels: Tensor, batch_size: int, seed: int) -> None:
        super().__init__(len(labels), batch_size, seed)
        if batch_size % 2:
            raise ValueError(f"batch_size {batch_size} cannot be shared by two domains; use an even one")
        self.positions = [(labels >= 0).nonzero().flatten(), (labels < 0).nonzero().flatten()]
        for positions, what, remedy in zip(
            self.positions, ("labelled", "unlabelled"), ("data.labelled_root", "data.root"), strict=True
        ):
            if len(positions) < batch_size // 2:
                raise ValueError(
                    f"{len(positions)} {what} images are too few for batches of {batch_size // 2}; give more by "
                    f"--{remedy}, or lower batch_size"
                )
        # Streams of their own: the same class number in both domains must not mean the same draw.
        self.parts = [
            ClassSampler(config, labels[positions], batch_size // 2, seed + number)
            for number, positions in enumerate(self.positions)
        ]
        self.steps_per_epoch = config.steps_per_epoch or len(self.positions[1]) // (batch_size // 2)
        self.length = self.steps_per_epoch * batch_size
        for part in self.parts:
            part.steps_per_epoch, part.length = self.steps_per_epoch, self.length // 2

    def use(self, labels: Tensor | None) -> None:
        if labels is None:
            return
        for part, positions in zip(self.parts, self.positions, strict=True):
            part.use(torch.unique(labels[positions], return_inverse=True)[1])
        self._order = None

    def draw(self, epoch: int) -> Tensor:
        rows = [
            positions[part.draw(epoch)[: self.length // 2]]
            for part, positions in zip(self.parts, self.positions, strict=True)
        ]
        return torch.stack(rows, dim=1).flatten()
