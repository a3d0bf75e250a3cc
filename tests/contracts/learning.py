"""Whether a method learns, seen in a second or two: a narrow ResNet on small pictures, before and after.

Without labels what shows at once is what contrastive learning is asked for, to know an image again in another view: of
discs and bars. With labels it is to find images of the same class, of stripes that lie or stand in any two colours.
Shapes would not do there: some losses stay on a plateau for a while, from some first weights longer than a test lasts.
"""

import math
from functools import cache, partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsup.augment.parameters import Jitter, View
from selfsup.augment.views import Augment, Views
from selfsup.batch import Batch
from selfsup.data.shapes import CLASSES, shapes
from selfsup.evaluation.features import Features
from selfsup.evaluation.knn import knn_accuracy
from selfsup.methods.base import RunContext
from selfsup.models.resnet import ResNet
from selfsup.randomness import Stream, uniform
from tests.contracts.case import Case, Learner

SIZE = 16  # pixels of a side
SHAPES = ("disc", "bars")
IMAGES = 160  # of each; few, so that a run sees each of them ten times
HELD_OUT = 300  # of each
GROUP = 20  # views among which one is to be found
BATCH = 32
EPOCH = 2 * IMAGES // BATCH  # steps

VIEW = View(
    size=SIZE,
    crop_scale=(0.4, 1.0),
    flip=0.5,
    jitter=Jitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, probability=0.8),
    grayscale=0.2,
    mean=(0.5,) * 3,
    std=(0.25,) * 3,
)


class Outcome(NamedTuple):
    losses: Tensor  # (steps,)
    before: float  # accuracy of kNN on held-out shapes
    after: float


def check_learns(case: Case) -> None:
    """The loss falls from where it stands with full memory, and kNN on held-out shapes rises, both with a margin."""
    learner = case.learner
    assert learner is not None
    outcome = learn(case)
    early, late = ends(outcome.losses, learner)
    assert late < early - learner.fall, f"the loss went from {early:.3f} to {late:.3f}"
    assert outcome.after > outcome.before + learner.rise, f"kNN went from {outcome.before:.3f} to {outcome.after:.3f}"


def ends(losses: Tensor, learner: Learner) -> tuple[float, float]:
    """Means of losses: of the first ten with full memory, and of the last `late` ones."""
    return float(losses[learner.full : learner.full + 10].mean()), float(losses[-learner.late :].mean())


