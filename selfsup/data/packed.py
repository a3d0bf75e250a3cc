"""Packs, which `selfsup pack` makes of other data: squares that are mapped from one file, or JPEG files in shards."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from selfsup.data.base import NoTestPart, NoTrainingPart, Source
from selfsup.data.columns import Columns
from selfsup.data.found import Found
from selfsup.data.joined import OfParts
from selfsup.data.layout import Split
from selfsup.data.levels import Levels
from selfsup.data.pack_check import check_images, check_shards
from selfsup.data.pack_manifest import (
    IMAGES,
    Pack,
    damaged,
    image_header,
    own_file,
    read_columns,
    read_pack,
)
from selfsup.data.shards import Shards
from selfsup.data.squeezed import Squeezed
from selfsup.data.tar import open_tars


class Packed(Squeezed):
    """Squares of a pack, mapped: nothing is read but what is asked for, and all processes share it.

    Args:
        folder: of the pack.
        pack: its manifest.
        split: which part.

    Raises:
        DamagedFile: see `pack_manifest.read_columns`; the digests of the images are compared by `verify` alone.
    """

    mapped = True

    def __init__(self, folder: Path, pack: Pack, split: Split) -> None:
        self.folder, self.pack, self.split = folder, pack, split
        part = pack.parts[split]
        names, labels, sizes, digests = read_columns(folder, pack, split)
        if labels.min() < -1 or labels.max() >= len(part.classes) or sizes.min() < 0:
            raise damaged(folder / split, "a label is of no class, or a size is negative")
        images = _mapped(folder, pack, split)
        super().__init__(
            images,
            torch.from_numpy(sizes.astype(np.int64)),
            part.unreadable,
            torch.from_numpy(labels.astype(np.int64)),
            part.classes,
            str(folder / split),
        )
        self.paths, self.digests = names, digests
        self.cut_short = frozenset(part.cut_short)

    def name(self, index: int) -> str:
        return f"{self.origin}[{self.paths[index].decode('utf-8', 'surrogateescape')}]"

    def names_cut_short(self) -> list[str]:
        rows = self.rows.tolist() if self.cut_short else []
        return [self.name(index) for index, row in enumerate(rows) if row in self.cut_short]

    def is_cut_short(self, index: int) -> bool:
        return int(self.rows[index]) in self.cut_short

    def select(self, rows: Tensor) -> Self:
        part = super().select(rows)
        part.paths, part.digests = self.paths[rows.numpy()], self.digests[rows.numpy()]
        return part

    def verify(self, advance: Callable[[int], None] = lambda images: None) -> None:
        """Read all squares of the part. Raises DamagedFile where one is not what was packed."""
        columns = read_columns(self.folder, self.pack, self.split)
        check_images(self.folder, self.pack, self.split, columns, advance)


def _mapped(folder: Path, pack: Pack, split: Split) -> Tensor:
    count, channels, side = pack.parts[split].images, pack.channels, pack.size
    header = image_header(count, channels, side)
    name = f"{split}/{IMAGES}"
    size = len(header) + count * channels * side**2
    if pack.parts[split].files[name].size != size:
        raise damaged(folder / name, f"{count:,} images have no such file")
    path = own_file(folder, name, size)
    with open(path, "rb") as file:
        if file.read(len(header)) != header:
            raise damaged(path, "its header is another")
    # Read-only, for a private writable mapping counts as memory in full; nobody writes to the images of a source.
    pixels = np.memmap(path, np.uint8, "r", len(header), (count, channels, side, side))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(pixels)


def open_pack(folder: Path, split: Split, columns: Columns, levels: Levels) -> Source:
    """A part of a pack.

    Args:
        folder: of the pack.
        split: which part.
        columns, levels: as for `open_tars`, of JPEG files.

    Raises:
        NoTestPart, NoTrainingPart: it has no such part.
        ValueError: it is damaged, or written by a later version.
    """
    pack = read_pack(folder)
    if split not in pack.parts:
        raise (NoTestPart if split == "test" else NoTrainingPart)(f"the pack {folder} has no {split} part")
    part = pack.parts[split]
    source: Source
    if pack.form == "canvas":
        source = Packed(folder, pack, split)
        read_as = [f"a pack: squares of {pack.size} pixels, mapped"]
        if part.unreadable:
            read_as.append(f"{len(part.unreadable):,} could not be read when they were packed")
    else:
        source = _of_shards(folder, pack, split, columns, levels)
        read_as = [f"a pack: files of {pack.size} pixels, the shorter side, or fewer"]
    source.found = Found(tuple(read_as), no_labels=f"{part.no_labels}, and pack them anew")
    return source


def _of_shards(folder: Path, pack: Pack, split: Split, columns: Columns, levels: Levels) -> Source:
    """The images of a pack's shards, with the names and the classes that they had where they were packed."""
    part = pack.parts[split]
    (names,) = read_columns(folder, pack, split)
    shards = sorted(name for name in part.files if name.endswith(".tar"))
    files = [own_file(folder, name, part.files[name].size) for name in shards]
    source = open_tars(Shards(folder, files, divided=True), split, columns, levels)
    highest = int(source.labels.max())
    if len(source) != part.images or highest >= max(0, len(part.classes)):
        raise damaged(folder / split, f"its shards hold {len(source):,} images of {part.images:,}, or other labels")
    source.paths, source.classes = names, part.classes
    return source


def check_pack(folder: Path, advance: Callable[[int], None]) -> Pack:
    """Read a pack whole, and compare it with its checksums.

    Args:
        folder: of the pack.
        advance: told how many images more have been read.

    Raises:
        DamagedFile: something differs; of squares the first is named.
    """
    pack = read_pack(folder)
    for split, part in pack.parts.items():
        if pack.form == "canvas":
            Packed(folder, pack, split).verify(advance)
        else:
            check_shards(folder, pack, split)
            advance(part.images)
    return pack


def check_canvas(source: Source, canvas: int | None) -> None:
    """Raise ValueError where images of a pack cannot be had at this canvas, or not beside images of other data."""
    if isinstance(source, OfParts):
        for part in source.parts:
            check_canvas(part, canvas)
            if isinstance(part, Packed) and canvas is None:
                raise ValueError(
                    f"{part.folder} is a pack of squares of {part.pack.size} pixels, read together with other data: "
                    f"give --data.canvas {part.pack.size}, or pack all of them together"
                )
    elif isinstance(source, Packed) and canvas not in (None, source.pack.size):
        raise ValueError(
            f"data.canvas is {canvas}, and {source.folder} is a pack of squares of {source.pack.size} pixels; give "
            f"--data.canvas {source.pack.size} or None, or pack the files anew: selfsup pack OUT --data.canvas {canvas}"
        )
