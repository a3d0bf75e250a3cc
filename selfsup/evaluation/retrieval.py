"""Retrieval: recall at k, mean average precision and what re-identification counts, of features."""

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.cluster.neighbours import first_equal_rows
from selfsup.devices.double import double_device
from selfsup.evaluation.features import Features
from selfsup.evaluation.reading import RECALL_AT
from selfsup.randomness import Stream, permutation

_SIMILARITIES = 2**22  # of a tile of queries and the whole gallery, ranked at a time


def retrieval_figures(
    queries: Features,
    gallery: Features | None,
    recall_at: tuple[int, ...] = RECALL_AT,
    device: torch.device | None = None,
    cameras: tuple[Tensor, Tensor] | None = None,
) -> dict[str, float | int]:
    """Means over the queries whose identity the gallery holds; without a gallery each query asks all other queries.

    With R relevant images in the gallery, and P(i) the share of them among the first i of the ranking:

    - recall_at_k: whether one of the first k is relevant (Oh Song et al. 2016); re-identification calls it CMC, rank k.
    - map: the mean of P(i) over the ranks i of all R relevant images, as re-identification takes it.
    - r_precision: P(R).
    - map_at_r: the sum of P(i) over the relevant ranks i up to R, over R (Musgrave et al. 2020, section 3.3).

    Similarities are cosines in double precision; of equal images the lower gallery number stands first.

    With cameras, gallery images of the query's identity by the query's own camera are neither right nor wrong: they are
    taken out of its ranking, and are not among its R (Zheng et al. 2015, the protocol of Market-1501).

    Args:
        queries: Q images with their identities as labels.
        gallery: G images, or None.
        recall_at: the ranks k.
        device: where to rank, by default the CPU; that too where the device has no double precision.
        cameras: (Q,) and (G,) int64 numbers of cameras, for queries with a gallery.

    Returns:
        the figures in [0, 1], the number of queries they are means of, and the number of those left out.

    Raises:
        ValueError: there are no labels, the gallery is of one identity, features are not finite, or no query has an
            image to find.
    """
    asked = queries if gallery is None else gallery
    check_identities(queries.labels, asked.labels)
    for part in (queries, asked):
        part.require_finite()
    rows = per_query(queries, gallery, recall_at, device or torch.device("cpu"), cameras)
    asking = rows["relevant"] > 0
    if not asking.any():
        by = "" if cameras is None else " by another camera (--same-camera keep takes those by its own, too)"
        raise ValueError(f"no query has an image of its identity to find{by}; give two images or more of each identity")
    means = {name: values[asking].mean().item() for name, values in rows.items() if name != "relevant"}
    return {**means, "queries": int(asking.sum()), "queries_left_out": int((~asking).sum())}


def check_identities(labels: Tensor, gallery: Tensor) -> None:
    """Raise ValueError where queries and a gallery of these labels cannot be judged."""
    for part, what in ((labels, "queries"), (gallery, "gallery")):
        if not len(part):
            raise ValueError(f"there are no {what}; retrieval needs both, or images that ask all others")
        if part.min() < 0:
            raise ValueError("retrieval needs identities: put the images of each identity in a folder of its own")
    if len(gallery.unique()) < 2:
        raise ValueError(
            "all images to be found are of only one identity, so every ranking would be right\n"
            "retrieval needs images of two identities or more"
        )


def per_query(
    queries: Features,
    gallery: Features | None,
    recall_at: tuple[int, ...],
    device: torch.device,
    cameras: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The figures of each query, (Q,) float64 on the CPU, by name, and the number of `relevant` images in the gallery.

    Figures of a query without a relevant image are 0.
    """
    bank = queries if gallery is None else gallery
    device = double_device(device)
    unit_asked = F.normalize(queries.features.to(device).double())
    unit_bank = unit_asked if gallery is None else F.normalize(gallery.features.to(device).double())
    labels, bank_labels = queries.labels.to(device), bank.labels.to(device)
    seen_by, bank_seen_by = (None, None) if cameras is None else (part.to(device) for part in cameras)
    numbers = torch.arange(len(queries.labels), device=device)
    same = first_equal_rows(unit_bank)
    tiles = []
    for tile in numbers.split(max(1, _SIMILARITIES // len(bank_labels))):
        # Of equal images the first one's: a matrix product sums their columns in orders of their places.
        similarities = (unit_asked[tile] @ unit_bank.T)[:, same]
        relevant = labels[tile][:, None] == bank_labels
        if gallery is None:
            left_out = tile[:, None] == numbers  # the query itself
        elif seen_by is not None:
            left_out = relevant & (seen_by[tile][:, None] == bank_seen_by)
        else:
            left_out = None
        if left_out is not None:  # behind all others, and not relevant: no figure sees them
            similarities.masked_fill_(left_out, -torch.inf)
            relevant &= ~left_out
        order = similarities.sort(dim=1, descending=True, stable=True).indices
        tiles.append(_figures(relevant.gather(1, order), recall_at))
    return {name: torch.cat([tile[name] for tile in tiles]).cpu() for name in tiles[0]}


def _figures(hits: Tensor, recall_at: tuple[int, ...]) -> dict[str, Tensor]:
    """Of rankings, (q, G) bool: whether the image at each rank is relevant."""
    relevant = hits.sum(dim=1).double()
    ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    precision = hits.cumsum(dim=1) / ranks.double() * hits  # at relevant ranks, else 0
    early = ranks <= relevant[:, None]
    divisor = relevant.clamp(min=1)
    return {
        **{f"recall_at_{k}": hits[:, :k].any(dim=1).double() for k in recall_at},
        "map": precision.sum(dim=1) / divisor,
        "r_precision": (hits & early).sum(dim=1) / divisor,
        "map_at_r": (precision * early).sum(dim=1) / divisor,
        "relevant": relevant,
    }


def random_queries(labels: Tensor, seed: int) -> Tensor:
    """(N,) bool: one image of each identity, the first of a random order that `seed` fixes."""
    order = permutation(seed, Stream.SUBSET, len(labels)).flip(0)
    last = dict(zip(labels[order].tolist(), order.tolist(), strict=True))  # identity -> the last of the reversed order
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[list(last.values())] = True
    return chosen
