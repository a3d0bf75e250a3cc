"""Packs of JPEG files: large photographs are made smaller once, for crops at full resolution at less decoding."""

import hashlib
import io
import itertools
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image

from selfsup.data.base import Source, UnreadableImage, check_unreadable
from selfsup.data.content import file_content
from selfsup.data.encoded import pack_names
from selfsup.data.formats import FORMATS
from selfsup.data.labelled import image_names
from selfsup.data.layout import Split
from selfsup.data.pack_manifest import Listed, PackPart
from selfsup.data.pack_squares import write_columns
from selfsup.data.squeezed import cores
from selfsup.storage.untrusted import create

_SHARD = 1 << 28  # bytes of images, from which on the next shard is begun
_LONGEST = 65_500  # side of a JPEG file in pixels
_AT_ONCE = 64  # images that are in memory
_SAMPLE = 32  # images by which the size is foretold
_SUFFIXES = {"JPEG": "jpg", "JPEG2000": "jp2", "TIFF": "tif"}  # others are called as their format


class Entry(NamedTuple):
    """An image as it goes into a shard."""

    content: bytes
    suffix: str


def bytes_of_shards(source: Source, side: int, quality: int) -> int:
    """About how large the part of a pack will be, by a few images spread evenly."""
    count = min(_SAMPLE, len(source))
    found = []
    for number in range(count):
        try:
            found.append(len(entry(source, number * len(source) // count, side, quality).content))
        except UnreadableImage:
            continue
    mean = sum(found) / len(found) if found else 0.0
    return int(len(source) * (1.1 * mean + 2_048))


def entry(source: Source, index: int, side: int, quality: int) -> Entry:
    """An image with the shorter side `side`: its file as it is where that is no larger, else a new JPEG file.

    A file of more than 8 bits a pixel, and one that is cut short, is encoded anew. Raises UnreadableImage.
    """
    picture, (height, width) = source.load_for_canvas(index, side)
    scale = side / min(height, width)
    new = (max(side, round(width * scale)), max(side, round(height * scale)))
    if (scale >= 1 or max(new) > _LONGEST) and not source.is_cut_short(index) and source.depth(index) is None:
        content = file_content(source, index)
        if content:
            return Entry(content, _suffix(content))
    if not isinstance(picture, Image.Image):
        raise ValueError("JPEG files hold red, green and blue: leave --data.channels out, or give --data.canvas")
    if scale < 1:
        picture = picture.resize(new, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Entry(buffer.getvalue(), "jpg")


def _suffix(content: bytes) -> str:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        form = str(image.format)
    return _SUFFIXES.get(form, form.lower())


def write_shards(
    folder: Path, split: Split, source: Source, content: str, how: tuple[int, int], advance: Callable[[int], None]
) -> PackPart:
    """Write a part of a pack, as WebDataset has it: `000000017.jpg` with its class number in `000000017.cls`.

    Args:
        folder: of the pack; that of the part is made.
        split: which part.
        source: its images; those that cannot be read are left out, and are in the manifest by name.
        content: what tells the data that are packed.
        how: the shorter side in pixels, and the quality.
        advance: told how many images more are done.

    Raises:
        TooManyUnreadable: more than one image and more than 1 % cannot be read.
        OSError: the disk refuses.
    """
    (folder / split).mkdir()
    unreadable: dict[int, str] = {}
    files: dict[str, Listed] = {}

    def made(index: int) -> Entry | str:
        try:
            return entry(source, index, *how)
        except UnreadableImage as error:
            return error.reason

    rows = iter(range(len(source)))
    with ThreadPoolExecutor(cores()) as threads:
        written = 0
        while written + len(unreadable) < len(source):
            name = f"{split}/{len(files):06d}.tar"
            with _Shard(folder / name) as shard:
                while shard.size < _SHARD and (some := list(itertools.islice(rows, _AT_ONCE))):
                    for index, found in zip(some, threads.map(made, some), strict=True):
                        if isinstance(found, str):
                            unreadable[index] = found
                            check_unreadable(source, unreadable)
                        else:
                            shard.add(f"{written:09d}", found, int(source.labels[index]))
                            written += 1
                    advance(len(some))
            files[name] = shard.listed()
    kept = [name for row, name in enumerate(image_names(source)) if row not in unreadable]
    names = pack_names(kept)
    return PackPart(
        images=written,
        name_bytes=max(1, names.dtype.itemsize),
        classes=source.classes,
        no_labels=source.found.no_labels,
        source=content,
        files=files | write_columns(folder, "jpeg", split, [names], max(1, names.dtype.itemsize)),
        left_out={source.name(row): reason for row, reason in sorted(unreadable.items())},
    )


class _Shard:
    """A tar archive that is written once, from its beginning to its end; equal content makes equal bytes."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0
        self._digest = hashlib.sha256()

    def __enter__(self) -> "_Shard":
        self._file: BinaryIO = create(self.path)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        with self._file:
            if kind is None:
                self._write(bytes(2 * tarfile.BLOCKSIZE))  # the end of an archive

    def _write(self, content: bytes) -> None:
        self._digest.update(content)
        self.size += len(content)
        self._file.write(content)

    def add(self, key: str, found: Entry, label: int) -> None:
        self._add(f"{key}.{found.suffix}", found.content)
        if label >= 0:
            self._add(f"{key}.cls", str(label).encode())

    def _add(self, name: str, content: bytes) -> None:
        header = tarfile.TarInfo(name)
        header.size, header.mode = len(content), 0o644
        padding = bytes(-len(content) % tarfile.BLOCKSIZE)
        self._write(header.tobuf(tarfile.USTAR_FORMAT) + content + padding)

    def listed(self) -> Listed:
        return Listed(self.size, self._digest.hexdigest())