def learn(case: Case, seed: int = 0) -> Outcome:
    learner = case.learner
    assert learner is not None
    torch.manual_seed(seed)
    encoder = ResNet.Config(depth="small", stem="small", width=0.25).build()
    method = (learner.config or case.config).build(encoder, _problem(case))
    before = accuracy(method.encoder, case)
    parameters = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learner.learning_rate)
    losses = []
    for step in range(learner.steps):
        if step % EPOCH == 0:
            method.before_epoch(step // EPOCH, partial(_extract, case.per_class > 0))
        views, batch = _batch(case.per_class > 0, case.domains, step)
        out = method(list(views[: case.views]), batch)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        method.after_step(out.update, step / learner.steps)
        losses.append(out.loss.detach())
    return Outcome(torch.stack(losses), before, accuracy(method.encoder, case))


def accuracy(encoder: nn.Module, case: Case) -> float:
    """Leave-one-out kNN by class; without labels, how often a view's nearest of 20 other views is of its own image."""
    if case.per_class:
        images, labels = pictures(True, True)
        features = Features(_embed(encoder, _normalised(images)), labels, torch.arange(len(labels)))
        return knn_accuracy(features, None, k=10, temperature=0.1)["top1"]
    first, second = (F.normalize(_embed(encoder, view)).unflatten(0, (-1, GROUP)) for view in _held_out_views())
    nearest = (first @ second.transpose(1, 2)).argmax(dim=2)  # (groups, 20)
    return (nearest == torch.arange(GROUP)).float().mean().item()


@cache
def _held_out_views() -> list[Tensor]:
    images, labels = pictures(False, True)
    batch = Batch(images, labels, torch.arange(len(labels)))
    return Views(Augment(views=(VIEW,) * 2), seed=0)(batch, 0, torch.device("cpu"))


def _normalised(images: Tensor) -> Tensor:
    return (images.float() / 255 - 0.5) / 0.25


def _extract(known: bool, module: nn.Module) -> Tensor:
    return _embed(module, _normalised(pictures(known, False)[0]))


@torch.no_grad()
def _embed(module: nn.Module, images: Tensor) -> Tensor:
    training = module.training
    features: Tensor = module.eval()(images)
    module.train(training)
    return features


@cache
def pictures(known: bool, held_out: bool) -> tuple[Tensor, Tensor]:
    """(N, 3, S, S) uint8 and (N,) int64: all of the first class, then all of the second; stripes if they are known."""
    count = HELD_OUT if held_out else IMAGES
    if known:
        return _stripes(count, held_out), torch.arange(2).repeat_interleave(count)
    source = shapes(count * len(CLASSES), SIZE, "test" if held_out else "train")
    images = torch.cat([source.images[source.labels == CLASSES.index(name)] for name in SHAPES])
    return images, torch.arange(len(SHAPES)).repeat_interleave(count)


def _stripes(count: int, held_out: bool) -> Tensor:
    """(2 count, 3, S, S) uint8: lying, then standing ones; width, place and colours say nothing about the class."""
    numbers = uniform(0, Stream.SHAPES, torch.arange(2 * count), 8, epoch=int(held_out), view=2)
    period, place = 4 + 4 * numbers[:, :1], numbers[:, 1:2]
    wave = torch.sin(2 * math.pi * (torch.arange(SIZE) / period + place))  # (2 count, S)
    lying = wave[:count, :, None].expand(-1, -1, SIZE)
    standing = wave[count:, None, :].expand(-1, SIZE, -1)
    share = (torch.cat([lying, standing]) / 2 + 0.5)[:, None]
    first, second = numbers[:, 2:].view(-1, 2, 3, 1, 1).unbind(1)
    return (255 * (share * first + (1 - share) * second)).round().to(torch.uint8)


def _labels(known: bool, domains: int) -> Tensor:
    """(images,) int64; of two domains, the odd images have none."""
    labels = pictures(known, False)[1]
    if not known:
        return torch.full_like(labels, -1)
    return labels if domains == 1 else torch.where(torch.arange(len(labels)) % 2 == 0, labels, -1)


def _problem(case: Case) -> RunContext:
    labels = _labels(case.per_class > 0, case.domains)
    return RunContext(
        num_images=len(labels),
        batch_size=BATCH,
        seed=0,
        num_classes=int(labels.max()) + 1,
        num_views=case.views,
        view_size=(SIZE, SIZE),
        steps_per_epoch=EPOCH,
        per_class=BATCH // len(SHAPES) if case.per_class else 0,
        two_domains=case.domains == 2,
        labels=labels if case.per_class else None,
    )


@cache  # the augmentation takes as long as the training, and all cases can share it
def _batch(known: bool, domains: int, step: int) -> tuple[list[Tensor], Batch]:
    rows = _rows(known, domains, step)
    batch = Batch(pictures(known, False)[0][rows], _labels(known, domains)[rows], rows)
    return Views(Augment(views=(VIEW,) * 2), seed=0)(batch, step // EPOCH, torch.device("cpu")), batch


def _rows(known: bool, domains: int, step: int) -> Tensor:
    """(32,) images; with labels as many of one shape as of the other, of two domains even ones and odd ones in turn."""
    epoch, number = divmod(step, EPOCH)
    generator = torch.Generator().manual_seed(epoch)
    parts = len(SHAPES) * domains if known else 1
    share, size = len(SHAPES) * IMAGES // parts, BATCH // parts
    orders = [torch.randperm(share, generator=generator)[number * size : (number + 1) * size] for _ in range(parts)]
    if not known or domains == 1:
        return torch.cat([order + share * part for part, order in enumerate(orders)])
    # Domain d of shape s has the images s * IMAGES + d, s * IMAGES + d + 2, ...
    of_domain = [torch.cat([orders[d] * 2 + d, orders[2 + d] * 2 + d + IMAGES]) for d in range(domains)]
    return torch.stack(of_domain, dim=1).flatten()
