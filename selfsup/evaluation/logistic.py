"""Multinomial logistic regression by L-BFGS on features that were computed once."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup import distributed
from selfsup.config.checks import require
from selfsup.data.labelled import Labelled
from selfsup.devices.double import to_double
from selfsup.evaluation.accuracy import Hits, top_hits
from selfsup.evaluation.features import Features
from selfsup.evaluation.reading import Layer, Reading
from selfsup.output import message
from selfsup.randomness import Stream, permutation

ONLINE_ITERATIONS = 20  # of the probe during pretraining
_LEFT_OUT = -100  # the target of a row that is not fitted
_TILE = 2**24  # numbers of a tile of features or logits
_JUDGED = 5_000  # training images that suffice to choose by
_EXCESS = 1e-3  # of an objective over its minimum, in its own unit
_LOOK_EVERY = 10  # iterations of L-BFGS between looks at the gradient
_PATIENCE = 4  # smaller weights that are tried after the best one


@dataclass(frozen=True, kw_only=True)
class FeatureProbe(Reading):
    """Settings of the logistic regression on features without augmentation (Chen et al. 2020, B.8, in its idea).

    B.8 tries 45 weights from 1e-6 to 1e5 on features as they are; on standardised features, and beside the mean of the
    cross-entropy, the best one lies in a narrower range.
    """

    layer: Layer = "backbone"
    labelled: Labelled = Labelled()
    # Weights of l2/2 |W|^2 that are tried on tenths of the training images: two a decade.
    l2: tuple[float, ...] = (
        *(1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3),
        *(1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0),
    )
    iterations: int = 1000  # of each fit, at most

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            min(self.l2, default=-1.0) >= 0,
            f"l2 is {min(self.l2, default='empty')}; give one or more values of at least 0",
        )
        require(self.iterations >= 1, f"iterations is {self.iterations}; it must be at least 1")


class Logistic(NamedTuple):
    """Features to logits, ((x - mean) factor) W^T + b, without a standardised copy of the features."""

    weight: Tensor  # W, (C, D)
    bias: Tensor  # b, (C,)
    mean: Tensor  # (D,)
    factor: Tensor  # (D,): one over the standard deviation; 0 where a feature is constant

    def __call__(self, x: Tensor) -> Tensor:  # (N, D) -> (N, C)
        weight = self.weight * self.factor
        return F.linear(x, weight, self.bias - weight @ self.mean)


class Probed(NamedTuple):
    """How a probe fared."""

    figures: dict[str, float]  # top1 and top5 on the images asked
    l2: float  # the weight that was chosen
    at_edge: bool  # whether a smaller or a larger weight than all that were tried might be better
    converged: bool  # whether the last fit came to its minimum in the iterations it had
    right: Tensor  # (M,) bool, on the CPU: of which of the images asked the class was found


def probe_features(
    known: Features,
    asked: Features,
    l2: tuple[float, ...],
    iterations: int = 1000,
    device: torch.device | None = None,
) -> Probed:
    """Accuracy of logistic regression on standardised features.

    Of several l2 weights one is chosen on tenths of the training images, never on the test images; the regression is
    then fitted anew on all training images, from zeros, so that this weight alone gives the same figures.

    Beside the features, on `device`, this takes a few hundred megabytes and some twenty times the classifier's size.

    Args:
        known: (N, D) training features.
        asked: (M, D) test features.
        l2: weights tried, of l2/2 |W|^2 beside the mean cross-entropy.
        iterations: of L-BFGS, at most.
        device: where it is fitted; by default the CPU.

    Raises:
        ValueError: images without labels, or features that are not finite.
    """
    if min(known.labels.min(), asked.labels.min()) < 0:
        raise ValueError("a linear probe needs labels: put the images of each class in a folder of its own")
    known.require_finite()
    asked.require_finite()
    x, y = known.features.to(device or "cpu"), known.labels.to(device or "cpu")
    start = zeros(x, int(max(known.labels.max(), asked.labels.max())) + 1)
    chosen = choose_l2(x, y, start, l2, iterations) if len(l2) > 1 else l2[0]
    classifier, converged = fit_logistic(x, y, start, chosen, iterations)
    hits = judge(classifier, asked.features.to(x.device), asked.labels.to(x.device))
    at_edge = len(l2) > 1 and chosen in (min(l2), max(l2))
    return Probed(hits.figures, chosen, at_edge, converged, hits.first.cpu())


def zeros(x: Tensor, num_classes: int) -> Logistic:
    """The classifier that fits start from, with the mean and the spread of x (N, D)."""
    variance, mean = torch.var_mean(x, dim=0, correction=0)
    std = variance.sqrt()
    # Single precision does not tell a spread below this from the rounding of a constant.
    factor = torch.where(std > 1e-5 * mean.abs(), 1 / std, 0.0)
    return Logistic(x.new_zeros(num_classes, x.shape[1]), x.new_zeros(num_classes), mean, factor)


def choose_l2(x: Tensor, y: Tensor, start: Logistic, l2: tuple[float, ...], iterations: int) -> float:
    """The weight with which the most of the held-out training images are classified rightly; the largest of equals.

    A random tenth is held out, and the rest fitted; as long as fewer than 5,000 have been judged, another tenth. The
    weights are tried from the largest one on, each fit starting from the one before, until four in turn were no better:
    the smaller the weight, the longer the fit.
    """
    parts = [held.to(x.device) for held in folds(len(x))]
    classifiers = [start] * len(parts)
    hits: dict[float, int] = {}
    for weight in sorted(set(l2), reverse=True):
        hits[weight] = 0
        for number, held in enumerate(parts):
            targets = y.index_fill(0, held, _LEFT_OUT)
            classifiers[number], _ = fit_logistic(x, targets, classifiers[number], weight, iterations)
            hits[weight] += int(judge(classifiers[number], x, y, held).first.sum())
        best = max(hits, key=lambda tried: (hits[tried], tried))
        if sum(tried < best for tried in hits) == _PATIENCE:
            break
    return best


def folds(count: int) -> list[Tensor]:
    """The tenths of `count` training images that weights are chosen on, as int64 positions, the first of ten or all."""
    tenths = permutation(0, Stream.SUBSET, count).tensor_split(min(10, count))
    return list(tenths[: math.ceil(_JUDGED / len(tenths[0]))])


def hold_out(features: Features) -> tuple[Features, Features]:
    """Nine tenths to learn from and a random tenth to be judged on, where there are no test images."""
    held, *rest = permutation(0, Stream.SUBSET, len(features.labels)).tensor_split(10)
    kept = torch.cat(rest)
    return Features(*(part[kept] for part in features)), Features(*(part[held] for part in features))


def fit_logistic(x: Tensor, targets: Tensor, start: Logistic, l2: float, iterations: int) -> tuple[Logistic, bool]:
    """Minimise f = mean cross-entropy + l2/2 |W|^2 by L-BFGS.

    It stops where |gradient|^2 <= 2 l2 f / 1000: f is strongly convex in W, so there it is at most a thousandth of
    itself above its minimum, however small l2 is; or where rounding lets it fall no further.

    Args:
        x: (N, D), not standardised.
        targets: (N,) classes; rows with -100 are left out.
        start: the weights to start from, and how x is standardised.
        l2: in the norm of the weights of standardised features.
        iterations: at most.

    Returns:
        the classifier, and whether it stopped for one of these two reasons.
    """
    weight, bias = (part.clone().requires_grad_() for part in (start.weight, start.bias))
    classifier = start._replace(weight=weight, bias=bias)
    count = int((targets != _LEFT_OUT).sum())

    def closure() -> Tensor:
        weight.grad = bias.grad = None
        loss = 0.5 * l2 * weight.square().sum()
        loss.backward()
        for rows in _tiles(x, len(bias)):
            part = F.cross_entropy(classifier(x[rows]), targets[rows], ignore_index=_LEFT_OUT, reduction="sum") / count
            part.backward()
            loss = loss.detach() + part.detach()
        return loss

    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_LOOK_EVERY,
        max_eval=2 * _LOOK_EVERY,
        history_size=10,
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )
    before, converged = torch.inf, False
    for done in range(0, iterations, _LOOK_EVERY):
        optimizer.param_groups[0]["max_iter"] = min(_LOOK_EVERY, iterations - done)
        optimizer.step(closure)
        value = float(closure())
        slope = sum(float(to_double(part.grad).square().sum()) for part in (weight, bias) if part.grad is not None)
        converged = slope <= 2 * l2 * value * _EXCESS or not value < before
        if converged:
            break
        before = value
    return start._replace(weight=weight.detach(), bias=bias.detach()), converged


def _tiles(x: Tensor, num_classes: int) -> Iterator[slice]:
    """Rows that are computed together, so that logits and their gradients stay small."""
    step = max(1, _TILE // max(x.shape[1], num_classes))
    return (slice(begin, begin + step) for begin in range(0, len(x), step))


def judge(classifier: Logistic, x: Tensor, y: Tensor, rows: Tensor | None = None) -> Hits:
    """`top_hits` of all rows of x (N, D) and y (N,), or of those at the positions `rows`."""
    rows = torch.arange(len(x), device=x.device) if rows is None else rows
    tiles = rows.split(max(1, _TILE // max(x.shape[1], len(classifier.bias))))
    found = [top_hits(classifier(x[tile]), y[tile]) for tile in tiles]
    return Hits(*map(torch.cat, zip(*found, strict=True)))


def warn(probed: Probed, l2: tuple[float, ...], iterations: int) -> None:
    """Say that the best weight may not have been tried, or was not fitted to the end, once for all processes."""
    if not probed.converged and distributed.rank() == 0:
        message(f"the fit at l2 {probed.l2:g} did not come to its minimum in {iterations} iterations; try --iterations")
    if probed.at_edge and distributed.rank() == 0:
        message(
            f"the best l2, {probed.l2:g}, is the last one at its end of {min(l2):g} to {max(l2):g}; try --l2 beyond"
        )


def online_linear(l2: float | None, bank: Features, queries: Features | None, device: torch.device) -> dict[str, float]:
    """Accuracy of logistic regression on the bank's features; without queries on a tenth that is not learnt from."""
    if l2 is None:
        return {}
    known, asked = hold_out(bank) if queries is None else (bank, queries)
    probed = probe_features(known, asked, (l2,), ONLINE_ITERATIONS, device)
    return {"linear_top1": probed.figures["top1"]}
