"""`selfsup embed`: features of every image in a file, written piece by piece so that an interruption costs little."""

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from selfsup.augment.views import Center
from selfsup.data.base import check_unreadable
from selfsup.data.identity import identity
from selfsup.data.opening import open_part, open_test_part, tell_cut_short
from selfsup.data.sources import Source
from selfsup.evaluation.features import encoded
from selfsup.evaluation.newest import newest_encoder
from selfsup.output import image_progress, message
from selfsup.stages.base import Evaluated, Result, Stage, as_read, data_of
from selfsup.stages.resumable_file import Partial
from selfsup.stages.run_data import require_data_of_run
from selfsup.stages.settings import HELP, Embed
from selfsup.storage.untrusted import as_cell
from selfsup.training.accelerator import stage_device


class Part(NamedTuple):
    """A part of the data: "train" or "test"."""

    name: str
    source: Source


def write_features(
    encoder: nn.Module, parts: list[Part], center: Center, device: torch.device, settings: Embed, partial: Partial
) -> None:
    """Encode what `partial` lacks of all parts, in the order of the data, chunk by chunk.

    Batches are those of an uninterrupted call, so that the rows have the same bits.

    Args:
        encoder: (B, 3, S, S) -> (B, D), in evaluation mode.
        parts: of the data.
        center: the test-time transform.
        device: where to compute.
        settings: with batch_size, save_every, workers and the canvas.
        partial: where the rows go.

    Raises:
        ValueError: features are not finite.
        TooManyUnreadable: more than one image and more than 1 % of a part cannot be read.
    """
    chunks = [
        (part, number, count)
        for part in parts
        for count in [-(-len(part.source) // settings.save_every)]
        for number in range(count)
    ]
    with image_progress("embed") as progress:
        begun = partial.done.rows + sum(map(len, partial.done.unreadable.values()))
        if begun:
            message(f"going on after {begun} images, which are in {partial.path}")
        task = progress.add_task("embed", total=sum(len(part.source) for part in parts), completed=begun)
        for part, number, count in chunks[partial.done.chunks :]:
            features, unreadable = _encode(
                encoder, part.source, (number, count), center, device, settings, lambda n: progress.advance(task, n)
            )
            check_unreadable(part.source, partial.done.unreadable.get(part.name, {}) | unreadable)
            partial.append(features, part.name, unreadable)
    for part in parts:
        tell_cut_short(part.source.names_cut_short())


def _encode(
    encoder: nn.Module,
    source: Source,
    chunk: tuple[int, int],
    center: Center,
    device: torch.device,
    settings: Embed,
    advance: Callable[[int], None],
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Features of chunk c of C, the images [c N / C, (c+1) N / C); and the images that cannot be read."""
    number, count = chunk
    missing = set(range(number * len(source) // count, (number + 1) * len(source) // count))
    reasons: dict[str, str] = {}
    found = [np.zeros((0, 0), np.float32)]
    how = (settings.batch_size, settings.data.canvas, settings.workers)
    for read in encoded(encoder, source, center, device, chunk, reasons, *how):
        read.require_finite()
        found.append(read.features.cpu().numpy())
        missing -= set(read.indices.tolist())
        advance(len(read.features))
    return np.concatenate(found[1:] or found), {index: reasons[source.name(index)] for index in sorted(missing)}


def run_embed(path: Path, settings: Embed) -> Evaluated:
    """Write the features of an exported encoder to a file, or go on with one that was interrupted.

    Args:
        path: a run folder or an encoder.safetensors.
        settings: with `out` and `data.root` set.

    Raises:
        ValueError: `out` is no such file, pyarrow is missing, several processes, or the features are not finite.
    """
    require_data_of_run(path, settings.data)
    out = _checked(settings)
    exported = newest_encoder(path, size=settings.size)
    device = stage_device(settings.device)
    encoder = exported.network(settings.layer).to(device)
    parts = open_parts(settings)
    protocol: dict[str, Any] = {
        "layer": settings.layer,
        **exported.protocol,
        "part": settings.part,
        "data": identity(settings.data.verify, *(part.source for part in parts)),
    }
    content = {
        **protocol,
        **exported.about,
        **as_read(settings.data),
        "batch_size": settings.batch_size,
        "save_every": settings.save_every,
        "device": device.type,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Partial(out.with_name(f"{out.name}.partial"), content)
    write_features(encoder, parts, exported.feed.center(), device, settings, partial)
    done = partial.done
    left_out = sum(map(len, done.unreadable.values()))
    if left_out:
        names = [part.source.name(index) for part in parts for index in done.unreadable[part.name]]
        message(f"{left_out} unreadable images are left out, such as {names[0]}")
    columns = _columns(parts, done.unreadable)
    if out.suffix == ".npy":
        partial.become_array(out, _as_csv(columns))
    else:
        partial.become_table(out, columns | {"path": [_as_unicode(path) for path in columns["path"]]})
    protocol |= {"images": done.rows, "dimension": done.dimension, "unreadable_images": left_out}
    about = exported.about | {"out": str(out)}
    return Evaluated([Result(stage="embed", figures={}, protocol=protocol, about=about)])


def _checked(settings: Embed) -> Path:
    out = Path(settings.out)
    if not settings.out or out.suffix not in (".npy", ".parquet") or out.is_dir():
        raise ValueError(f"--out is {settings.out!r}; give the name of a file that ends in .npy or .parquet")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "embed writes its file from one process, and several were started; call it without accelerate launch"
        )
    if out.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise ValueError(
                "Parquet files need pyarrow: pip install 'selfsup[parquet]', or give --out a name that ends in .npy"
            ) from error
    return out


def open_parts(settings: Embed) -> list[Part]:
    """The parts of the data that `settings.part` names."""
    data = settings.data
    parts = []
    if settings.part != "test":
        parts.append(Part("train", open_part(data, "train")))
    if settings.part == "test":
        parts.append(Part("test", open_part(data, "test")))
    elif settings.part == "all" and (test := open_test_part(data)) is not None:
        parts.append(Part("test", test))
    return parts


def _columns(parts: list[Part], unreadable: dict[str, dict[int, str]]) -> dict[str, list[Any]]:
    """What each row of features is of, in the order of rows."""
    kept = [(part, index) for part in parts for index in range(len(part.source)) if index not in unreadable[part.name]]
    labels = {part.name: part.source.labels.tolist() for part in parts}
    return {
        "row": list(range(len(kept))),
        "path": [part.source.name(index) for part, index in kept],
        "label": [labels[part.name][index] for part, index in kept],
        "part": [part.name for part, _ in kept],
    }


def _as_csv(columns: dict[str, list[Any]]) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(
        [as_cell(item) if isinstance(item, str) else item for item in row]
        for row in zip(*columns.values(), strict=True)
    )
    return text.getvalue().encode("utf-8", "surrogateescape")  # names that are no UTF-8 stay as they are on the disk


def _as_unicode(path: str) -> str:
    """A name as Parquet can hold it: what is no UTF-8 becomes U+FFFD."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


STAGE = Stage(run=run_embed, defaults=lambda path, protocol: Embed(data=data_of(path)), help=HELP["embed"])
