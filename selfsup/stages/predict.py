"""`selfsup predict`: what is in images, by a classifier or by the nearest of labelled images, in a table."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from selfsup.augment.views import Center
from selfsup.data.collected import Collected, collect
from selfsup.data.found import named
from selfsup.data.levels import parse_levels
from selfsup.data.settings import Data
from selfsup.evaluation.encoder import Exported
from selfsup.evaluation.features import Features, encoded, extract
from selfsup.evaluation.newest import newest_encoder
from selfsup.output import image_progress, message
from selfsup.stages.deciders import (
    ByBank,
    ByClassifier,
    Decider,
    neighbours_that_vote,
    open_bank,
    require_classifier,
)
from selfsup.stages.predictions import Layout, Row, require_writable, table
from selfsup.stages.settings import TABLES, Predict
from selfsup.storage.whole_file import whole_file
from selfsup.training.accelerator import stage_device

_CHUNK = 4096  # images whose rows are in memory at once


class _Work(NamedTuple):
    """All that makes rows of images."""

    source: Collected
    network: nn.Module  # images to features, in evaluation mode
    center: Center
    device: torch.device
    decider: Decider
    layout: Layout
    settings: Predict


def run_predict(path: Path, images: Sequence[str], settings: Predict) -> dict[str, Any]:
    """Write a row for every image to `settings.out`; returns the JSON object.

    Args:
        path: a classifier; with `settings.bank` any encoder.
        images: files, folders and archives, in the order of the rows; `-` for a list on standard input.
        settings: with `out` set.

    Raises:
        ValueError: there is no classifier and no bank, no such images, or no image that can be read.
    """
    out = _checked(settings)
    exported = newest_encoder(path, size=settings.size)
    if not settings.bank:
        require_classifier(exported, path, "or let labelled images decide: --bank LABELLED")
    source = collect(images, parse_levels(exported.feed.range), exported.feed.channels)
    device = stage_device(settings.device)
    decider, about = _decider(path, exported, settings, device)
    if settings.top > len(decider.names):
        message(f"top is {settings.top}, and there are {len(decider.names)} classes: each image has so many")
    layout = Layout(min(settings.top, len(decider.names)), _dimension(exported, settings, device))
    network = exported.network(settings.layer).to(device)
    work = _Work(source, network, exported.feed.center(), device, decider, layout, settings)
    unreadable = _written(out, work)
    if unreadable:
        told = named(unreadable, "image")
        message(f"unreadable: {told} of {len(source):,}; {'their rows say' if unreadable[1:] else 'its row says'} why")
    return {
        "out": str(out),
        "images": len(source),
        "unreadable_images": len(unreadable),
        "classes": len(decider.names),
        "top": layout.top,
        **about,
        **exported.protocol,
        **exported.about,
    }


def _checked(settings: Predict) -> Path:
    out = Path(settings.out)
    if not settings.out or out.is_dir():
        raise ValueError(
            f"--out is {settings.out!r}; give the name of a file that ends in {', '.join(TABLES)}, as --out "
            "predictions.csv"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "predict writes its file from one process, and several were started; call it without accelerate launch"
        )
    require_writable(out.suffix)
    return out


def _decider(path: Path, exported: Exported, settings: Predict, device: torch.device) -> tuple[Decider, dict[str, Any]]:
    """What decides, and what is said of it."""
    if not settings.bank:
        head = require_classifier(exported, path, "")
        return ByClassifier(head.to(device)), {"by": "classifier"}
    labelled = open_bank(Data(root=settings.bank, range=exported.feed.range, channels=exported.feed.channels))
    network, center = exported.network(settings.layer).to(device), exported.feed.center()
    bank = extract(network, labelled, center, device, batch_size=settings.batch_size, workers=settings.workers)
    bank.require_finite()
    names = tuple(labelled.class_name(label) for label in range(int(labelled.labels.max()) + 1))
    k = neighbours_that_vote(settings.k, bank)
    about = {"by": "knn", "k": k, "temperature": settings.temperature, "layer": settings.layer}
    about |= {"bank": settings.bank, "bank_images": len(bank.labels)}
    return ByBank(bank, names, k, settings.temperature, device), about


def _dimension(exported: Exported, settings: Predict, device: torch.device) -> int:
    """Numbers of an embedding that is written; 0 where none is."""
    if not settings.embedding:
        return 0
    if settings.layer == "backbone":
        return int(exported.encoder.feature_dim)
    assert exported.head is not None
    with torch.no_grad():
        probe = torch.zeros(1, exported.encoder.feature_dim, device=device)
        return int(exported.head.to(device)(probe).shape[1])


def _written(out: Path, work: _Work) -> list[str]:
    """Write the file, chunk by chunk; returns the names of the images that cannot be read."""
    unreadable: list[str] = []
    with image_progress("predict") as progress, whole_file(out) as file:
        task = progress.add_task("predict", total=len(work.source))
        written = table(out.suffix, file, work.layout)
        for rows in _chunks(work, lambda images: progress.advance(task, images)):
            written.add(rows)
            unreadable += [row["path"] for row in rows if row["error"] is not None]
        written.end()
        if len(unreadable) == len(work.source):
            raise ValueError(
                f"none of the images can be read: {named(unreadable, 'image')}; {rows[0]['error']}\n"
                f"{out} is not written"
            )
    return unreadable


def _chunks(work: _Work, advance: Callable[[int], None]) -> Iterator[list[Row]]:
    """Rows of all images in their order, some at a time."""
    source, settings = work.source, work.settings
    count = -(-len(source) // _CHUNK)
    for number in range(count):
        begin, end = number * len(source) // count, (number + 1) * len(source) // count
        rows: list[Row] = [
            dict.fromkeys(work.layout.columns) | {"path": source.name(index)} for index in range(begin, end)
        ]
        reasons: dict[str, str] = {}
        how = (settings.batch_size, None, settings.workers)
        found: list[Features] = []
        for read in encoded(work.network, source, work.center, work.device, (number, count), reasons, *how):
            read.require_finite()
            found.append(read)
            advance(len(read.indices))
        if found:
            readable = [rows[index - begin] for read in found for index in read.indices.tolist()]
            _fill(readable, torch.cat([read.features for read in found]), work)
        for row in rows:
            if row["class"] is None:
                row["error"] = reasons[row["path"]]
        yield rows


def _fill(rows: list[Row], features: Tensor, work: _Work) -> None:
    """Enter into rows what their images' features (N, D) say."""
    decided = work.decider(features, work.layout.top)
    for row, classes, probabilities in zip(rows, *map(Tensor.tolist, decided), strict=True):
        for (name, share), label, probability in zip(work.layout.ranks, classes, probabilities, strict=True):
            row[name], row[share] = (None, None) if label < 0 else (work.decider.names[label], probability)
    if work.layout.dimension:
        for row, vector in zip(rows, features.cpu().numpy(), strict=True):
            row["embedding"] = vector
