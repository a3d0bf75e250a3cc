"""The form of a pack on a disk: what its manifest says, the columns beside its images, and how both are checked.

A pack is a folder. `selfsup_pack.json` is sealed and written last; `train/` and `test/` hold a part each, as files of
numpy's `.npy` format whose headers follow from the manifest, so that none of them has to be understood.
"""

import hashlib
import json
import os
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from selfsup.data.layout import Split
from selfsup.storage.sealed import DamagedFile, unseal
from selfsup.storage.untrusted import plain_name, read_bytes

MANIFEST = "selfsup_pack.json"
SCHEMA = 1
IMAGES = "images.npy"
FORMS = ("canvas", "jpeg")  # squares of one size, or JPEG files in tar shards
SPLITS: tuple[Split, ...] = ("train", "test")
DIGEST = 32  # bytes of an image's SHA-256
_MOST_IMAGES = 1 << 40
_LONGEST_NAME = 1 << 16  # bytes
_LARGEST = 1 << 16  # side of a square, or channels


class Listed(NamedTuple):
    """What the manifest says of a file."""

    size: int
    sha256: str  # "" of the images, whose digests are a column


@dataclass(frozen=True, kw_only=True)
class PackPart:
    """What the manifest says of a part."""

    images: int
    name_bytes: int  # of the longest name
    classes: tuple[str, ...]
    unreadable: dict[int, str] = field(default_factory=dict)  # number -> reason, of those that could not be read
    cut_short: tuple[int, ...] = ()  # those that were taken as far as they go
    no_labels: str = ""  # what would give labels, where are none
    source: str = ""  # content of the data that were packed, as docs/protocols.md says
    left_out: dict[str, str] = field(default_factory=dict)  # name -> reason, of files that have no row, for people
    files: dict[str, Listed] = field(default_factory=dict)  # name below the pack's folder


@dataclass(frozen=True, kw_only=True)
class Pack:
    """A pack, by its manifest.

    Its `size` is the side of the squares or, of JPEG files, the shorter side.
    """

    form: str
    size: int
    channels: int
    made: dict[str, Any]  # how: settings and versions
    parts: dict[Split, PackPart]

    def as_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **json.loads(json.dumps(asdict(self)))}


# Arrays in files


def npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The header of a `.npy` file, the same from every version of numpy."""
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    length = -(-(len(text) + 11) // 64) * 64 - 10
    return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1) + b"\n"


class Column(NamedTuple):
    """One value, or some, of each image."""

    name: str
    dtype: str
    width: int | None  # numbers of each image; None: one

    def header(self, count: int) -> bytes:
        return npy_header(self.dtype, (count,) if self.width is None else (count, self.width))

    def file(self, values: np.ndarray) -> bytes:
        return self.header(len(values)) + np.ascontiguousarray(values, self.dtype).tobytes()


def columns_of(form: str, name_bytes: int) -> list[Column]:
    """The columns of a part."""
    names = Column("names.npy", f"|S{name_bytes}", None)
    if form == "jpeg":
        return [names]
    return [
        names,
        Column("labels.npy", "<i8", None),
        Column("sizes.npy", "<i8", 2),
        Column("digests.npy", "|u1", DIGEST),
    ]


def image_header(count: int, channels: int, side: int) -> bytes:
    return npy_header("|u1", (count, channels, side, side))


def read_columns(folder: Path, pack: Pack, split: Split) -> list[np.ndarray]:
    """The columns of a part, in the order of `columns_of`.

    Raises:
        DamagedFile: one is missing, another file than was written, or no file of its own.
    """
    part = pack.parts[split]
    found = []
    for column in columns_of(pack.form, part.name_bytes):
        name = f"{split}/{column.name}"
        listed = part.files[name]
        header = column.header(part.images)
        each = np.dtype(column.dtype).itemsize * (column.width or 1)
        if listed.size != len(header) + each * part.images:
            raise damaged(folder / name, f"{part.images:,} images have no such file of {listed.size:,} bytes")
        path = own_file(folder, name, listed.size)
        content = read_bytes(path, listed.size)
        if hashlib.sha256(content).hexdigest() != listed.sha256:
            raise damaged(path, "its SHA-256 differs from the manifest")
        if not content.startswith(header):
            raise damaged(path, "its header is another")
        values = np.frombuffer(content, column.dtype, offset=len(header))
        found.append(values if column.width is None else values.reshape(part.images, column.width))
    return found


def own_file(folder: Path, name: str, size: int) -> Path:
    """The path of a file of a pack. Raises DamagedFile where it is a link, no file, or of another size."""
    path = folder / name
    for place in (path.parent, path):
        try:
            found = place.lstat()
        except OSError as error:
            raise damaged(path, f"{error.strerror}") from error
        wanted = stat.S_ISREG(found.st_mode) if place == path else stat.S_ISDIR(found.st_mode)
        if not wanted:
            kind = "a link" if stat.S_ISLNK(found.st_mode) else "neither a file nor a folder as it was written"
            raise damaged(place, f"it is {kind}")
    if found.st_size != size:
        raise damaged(path, f"{found.st_size:,} bytes, {size:,} expected")
    return path


def damaged(path: Path, why: str) -> DamagedFile:
    return DamagedFile(f"{plain_name(path)} is damaged: {why}\ncopy the pack again, or make it anew: selfsup pack")


# The manifest


def holds_pack(folder: Path) -> bool:
    return os.path.lexists(folder / MANIFEST)


def read_pack(folder: Path) -> Pack:
    """What the manifest of a pack says.

    Raises:
        DamagedFile: it is a link, or says what cannot be.
        ValueError: a later version wrote it.
    """
    path = folder / MANIFEST
    if not stat.S_ISREG(path.lstat().st_mode):
        raise damaged(path, "it is a link, a folder, a pipe or a device")
    content = unseal(path, older=())
    schema = _number(content.get("schema"), 1, 1 << 30, path, "schema")
    if schema > SCHEMA:
        raise ValueError(f"{path} was written by a newer version (schema {schema}, this one reads {SCHEMA})")
    form, made, parts = content.get("form"), content.get("made"), content.get("parts")
    if form not in FORMS or not isinstance(made, dict) or not isinstance(parts, dict) or not parts:
        raise damaged(path, "it names no form, or no parts")
    if not set(parts) <= set(SPLITS):
        raise damaged(path, f"there is no part {plain_name(sorted(set(parts) - set(SPLITS))[0], 80)}")
    size = _number(content.get("size"), 1, _LARGEST, path, "size")
    channels = _number(content.get("channels"), 1, _LARGEST, path, "channels")
    read = {split: _part(parts[split], form, split, path) for split in SPLITS if split in parts}
    return Pack(form=form, size=size, channels=channels, made=made, parts=read)


def _part(entry: Any, form: str, split: Split, path: Path) -> PackPart:
    try:
        count = _number(entry["images"], 1, _MOST_IMAGES, path, "images")
        places = {int(number): str(reason) for number, reason in entry["unreadable"].items()}
        cut_short = tuple(_number(place, 0, count - 1, path, "cut_short") for place in entry["cut_short"])
        if any(not 0 <= place < count for place in places):
            raise damaged(path, f"an unreadable image is none of {count:,}")
        files = {
            _name(name, form, split, path): Listed(_number(listed[0], 0, 1 << 60, path, "size"), str(listed[1]))
            for name, listed in entry["files"].items()
        }
        part = PackPart(
            images=count,
            name_bytes=_number(entry["name_bytes"], 1, _LONGEST_NAME, path, "name_bytes"),
            classes=tuple(str(name) for name in entry["classes"]),
            unreadable=dict(sorted(places.items())),
            cut_short=cut_short,
            no_labels=str(entry["no_labels"]),
            source=str(entry["source"]),
            left_out={str(name): str(reason) for name, reason in entry["left_out"].items()},
            files=files,
        )
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        if isinstance(error, DamagedFile):
            raise
        raise damaged(path, f"the part {split}: {plain_name(repr(error), 200)}") from error
    wanted = {f"{split}/{column.name}" for column in columns_of(form, part.name_bytes)}
    wanted |= {f"{split}/{IMAGES}"} if form == "canvas" else set()
    if missing := sorted(wanted - set(files)):
        raise damaged(path, f"it does not list {missing[0]}")
    return part


def _name(name: str, form: str, split: Split, path: Path) -> str:
    """A file's name, which lies in the folder of its part."""
    folder, _, last = name.partition("/")
    if folder != split or not last or "/" in last or last in (".", "..") or "\0" in last or "\\" in last:
        raise damaged(path, f"it lists {plain_name(name, 200)}, which is no file of the part {split}")
    return name


def _number(value: Any, least: int, most: int, path: Path, what: str) -> int:
    if type(value) is not int or not least <= value <= most:
        raise damaged(path, f"{what} is {plain_name(value, 80)}; wanted {least} to {most}")
    return value
