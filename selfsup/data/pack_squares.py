"""Packs of squares: every image is decoded once, and squeezed as a canvas would have it."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from selfsup.data.base import Source, check_unreadable
from selfsup.data.encoded import pack_names
from selfsup.data.labelled import image_names
from selfsup.data.layout import Split
from selfsup.data.pack_manifest import DIGEST, IMAGES, Listed, PackPart, columns_of, image_header
from selfsup.data.squeezed import squeeze
from selfsup.storage.untrusted import create

_AT_ONCE = 1 << 26  # bytes of squares that are in memory


def bytes_of_squares(source: Source, canvas: int) -> int:
    """About how large the part of a pack will be."""
    return len(source) * (source.channels * canvas**2 + DIGEST + 100)


def write_squares(
    folder: Path, split: Split, source: Source, content: str, canvas: int, advance: Callable[[int], None]
) -> PackPart:
    """Write a part of a pack.

    Args:
        folder: of the pack; that of the part is made.
        split: which part.
        source: its images.
        content: what tells the data that are packed.
        canvas: side of the squares.
        advance: told how many images more are done.

    Raises:
        TooManyUnreadable: more than one image and more than 1 % cannot be read.
        OSError: the disk refuses.
    """
    (folder / split).mkdir()
    each = max(1, _AT_ONCE // (source.channels * canvas**2))
    sizes, digests, unreadable = [], bytearray(), dict[int, str]()
    with create(folder / split / IMAGES) as file:
        file.write(image_header(len(source), source.channels, canvas))
        for rows in torch.arange(len(source)).split(each):
            images, found, failed = squeeze(source, rows, canvas)
            unreadable |= failed
            check_unreadable(source, unreadable)
            for image in images.numpy():
                digests += hashlib.sha256(image.data).digest()
            file.write(images.numpy().data)
            sizes.append(found)
            advance(len(rows))
    names = pack_names(image_names(source))
    values = [
        names,
        source.labels.numpy(),
        torch.cat(sizes).numpy(),
        np.frombuffer(digests, np.uint8).reshape(len(source), DIGEST),
    ]
    width = max(1, names.dtype.itemsize)
    files = {f"{split}/{IMAGES}": Listed((folder / split / IMAGES).stat().st_size, "")}
    return PackPart(
        images=len(source),
        name_bytes=width,
        classes=source.classes,
        unreadable=unreadable,
        cut_short=tuple(row for row in range(len(source)) if source.is_cut_short(row)),
        no_labels=source.found.no_labels,
        source=content,
        files=files | write_columns(folder, "canvas", split, values, width),
    )


def write_columns(
    folder: Path, form: str, split: Split, values: list[np.ndarray], name_bytes: int
) -> dict[str, Listed]:
    """Write the columns of a part, in the order of `columns_of`; what the manifest says of their files."""
    listed = {}
    for column, rows in zip(columns_of(form, name_bytes), values, strict=True):
        file = column.file(rows)
        with create(folder / split / column.name) as opened:
            opened.write(file)
        listed[f"{split}/{column.name}"] = Listed(len(file), hashlib.sha256(file).hexdigest())
    return listed
