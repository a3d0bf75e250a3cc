"""The losses of metric learning and of XBM by plain loops over anchors, positives and negatives."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from selfsup.batch import Batch
from selfsup.methods import pair_losses as losses
from selfsup.methods.base import Method
from selfsup.methods.metric import Metric
from selfsup.methods.pair_loss import PairLoss
from selfsup.methods.xbm import XBM
from selfsup.randomness import Stream, uniform


class Rows(NamedTuple):
    """Anchors and references with, for each anchor, the places of its positives and negatives."""

    anchors: Tensor
    references: Tensor
    positives: list[list[int]]
    negatives: list[list[int]]
    labels: list[int]
    mutual: bool
    step: int

    def distance(self, i: int, j: int) -> Tensor:
        return (self.anchors[i] - self.references[j]).square().sum().sqrt()

    def product(self, i: int, j: int) -> Tensor:
        return (self.anchors[i] * self.references[j]).sum()


def metric_loss(method: Method, embeddings: list[Tensor], batch: Batch, update: dict[str, Tensor]) -> Tensor:
    """The loss over the global batch: every row of every view is an anchor, and all others are references."""
    metric = cast(Metric, method)
    rows = torch.cat(embeddings)
    labels = batch.labels.tolist() * len(embeddings)
    return _naive(metric.loss, _rows(rows, rows, labels, labels, list(range(len(rows))), int(metric.steps), True))


def xbm_loss(method: Method, embeddings: list[Tensor], batch: Batch, update: dict[str, Tensor]) -> Tensor:
    """The same, and once more over the memory as it is after the batch has been pushed, which is constant."""
    xbm = cast(XBM, method)
    loss = metric_loss(method, embeddings, batch, update)
    if int(xbm.steps) < xbm.config.memory_start:
        return loss
    rows, queue = torch.cat(embeddings), xbm.queue
    labels = batch.labels.tolist() * len(embeddings)
    size = len(queue.features)
    overwritten = {(int(queue.pointer) + n) % size for n in range(len(rows))}
    kept = [k for k in range(int(queue.filled)) if k not in overwritten]
    references = torch.cat([queue.features[kept], rows.detach()])
    others, owners = queue.labels[kept].tolist() + labels, [-1] * len(kept) + list(range(len(rows)))
    pairs = _rows(rows, references, labels, others, owners, int(xbm.steps), False)
    return loss + xbm.config.memory_weight * _naive(xbm.loss, pairs)


def _rows(
    anchors: Tensor,
    references: Tensor,
    labels: list[int],
    others: list[int],
    owners: list[int],
    step: int,
    mutual: bool,
) -> Rows:
    positives = [
        [j for j, other in enumerate(others) if other == label and owners[j] != i] for i, label in enumerate(labels)
    ]
    negatives = [[j for j, other in enumerate(others) if other != label] for label in labels]
    return Rows(anchors, references, positives, negatives, labels, mutual, step)


def _naive(loss: PairLoss, rows: Rows) -> Tensor:
    return _LOSSES[type(loss)](loss, rows)


def _sum(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum()


def _mean(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).mean()


def _contrastive(loss: Any, rows: Rows) -> Tensor:
    pulls = [rows.distance(i, j) ** 2 / 2 for i, near in enumerate(rows.positives) for j in near]
    pushes = [
        (loss.config.margin - rows.distance(i, j)).clamp(min=0) ** 2 / 2
        for i, far in enumerate(rows.negatives)
        for j in far
    ]
    return _mean(pulls + pushes)


def _similarity_contrastive(loss: Any, rows: Rows) -> Tensor:
    pulls = [1 - rows.product(i, j) for i, near in enumerate(rows.positives) for j in near]
    far = [rows.product(i, j) for i, others in enumerate(rows.negatives) for j in others]
    return _sum(pulls + [s for s in far if s > loss.config.margin]) / len(rows.anchors)


def _triplet(loss: Any, rows: Rows) -> Tensor:
    c = loss.config
    terms = []
    for i in range(len(rows.anchors)):
        near = [rows.distance(i, j) for j in rows.positives[i]]
        far = [rows.distance(i, j) for j in rows.negatives[i]]
        if not near or not far:
            continue
        if c.mining == "all":
            chosen = [(p, n) for p in near for n in far]
        elif c.mining == "hard":
            chosen = [(max(near), min(far))]
        else:
            chosen = [(p, min([n for n in far if n > p], default=max(far))) for p in near]
        power = 2 if c.squared else 1
        gaps = [p**power - n**power for p, n in chosen]
        terms += [(1 + gap.exp()).log() if c.soft_margin else (gap + c.margin).clamp(min=0) for gap in gaps]
    return _mean(terms)


def _n_pair(loss: Any, rows: Rows) -> Tensor:
    positives, negatives = rows.positives, rows.negatives
    if rows.mutual and loss.config.tuples == "one":
        rank = [rows.labels[:i].count(label) for i, label in enumerate(rows.labels)]
        positives = [[j for j in near if rank[i] == 0 and rank[j] == 1] for i, near in enumerate(positives)]
        negatives = [[j for j in far if rank[i] == 0 and rank[j] == 1] for i, far in enumerate(negatives)]
    terms = []
    for i in range(len(rows.anchors)):
        far = sum(rows.product(i, n).exp() for n in negatives[i])
        terms += [(1 + far / rows.product(i, p).exp()).log() for p in positives[i]]
    norms = loss.config.norm_weight * _mean([row.square().sum() for row in rows.anchors]) if rows.mutual else 0
    return _mean(terms) + norms


def _lifted(loss: Any, rows: Rows) -> Tensor:
    margin = loss.config.margin
    far = [sum((margin - rows.distance(i, n)).exp() for n in others) for i, others in enumerate(rows.negatives)]
    terms = []
    for i in range(len(rows.anchors)):
        if loss.config.generalized and rows.positives[i]:
            near = sum(rows.distance(i, p).exp() for p in rows.positives[i])
            terms.append((near.log() + far[i].log()).clamp(min=0))
        elif not loss.config.generalized:
            for j in rows.positives[i]:
                both = far[i] + far[j] if rows.mutual else 2 * far[i]
                terms.append((both.log() + rows.distance(i, j)).clamp(min=0) ** 2 / 2)
    return _mean(terms)


def _circle(loss: Any, rows: Rows) -> Tensor:
    c = loss.config
    near, far = [], []
    for i in range(len(rows.anchors)):
        positives = [rows.product(i, j) for j in rows.positives[i] if c.over == "anchor" or not rows.mutual or i < j]
        negatives = [rows.product(i, j) for j in rows.negatives[i] if c.over == "anchor" or not rows.mutual or i < j]
        near.append(
            [(-c.scale * (1 + c.margin - s).clamp(min=0).detach() * (s - 1 + c.margin)).exp() for s in positives]
        )
        far.append([(c.scale * (s + c.margin).clamp(min=0).detach() * (s - c.margin)).exp() for s in negatives])
    if c.over == "anchor":
        return _mean([(1 + _sum(n) * _sum(p)).log() for n, p in zip(far, near, strict=True) if n and p])
    everything = [_sum([s for terms in side for s in terms]) for side in (far, near)]
    return (1 + everything[0] * everything[1]).log()


def _multi_similarity(loss: Any, rows: Rows) -> Tensor:
    c = loss.config
    total = rows.anchors.new_zeros(())
    for i in range(len(rows.anchors)):
        near = [rows.product(i, j) for j in rows.positives[i]]
        far = [rows.product(i, j) for j in rows.negatives[i]]
        kept_near = [s for s in near if far and s - c.epsilon < max(far)]
        kept_far = [s for s in far if near and s + c.epsilon > min(near)]
        if kept_near and kept_far:
            total = total + (1 + sum((-c.alpha * (s - c.threshold)).exp() for s in kept_near)).log() / c.alpha
            total = total + (1 + sum((c.beta * (s - c.threshold)).exp() for s in kept_far)).log() / c.beta
    return total / len(rows.anchors)


def _margin(loss: Any, rows: Rows) -> Tensor:
    """Wu et al. 2017, equations 4, 7 and 10; the negatives are those of the house's random numbers."""
    c, dim = loss.config, rows.anchors.shape[1]
    total, count = rows.anchors.new_zeros(()), 0.0
    for i in range(len(rows.anchors)):
        view = 0 if rows.mutual else 1
        numbers = uniform(loss.seed, Stream.MINING, torch.tensor([i]), loss.negatives, epoch=rows.step, view=view)
        usable = [j for j in rows.negatives[i] if rows.distance(i, j) < 1.4]
        near = rows.positives[i]
        if not usable or not near:
            continue
        far = [max(float(rows.distance(i, j).detach()), c.cutoff) for j in usable]
        weights = [1 / (d ** (dim - 2) * (1 - d * d / 4) ** ((dim - 3) / 2)) for d in far]
        drawn = []
        for number in numbers[0].tolist():
            passed = 0.0
            for j, weight in zip(usable, weights, strict=True):
                passed += weight / sum(weights)
                if passed > number:
                    drawn.append(j)
                    break
        beta = loss.beta[rows.labels[i]] if c.boundary == "class" else loss.beta
        pulls = [(rows.distance(i, j) - beta + c.margin).clamp(min=0) for j in near]
        pushes = [(beta - rows.distance(i, j) + c.margin).clamp(min=0) for j in drawn]
        share = len(near) / loss.negatives
        total = total + _sum(pulls) + share * _sum(pushes) + c.nu * beta * len(near)
        count += sum(float(x > 0) for x in pulls) + share * sum(float(x > 0) for x in pushes)
    return total / count


