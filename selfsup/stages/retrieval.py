"""Retrieval: how high the images of a query's identity stand in the ranking of a gallery by similarity."""

import contextlib
import csv
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from selfsup.data.identity import identity
from selfsup.data.layout import Split
from selfsup.data.opening import labelled_part, open_part, open_test_part
from selfsup.data.settings import Data
from selfsup.data.sources import Source
from selfsup.evaluation.features import Features, features_of
from selfsup.evaluation.newest import newest_encoder
from selfsup.evaluation.retrieval import check_identities, random_queries, retrieval_figures
from selfsup.stages.base import Evaluated, Result, Stage, as_read, data_of, place_of
from selfsup.stages.run_data import require_data_of_run
from selfsup.stages.settings import HELP, Retrieval
from selfsup.training.accelerator import stage_device


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


def _indexed(data: Data, source: Source, column: str) -> list[str] | None:
    """What the index.csv of the data says; several roots have none together."""
    where = data.test_root or data.roots[0]
    return read_index(where, source, column) if data.test_root or len(data.roots) == 1 else None


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
    words = _indexed(settings.data, source, "camera")
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
    exported = newest_encoder(path, size=settings.size)
    device = stage_device(settings.device)
    data = settings.data
    test = open_test_part(data)
    part: Split = "train" if test is None else "test"
    source = labelled_part(open_part(data, "train") if test is None else test, part)
    if int(source.labels.max()) < 0:
        raise ValueError(f"retrieval needs identities: {source.found.no_labels}")
    roles = None if settings.mode == "leave_one_out" else _indexed(data, source, "role")
    asks_gallery = roles is not None or settings.mode == "query_gallery"
    seen_by, same_camera = _cameras(settings, source) if asks_gallery else (None, "kept")
    asking, split = torch.ones(len(source), dtype=torch.bool), "leave one out"
    if asks_gallery:
        asking, split = _asking(source.labels, torch.arange(len(source)), roles, settings.seed)
    check_identities(source.labels[asking], source.labels[~asking if asks_gallery else asking])
    images = features_of(settings, exported.network(settings.layer).to(device), source, exported.feed.center(), device)
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


STAGE = Stage(run=run_retrieval, defaults=lambda path, protocol: Retrieval(data=data_of(path)), help=HELP["retrieval"])
