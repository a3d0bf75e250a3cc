"""Retrieval: how high the images of a query's identity stand in the ranking of a gallery by similarity."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.data.sources import Source, open_source, open_test
from selfsup.randomness import Stream, permutation
from selfsup.stages.base import Evaluated, Result, Stage, data_of
from selfsup.stages.embed import Features, Reading
from selfsup.stages.encoder import Layer, load_encoder
from selfsup.trainer import device_for

_SIMILARITIES = 2**22  # of a tile of queries and the whole gallery, ranked at a time


@dataclass(frozen=True, kw_only=True)
class Retrieval(Reading):
    """Settings of the retrieval evaluation."""

    # leave_one_out: every image asks all others. query_gallery: queries ask the gallery, as index.csv beside the data
    # tells them apart by its column `role`, or without one a random image of each identity is its query.
    # auto: query_gallery where such an index.csv is, else leave_one_out.
    mode: Literal["auto", "leave_one_out", "query_gallery"] = "auto"
    layer: Layer = "backbone"  # embedding: what the loss was about, as metric learning reports it
    recall_at: tuple[int, ...] = (1, 2, 4, 8)
    seed: int = 0  # of the random queries

    def __post_init__(self) -> None:
        if not self.recall_at or min(self.recall_at) < 1:
            raise ValueError(f"recall_at is {self.recall_at}; give one rank or more, each at least 1")


def retrieval_figures(
    queries: Features,
    gallery: Features | None,
    recall_at: tuple[int, ...] = (1, 2, 4, 8),
    device: torch.device | None = None,
) -> dict[str, float | int]:
    """Means over the queries whose identity the gallery holds; without a gallery each query asks all other queries.

    With R relevant images in the gallery, and P(i) the share of them among the first i of the ranking:

    - recall_at_k: whether one of the first k is relevant (Oh Song et al. 2016).
    - map: the mean of P(i) over the ranks i of all R relevant images, as re-identification takes it.
    - r_precision: P(R).
    - map_at_r: the sum of P(i) over the relevant ranks i up to R, over R (Musgrave et al. 2020, section 3.3).

    Similarities are cosines; of equal ones the lower gallery number stands first.

    Args:
        queries: Q images with their identities as labels.
        gallery: G images, or None.
        recall_at: the ranks k.
        device: where to rank, by default the CPU.

    Returns:
        the figures in [0, 1], the number of queries they are means of, and the number of those left out.

    Raises:
        ValueError: there are no labels, features are not finite, or no query has an image to find.
    """
    asked = queries if gallery is None else gallery
    for part, what in ((queries, "queries"), (asked, "gallery")):
        if not len(part.labels):
            raise ValueError(f"there are no {what}; retrieval needs both, or images that ask all others")
        _check_identities(part.labels)
        if not part.features.isfinite().all():
            raise ValueError("the features hold NaN or infinity; the encoder has diverged")
    rows = per_query(queries, gallery, recall_at, device or torch.device("cpu"))
    asking = rows["relevant"] > 0
    if not asking.any():
        raise ValueError("no query has an image of its identity to find; give two images or more of each identity")
    means = {name: values[asking].mean().item() for name, values in rows.items() if name != "relevant"}
    return {**means, "queries": int(asking.sum()), "queries_left_out": int((~asking).sum())}


def _check_identities(labels: Tensor) -> None:
    if labels.min() < 0:
        raise ValueError("retrieval needs identities: put the images of each identity in a folder of its own")


def per_query(
    queries: Features, gallery: Features | None, recall_at: tuple[int, ...], device: torch.device
) -> dict[str, Tensor]:
    """The figures of each query, (Q,) float64 on the CPU, by name, and the number of `relevant` images in the gallery.

    Figures of a query without a relevant image are 0.
    """
    bank = queries if gallery is None else gallery
    unit_asked, unit_bank = (F.normalize(part.features.to(device).double()) for part in (queries, bank))
    labels, bank_labels = queries.labels.to(device), bank.labels.to(device)
    numbers = torch.arange(len(queries.labels), device=device)
    tiles = []
    for tile in numbers.split(max(1, _SIMILARITIES // len(bank_labels))):
        # Products in double precision, rounded to single: equal images tie, however their columns were summed up.
        similarities = (unit_asked[tile] @ unit_bank.T).float()
        relevant = labels[tile][:, None] == bank_labels
        if gallery is None:
            similarities[torch.arange(len(tile), device=device), tile] = -torch.inf  # the query itself comes last
            relevant[torch.arange(len(tile), device=device), tile] = False
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


def read_roles(root: str, source: Source) -> list[str] | None:
    """What the column `role` of an index.csv says of each image of `source`: "query" or "gallery".

    The index.csv lies in the data folder `root` or in the one above, with paths from there in its column `path`.

    Returns:
        N words, or None where there is no such file, or none with these columns.

    Raises:
        ValueError: an image of `source` is not listed there, or as something else.
    """
    folder = Path(root).expanduser()
    for place in (folder.resolve(), folder.resolve().parent):
        index = place / "index.csv"
        if folder.is_dir() and index.is_file():
            with open(index, newline="", encoding="utf-8") as file:
                rows = csv.DictReader(file)
                if {"path", "role"} <= set(rows.fieldnames or ()):
                    listed = {place / row["path"]: row["role"] for row in rows}
                    return [_role(listed, folder, source.name(number), index) for number in range(len(source))]
    return None


def _role(listed: dict[Path, str], folder: Path, name: str, index: Path) -> str:
    # The folder alone is resolved: the images below it may be links, and are listed by the names they have here.
    role = listed.get(folder.resolve() / Path(name).relative_to(folder), "nothing")
    if role not in ("query", "gallery"):
        raise ValueError(
            f"{index} lists the test image {name} as {role}; wanted query or gallery\n"
            "complete it, or choose --mode leave_one_out"
        )
    return role


def run_retrieval(path: Path, settings: Retrieval) -> Evaluated:
    """Retrieval by an exported encoder among the test images, or among all images where there is no test part.

    Args:
        path: a run folder or an encoder.safetensors.
        settings: with `data.root` set.
    """
    exported = load_encoder(path)
    device = device_for(settings.device)
    data = settings.data
    test = open_test(data.root, data.labels)
    source = open_source(data.root, "train", labels=data.labels, limit=data.limit) if test is None else test
    roles = None if settings.mode == "leave_one_out" else read_roles(data.root, source)
    images = settings.features(exported.network(settings.layer).to(device), source, exported.feed.center(), device)
    queries, gallery = images, None
    split = "leave one out"
    if roles is not None:
        asking = torch.tensor([role == "query" for role in roles])[images.indices]
        split = "queries of index.csv to its gallery"
    elif settings.mode == "query_gallery":
        _check_identities(images.labels)
        asking = random_queries(images.labels, settings.seed)
        split = f"one random query of each identity (seed {settings.seed}) to the others"
    if split != "leave one out":
        queries, gallery = (Features(*(values[rows] for values in images)) for rows in (asking, ~asking))
    figures = retrieval_figures(queries, gallery, settings.recall_at, device)
    asked, left_out = figures.pop("queries"), figures.pop("queries_left_out")
    protocol = {
        "metric": "cosine",
        "layer": settings.layer,
        "transform": exported.feed.transform,
        "query_images": asked,
        "queries_left_out": left_out,
        "gallery_images": len(images.labels) if gallery is None else len(gallery.labels),
        "part": "train" if test is None else "test",
        "split": split,
    }
    return Evaluated([Result(stage="retrieval", figures=figures, protocol=protocol, about=exported.about)])


STAGE = Stage(run=run_retrieval, defaults=lambda path, protocol: Retrieval(data=data_of(path)))
