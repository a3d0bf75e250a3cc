"""How batches are put together: a choice of the recipe."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from selfsup import randomness
from selfsup.data.sampler import Sampler
from selfsup.randomness import Stream

_PASSES = 20  # bits of a counter that number the passes over all classes within an epoch


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

    def build(self, labels: Tensor, batch_size: int, seed: int) -> Sampler:
        return Sampler(len(labels), batch_size, seed)


SHUFFLED = Shuffled()


@dataclass(frozen=True, kw_only=True)
class ClassBalanced(Sampling):
    """Batches of a few images from each of many classes, in an order that is random in every epoch."""

    per_class: int = 4
    steps_per_epoch: int | None = None  # None: as many batches as the images would fill
    # Classes of one image. skip: left out, for labels that do not change. once: one image, and its neighbours in the
    # batch move up, for clusters that change in every epoch (SpCL).
    singletons: Literal["skip", "once"] = "skip"

    def __post_init__(self) -> None:
        if self.per_class < 2:
            raise ValueError(f"per_class is {self.per_class}; it must be at least 2, or no image has a positive")
        if self.steps_per_epoch is not None and self.steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch is {self.steps_per_epoch}; it must be at least 1, or None")

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

    singletons: Literal["skip", "once"] = "once"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.singletons == "skip":
            raise ValueError('two domains need singletons="once": before the first clusters every image is one')

    def build(self, labels: Tensor, batch_size: int, seed: int) -> Sampler:
        return DomainSampler(self, labels, batch_size, seed)


class ClassSampler(Sampler):
    """`ClassBalanced`: classes in random order, `per_class` random images of each.

    A class with fewer images than that gives some of them twice. Where singletons are skipped, a batch holds
    batch_size / per_class different classes, exactly.

    Raises:
        ValueError: see `ClassBalanced`; fewer classes than a batch needs, or no labels.
    """

    def __init__(self, config: ClassBalanced, labels: Tensor, batch_size: int, seed: int) -> None:
        super().__init__(len(labels), batch_size, seed)
        self.config = config
        self.strict = config.singletons == "skip"
        if self.strict and batch_size % config.per_class:
            raise ValueError(
                f"a batch of {batch_size} cannot hold {config.per_class} images of each class; "
                f"use a batch_size divisible by {config.per_class}"
            )
        self.steps_per_epoch = config.steps_per_epoch or len(labels) // batch_size
        self.length = self.steps_per_epoch * batch_size
        self.labels: Tensor | None = None
        if self.strict or int(labels.min()) >= 0:
            self.use(labels)

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
        parts: list[Tensor] = []
        count = 0
        while count < self.length:
            part = self._one_pass(self.labels, (epoch << _PASSES) + len(parts))
            if self.strict:
                part = part[: len(part) // self.batch_size * self.batch_size]  # a pass has each class only once
            parts.append(part)
            count += len(part)
        return torch.cat(parts)

    def _one_pass(self, labels: Tensor, number: int) -> Tensor:
        """Every class once, in random order: `per_class` positions of each, or one of a class of one."""
        sizes = labels.bincount()  # (C,)
        by_chance = randomness.permutation(self.seed, Stream.CLASSES, len(labels), 2 * number)
        grouped = by_chance[labels[by_chance].argsort(stable=True)]  # positions, class by class, random within each
        first = sizes.cumsum(0) - sizes
        classes = (sizes > (1 if self.strict else 0)).nonzero().flatten()
        classes = classes[randomness.permutation(self.seed, Stream.CLASSES, len(classes), 2 * number + 1)]
        counts = torch.where(sizes[classes] > 1, self.config.per_class, 1)
        chosen = classes.repeat_interleave(counts)  # class of each position
        place = torch.arange(len(chosen)) - (counts.cumsum(0) - counts).repeat_interleave(counts)  # 0, 1, .. in each
        return grouped[first[chosen] + place % sizes[chosen]]


class DomainSampler(Sampler):
    """`TwoDomains`: even rows of a batch are labelled images, odd rows unlabelled ones."""

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
