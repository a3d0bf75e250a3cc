"""Scores against a memory bank, noise-contrastive estimation and the softmax over all images: pure functions.

The bank is a constant: gradients go to the features alone.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from selfsup.losses.contrastive import at_least_float32
from selfsup.losses.pairing import Pairing, Same
from selfsup.losses.tiles import mean_contrast

_EPSILON = 1e-7  # of the published code, beside K Pn
_TILE = 2**16  # bank rows that are brought to full precision at once
_PRODUCT = 2**28  # most scores against the whole bank that are formed for the sake of a sample of them
_GATHERED = 2**26  # most numbers in sampled bank rows that are alive at once
_PRODUCT_GAIN = 64  # scores of a matrix product take about as long as one of a gathered row (one CPU core: 100)


def bank_scores(features: Tensor, bank: Tensor) -> Tensor:
    """Inner products with every bank row in float32 or better: (B, D), (n, D) of any precision -> (B, n)."""
    scores: Tensor = _BankScores.apply(at_least_float32(features), bank)
    return scores


def sampled_scores(features: Tensor, bank: Tensor, rows: Tensor) -> Tensor:
    """Inner products with some bank rows, others for each feature, in float32 or better.

    Never holds the (B, K, D) sampled rows at once: either it reads them in parts, and again in the backward pass, or,
    where the bank is not many times larger than the sample, it picks them from the products with the whole bank.

    Args:
        features: (B, D).
        bank: (n, D) of any precision.
        rows: (B, K) int64 in [0, n), repeats allowed.

    Returns:
        (B, K).
    """
    few_columns = len(bank) <= _PRODUCT_GAIN * rows.shape[1] and len(features) * len(bank) <= _PRODUCT
    if few_columns:
        return bank_scores(features, bank).gather(1, rows)
    scores: Tensor = _SampledScores.apply(at_least_float32(features), bank, rows)
    return scores


def softmax_over_bank(features: Tensor, bank: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The non-parametric softmax over all images (Wu et al. 2018, equation 2), as a loss and an accuracy.

    Scores are formed in tiles: memory grows with features and bank, not with their product.

    Args:
        features: (B, D), divided by the temperature.
        bank: (n, D) of any precision.
        targets: (B,) int64, each feature's own image.

    Returns:
        The mean cross-entropy and the share of features whose own image strictly has the highest score: two ().
    """
    features = at_least_float32(features)
    positive = (features * bank[targets].detach()).sum(dim=1)  # (B,)
    others = Pairing(left_out=Same(targets, torch.arange(len(bank), device=bank.device)))
    mean, figures = mean_contrast(features, bank.detach(), others, positive)
    return mean - positive.mean(), (positive > figures.rival).float().mean()


def batch_log_normaliser(log_sums: Tensor, num_columns: int, num_images: int) -> Tensor:
    """log of Z = n mean exp(score): the estimate from one batch (Wu et al. 2018, equation 8).

    Args:
        log_sums: (N,) log of the sum of exp(score) over the columns of each feature, the positive among them.
        num_columns: K + 1.
        num_images: n.

    Returns:
        ().
    """
    return log_sums.logsumexp(dim=0) + math.log(num_images / (len(log_sums) * num_columns))


def nce(scores: Tensor, log_normaliser: Tensor, num_images: int) -> tuple[Tensor, Tensor]:
    """Noise-contrastive estimation with uniform noise (Wu et al. 2018, equations 4 to 7).

    With P = exp(score) / Z and Pn = 1 / n, a feature's loss is
    - log(P_0 / (P_0 + K Pn + eps)) - sum over k = 1 .. K of log(K Pn / (P_k + K Pn + eps)),
    eps = 1e-7 as published; computed from logarithms, so that no temperature overflows.

    Args:
        scores: (B, 1 + K), divided by the temperature: the own image in column 0, then noise.
        log_normaliser: () log Z, a constant.
        num_images: n.

    Returns:
        The mean loss and the share of features whose own image strictly has the highest score: two ().
    """
    noise = (scores.shape[1] - 1) / num_images  # K Pn
    odds = scores - log_normaliser - math.log(noise + _EPSILON)  # log(P / (K Pn + eps))
    # Were eps 0, its share in the noise terms would be 0 as well.
    constant = (scores.shape[1] - 1) * math.log1p(_EPSILON / noise)
    loss = -F.logsigmoid(odds[:, 0]) - F.logsigmoid(-odds[:, 1:]).sum(dim=1) + constant
    accuracy = scores[:, 0] > scores[:, 1:].amax(dim=1)
    return loss.mean(), accuracy.float().mean()


# Products that are written to a place are not subject to autocast: these are in the features' precision under it too.


class _BankScores(torch.autograd.Function):
    """`bank_scores`, bringing a tile of the bank to full precision at a time."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, bank: Tensor) -> Tensor:
        ctx.save_for_backward(bank)
        scores = features.new_empty(len(features), len(bank))
        for part, columns in zip(bank.split(_TILE), scores.split(_TILE, dim=1), strict=True):
            torch.mm(features, part.to(features.dtype).T, out=columns)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (bank,) = ctx.saved_tensors
        to_features = gradient.new_zeros(len(gradient), bank.shape[1])
        for part, columns in zip(bank.split(_TILE), gradient.split(_TILE, dim=1), strict=True):
            to_features.addmm_(columns, part.to(gradient.dtype))
        return to_features, None


class _SampledScores(torch.autograd.Function):
    """`sampled_scores` with at most `_GATHERED` numbers in gathered rows alive; the backward pass gathers again."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, bank: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(bank, rows)
        scores = features.new_empty(*rows.shape, 1)
        width = _width(rows, bank)
        for part, columns in zip(rows.split(width, dim=1), scores.split(width, dim=1), strict=True):
            torch.bmm(bank[part].to(features.dtype), features[:, :, None], out=columns)
        return scores[:, :, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        bank, rows = ctx.saved_tensors
        to_features = gradient.new_zeros(len(gradient), 1, bank.shape[1])
        width = _width(rows, bank)
        for part, columns in zip(rows.split(width, dim=1), gradient.split(width, dim=1), strict=True):
            to_features.baddbmm_(columns[:, None], bank[part].to(gradient.dtype))
        return to_features[:, 0], None, None


def _width(rows: Tensor, bank: Tensor) -> int:
    return max(1, _GATHERED // (len(rows) * bank.shape[1]))
