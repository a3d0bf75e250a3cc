"""Retrieval: how high the images of a query's identity stand in the ranking of a gallery by similarity."""

import contextlib
import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.cluster.neighbours import first_equal_rows
from selfsup.data.identity import identity
from selfsup.data.layout import Split
from selfsup.data.opening import labelled_part, open_part, open_test_part
from selfsup.data.sources import Source
from selfsup.randomness import Stream, permutation
from selfsup.stages.base import Evaluated, Result, Stage, as_read, data_of, place_of
from selfsup.stages.embed import Features, Reading
from selfsup.stages.encoder import Layer
from selfsup.stages.newest import newest_encoder
from selfsup.stages.run_data import require_data_of_run
from selfsup.trainer import stage_device

RECALL_AT = (1, 2, 4, 8, 10)
_SIMILARITIES = 2**22  # of a tile of queries and the whole gallery, ranked at a time


@dataclass(frozen=True, kw_only=True)
class Retrieval(Reading):
    """Settings of the retrieval evaluation."""

    # leave_one_out: every image asks all others. query_gallery: queries ask the gallery, as index.csv beside the data
    # tells them apart by its column `role`, or without one a random image of each identity is its query.
    # auto: query_gallery where such an index.csv is, else leave_one_out.
    mode: Literal["auto", "leave_one_out", "query_gallery"] = "auto"
    layer: Layer = "backbone"  # embedding: what the loss was about, as metric learning reports it
    recall_at: tuple[int, ...] = RECALL_AT
    # What becomes of gallery images by the query's own camera and of its identity, where the column `camera` of
    # index.csv tells cameras: as re-identification excludes them from the query's ranking, or not.
    same_camera: Literal["exclude", "keep"] = "exclude"
    seed: int = 0  # of the random queries

    def __post_init__(self) -> None:
        if not self.recall_at or min(self.recall_at) < 1:
            raise ValueError(
                f"recall_at is {min(self.recall_at, default='empty')}; give one rank or more, each at least 1"
            )


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
        device: where to rank, by default the CPU.
        cameras: (Q,) and (G,) int64 numbers of cameras, for queries with a gallery.

    Returns:
        the figures in [0, 1], the number of queries they are means of, and the number of those left out.

    Raises:
        ValueError: there are no labels, the gallery is of one identity, features are not finite, or no query has an
            image to find.
    """
    asked = queries if gallery is None else gallery
    _check_identities(queries.labels, asked.labels)
    for part in (queries, asked):
        part.require_finite()
    rows = per_query(queries, gallery, recall_at, device or torch.device("cpu"), cameras)
    asking = rows["relevant"] > 0
    if not asking.any():
        by = "" if cameras is None else " by another camera (--same-camera keep takes those by its own, too)"
        raise ValueError(f"no query has an image of its identity to find{by}; give two images or more of each identity")
    means = {name: values[asking].mean().item() for name, values in rows.items() if name != "relevant"}
    return {**means, "queries": int(asking.sum()), "queries_left_out": int((~asking).sum())}


def _check_identities(labels: Tensor, gallery: Tensor) -> None:
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


@contextlib.contextmanager
def _damage_told(index: Path) -> Iterator[None]:
    try:
        yield
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{index} is not a readable table: {error}") from error


def read_index(root: str, source: Source, column: str) -> list[str] | None:
    """What a column of index.csv says of each image of `source`.

    The index.csv lies in the data folder `root` or in the one above, with paths from there in its column `path`.

    Returns:
        N words, or None where there is no such file, or none with these columns.

    Raises:
        ValueError: an image of `source` is not listed there, or with nothing in this column; or a row is cut short.
    """
    folder = Path(root).expanduser()
    for place in (folder.resolve(), folder.resolve().parent):
        index = place / "index.csv"
        if folder.is_dir() and index.is_file():
            with open(index, newline="", encoding="utf-8") as file, _damage_told(index):
                rows = csv.DictReader(file)
                if {"path", column} <= set(rows.fieldnames or ()):
                    listed = {}
                    for row in rows:
                        if row["path"] is None or row[column] is None:
                            raise ValueError(
                                f"{index}, line {rows.line_num}: the row ends before its path or its {column}; "
                                f"wanted {', '.join(rows.fieldnames or ())}"
                            )
                        listed[place / row["path"]] = row[column]
                    return [_listed(listed, folder, source.name(n), index, column) for n in range(len(source))]
    return None


def _listed(listed: dict[Path, str], folder: Path, name: str, index: Path, column: str) -> str:
    # The folder alone is resolved: the images below it may be links, and are listed by the names they have here.
    word = listed.get(folder.resolve() / Path(name).relative_to(folder), "")
    if not word or (column == "role" and word not in ("query", "gallery")):
        wanted = "wanted query or gallery" if column == "role" else "wanted a word or number of your own"
        other = "--mode leave_one_out" if column == "role" else "--same-camera keep"
        raise ValueError(
            f"{index} gives the image {name} the {column} {word!r}; {wanted}\ncomplete it, or choose {other}"
        )
    return word


def _asking(labels: Tensor, indices: Tensor, roles: list[str] | None, seed: int) -> tuple[Tensor, str]:
    """(N,) bool: the queries among images of these labels and positions; and what the protocol says of them."""
    if roles is not None:
        return torch.tensor([role == "query" for role in roles])[indices], "queries of index.csv to its gallery"
    return random_queries(labels, seed), "one random query of each identity to the others"


def _cameras(settings: Retrieval, source: Source) -> tuple[Tensor | None, str]:
    """The camera of each image of `source` as a number, where they decide anything; and what the protocol says."""
    if settings.same_camera == "keep":
        return None, "kept"
    words = read_index(settings.data.root, source, "camera")
    if words is None:
        return None, "kept, cameras unknown"
    numbers = {word: number for number, word in enumerate(sorted(set(words)))}
    return torch.tensor([numbers[word] for word in words]), "excluded"


def _index_digest(roles: list[str] | None, cameras: Tensor | None) -> str:
    """What tells one index.csv from another by what is used of it; empty where nothing is."""
    if roles is None and cameras is None:
        return ""
    used = [roles, None if cameras is None else cameras.tolist()]
    return hashlib.sha256(json.dumps(used).encode()).hexdigest()[:16]


def run_retrieval(path: Path, settings: Retrieval) -> Evaluated:
    """Retrieval by an exported encoder among the test images, or among all images where there is no test part.

    Args:
        path: a run folder or an encoder.safetensors.
        settings: with `data.root` set.

    Raises:
        ValueError: there are no labels, queries or gallery, or no more than one identity to find; or index.csv does not
            fit the data.
    """
    require_data_of_run(path, settings.data)
    exported = newest_encoder(path)
    device = stage_device(settings.device)
    data = settings.data
    test = open_test_part(data)
    part: Split = "train" if test is None else "test"
    source = labelled_part(open_part(data, "train") if test is None else test, part)
    if int(source.labels.max()) < 0:
        raise ValueError(f"retrieval needs identities: {source.found.no_labels}")
    roles = None if settings.mode == "leave_one_out" else read_index(data.root, source, "role")
    asks_gallery = roles is not None or settings.mode == "query_gallery"
    seen_by, same_camera = _cameras(settings, source) if asks_gallery else (None, "kept")
    asking, split = torch.ones(len(source), dtype=torch.bool), "leave one out"
    if asks_gallery:
        asking, split = _asking(source.labels, torch.arange(len(source)), roles, settings.seed)
    _check_identities(source.labels[asking], source.labels[~asking if asks_gallery else asking])
    images = settings.features(exported.network(settings.layer).to(device), source, exported.feed.center(), device)
    queries, gallery, cameras = images, None, None
    if asks_gallery:
        asking, _ = _asking(images.labels, images.indices, roles, settings.seed)
        queries, gallery = (Features(*(values[rows] for values in images)) for rows in (asking, ~asking))
        if seen_by is not None:
            cameras = seen_by[queries.indices], seen_by[gallery.indices]
    figures = retrieval_figures(queries, gallery, settings.recall_at, device, cameras)
    asked, left_out = figures.pop("queries"), figures.pop("queries_left_out")
    protocol = {
        "metric": "cosine",
        "layer": settings.layer,
        **exported.protocol,
        **as_read(settings.data),
        "query_images": asked,
        "queries_left_out": left_out,
        "gallery_images": len(images.labels) if gallery is None else len(gallery.labels),
        "part": part,
        "data": identity(data.verify, source),
        "split": split,
        "same_camera": same_camera,
    }
    if index := _index_digest(roles, seen_by):
        protocol["index"] = index
    about = exported.about | ({"queries_seed": settings.seed} if asks_gallery and roles is None else {})
    root = place_of(data)
    return Evaluated([Result(stage="retrieval", figures=figures, protocol=protocol, about=about, data_root=root)])


STAGE = Stage(run=run_retrieval, defaults=lambda path, protocol: Retrieval(data=data_of(path)))