def _proxy(loss: Any, rows: Rows) -> Tensor:
    c = loss.config
    proxies = [proxy / proxy.square().sum().sqrt() for proxy in loss.proxies]
    if c.kind == "nca":
        terms = []
        for row, label in zip(rows.anchors, rows.labels, strict=True):
            closeness = [(-(row - proxy).square().sum()).exp() for proxy in proxies]
            others = _sum([x for number, x in enumerate(closeness) if number != label])
            terms.append(-(closeness[label] / others).log())
        return _mean(terms)
    pulls, pushes = [], []
    for number, proxy in enumerate(proxies):
        own = [row @ proxy for row, label in zip(rows.anchors, rows.labels, strict=True) if label == number]
        other = [row @ proxy for row, label in zip(rows.anchors, rows.labels, strict=True) if label != number]
        if own:
            pulls.append((1 + sum((-c.alpha * (s - c.margin)).exp() for s in own)).log())
        pushes.append((1 + sum((c.alpha * (s + c.margin)).exp() for s in other)).log())
    return _mean(pulls) + _mean(pushes)


_LOSSES: dict[type[PairLoss], Callable[[Any, Rows], Tensor]] = {
    losses.Contrastive: _contrastive,
    losses.SimilarityContrastive: _similarity_contrastive,
    losses.Triplet: _triplet,
    losses.NPair: _n_pair,
    losses.Lifted: _lifted,
    losses.Circle: _circle,
    losses.MultiSimilarity: _multi_similarity,
    losses.Margin: _margin,
    losses.Proxy: _proxy,
}
