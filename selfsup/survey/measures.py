"""What is measured of each image while it is decoded, in this process or in others."""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from selfsup.augment.bands import Held, Picture, Pixels
from selfsup.data.base import Header, Source, UnreadableImage
from selfsup.data.formats import named_form
from selfsup.data.manifest import DIGEST
from selfsup.data.workers import Fork, leave_signals_to_parent, signals_held_back
from selfsup.storage.untrusted import plain_name
from selfsup.survey.alike import SKETCH, sketch
from selfsup.survey.reasons import why

CHUNK = 64  # images that a process measures at a time
_LEVELS = 256
_KINDS = {"1": "black and white", "L": "gray", "LA": "gray and alpha", "P": "palette", "RGB": "colour"}
_KINDS |= {"RGBA": "colour and alpha", "PA": "palette and alpha"}


class Measures(NamedTuple):
    """Of n images of C channels; of those that cannot be read zeros."""

    sizes: np.ndarray  # (n, 2) int32: height and width
    sketches: np.ndarray  # (n, SKETCH) uint8, see `alike.sketch`
    levels: np.ndarray  # (C, 256) int64: how many pixels of all images have each value
    moments: np.ndarray  # (C, 2) float64: sums over images of the mean and of the mean square of values in [0, 1]
    forms: Counter[str]  # how files are stored, as `JPEG, colour`
    unreadable: dict[int, str]  # number -> why, in words
    misnamed: list[int]  # images whose names say another format than that of the file
    digests: np.ndarray  # (n, DIGEST) uint8, of the pixels; zeros where `of_pixels` was not asked for


def measure(source: Source, rows: Sequence[int], of_pixels: bool) -> Measures:
    """Decode images in full, and measure them.

    Args:
        source: any.
        rows: numbers of images in it.
        of_pixels: whether a digest of the pixels is wanted, of data that have no files.
    """
    count, channels = len(rows), source.channels
    found = Measures(
        np.zeros((count, 2), np.int32),
        np.zeros((count, SKETCH), np.uint8),
        np.zeros((channels, _LEVELS), np.int64),
        np.zeros((channels, 2)),
        Counter(),
        {},
        [],
        np.zeros((count, DIGEST), np.uint8),
    )
    for place, row in enumerate(rows):
        try:
            picture = _picture(source.load_for_crop(row))
        except UnreadableImage as error:
            found.unreadable[row] = why(source, error, row)
            continue
        header = source.header(row)
        if header is not None:
            found.forms[form_of(header)] += 1
            if named_form(source.name(row).removesuffix("]")) not in ("", _family(header)):
                found.misnamed.append(row)
        _add(found, place, picture)
        if of_pixels:
            pixels = hashlib.sha256(f"{picture.size}".encode() + picture.tobytes())
            found.digests[place] = np.frombuffer(pixels.digest()[:DIGEST], np.uint8)
    return found


def form_of(header: Header) -> str:
    """How a file is stored, in words: `PNG, 16-bit`, `JPEG, colour`."""
    return f"{_family(header)}, {header.depth or _KINDS.get(header.mode, header.mode)}"


def _family(header: Header) -> str:
    """A file of several JPEG pictures begins with one, and is called as one."""
    return "JPEG" if header.form == "MPO" else header.form


def _picture(held: Held) -> Picture:
    return held.picture() if isinstance(held, Pixels) else held


def _add(found: Measures, place: int, picture: Picture) -> None:
    bands = [picture] if isinstance(picture, Image.Image) else picture.bands
    levels = np.array([band.histogram() for band in bands], np.int64).reshape(-1, _LEVELS)
    values = np.arange(_LEVELS) / (_LEVELS - 1)
    found.levels[:] += levels
    found.moments[:] += np.stack([levels @ values, levels @ values**2], axis=1) / (picture.width * picture.height)
    found.sizes[place] = picture.height, picture.width
    found.sketches[place] = sketch(picture)


class _Chunks(Dataset[Measures]):
    """Measures the images of a chunk."""

    def __init__(self, source: Source, of_pixels: bool) -> None:
        self.source, self.of_pixels = source, of_pixels

    def __len__(self) -> int:
        return -(-len(self.source) // CHUNK)

    def __getitem__(self, number: int) -> Measures:
        first = number * CHUNK
        return measure(self.source, range(first, min(first + CHUNK, len(self.source))), self.of_pixels)


def all_measures(source: Source, of_pixels: bool, workers: int) -> Iterator[Measures]:
    """The measures of all images in their order, chunk by chunk; nothing depends on the number of workers.

    Args:
        source, of_pixels: as for `measure`.
        workers: processes that decode beside this one; 0: this one decodes.
    """
    chunks = _Chunks(source, of_pixels)
    if workers == 0 or len(chunks) == 1:
        yield from map(chunks.__getitem__, range(len(chunks)))
        return
    with signals_held_back():
        loader: DataLoader[Measures] = DataLoader(
            chunks,
            batch_size=None,
            num_workers=min(workers, len(chunks)),
            collate_fn=_as_it_is,
            worker_init_fn=leave_signals_to_parent,
            multiprocessing_context=Fork() if sys.platform == "linux" else None,
            generator=torch.Generator(),
        )
        measured = iter(loader)
    done = 0
    try:
        for found in measured:
            yield found
            done += len(found.sizes)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        first, many = plain_name(source.name(min(done, len(source) - 1))), 2 * CHUNK * (workers + 1)
        raise ValueError(
            f"a process that decodes images was lost, at {first} or one of the {many:,} images after it: for want of "
            "memory, or a decoder broke down; give fewer --workers, or look at a part of the data alone"
        ) from error


def _as_it_is(item: Any) -> Any:
    return item
