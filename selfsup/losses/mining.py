"""Which pairs a loss is to see: distance-weighted negatives, and one positive pair of each class."""

import torch
from torch import Tensor

from selfsup.devices.double import to_double
from selfsup.losses.pairs import distances

_WHOLE = 2**52  # what probabilities of sum 1 are counted in: double precision has no finer steps just below 1
FARTHEST = 1.4  # beyond the learnt boundary of Wu et al. by more than the margin: no negative costs anything there


@torch.no_grad()
def distance_weights(
    similarity: Tensor, negative: Tensor, dim: int, cutoff: float = 0.5, farthest: float = FARTHEST
) -> Tensor:
    """Probabilities of negatives that would spread their distances evenly (Wu et al. 2017, equations 4 and 5).

    log w = (2 - dim) log d - (dim - 3) / 2 log(1 - d^2 / 4), one over the density of distances d between points drawn
    evenly on the sphere; d is at least `cutoff`, and pairs at distance `farthest` or more, whose hinge is 0, have none.

    Args:
        similarity: (B, M) inner products of unit rows.
        negative: (B, M) bool.
        dim: of the embedding, D.

    Returns:
        (B, M) float64, on the CPU where the device has none. Rows sum to 1; rows without a usable negative are 0, and
        drop out of the loss. (There the authors' code draws from the whole batch, positives included.)
    """
    distance = distances(to_double(similarity))
    usable = negative.to(distance.device) & (distance < farthest)
    distance = distance.clamp(min=cutoff, max=farthest)
    log_weights = (2 - dim) * distance.log() - (dim - 3) / 2 * (1 - distance.square() / 4).log()
    probabilities = log_weights.masked_fill(~usable, -torch.inf).softmax(dim=1)  # nan where nothing is usable
    return torch.where(usable, probabilities, 0)


@torch.no_grad()
def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """How often each column is drawn, with replacement, by inverting the distribution function.

    Args:
        probabilities: (B, M) float64, of any sum; a row of zeros draws nothing.
        uniforms: (B, n) float64 in [0, 1), one for each draw.

    Returns:
        (B, M) float64, whole numbers. A pure function of its arguments; a column of probability 0, or
        below 2^-52 of its row's sum, is never drawn.
    """
    # In whole numbers, whose sums do not depend on the order that a GPU adds them in.
    shares = probabilities / probabilities.sum(dim=1, keepdim=True).clamp(min=torch.finfo(probabilities.dtype).tiny)
    sums = (shares * _WHOLE).long().cumsum(dim=1)
    total = sums[:, -1:]
    columns = torch.searchsorted(sums, (uniforms * total).long(), right=True)
    drawn = (total > 0).to(probabilities.dtype).expand(columns.shape)
    return torch.zeros_like(probabilities).scatter_add_(1, columns.clamp(max=sums.shape[1] - 1), drawn)


def one_pair_per_class(labels: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """The first two members of every class: anchor and positive of the N-pair loss (Sohn 2016, section 3.2).

    Args:
        labels: (M,) classes of the references.
        own: (B,) places of the anchors among the references.

    Returns:
        (B,) bool, the anchors that are first of their class, and (M,) bool, the references that are second.
    """
    earlier = (labels[:, None] == labels).tril(-1).sum(dim=1)  # (M,) members of the class before this one
    return earlier[own] == 0, earlier == 1
