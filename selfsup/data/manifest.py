"""What a data set is, image by image: kept in the run folder, so that it can be said what has changed."""

import hashlib
import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from selfsup.storage.untrusted import parse_json, plain_name, read_bytes

DIGEST = 16  # bytes of an entry's digest
KEPT = 8  # of them in a file: enough to tell what has changed
_LARGEST = 2**30  # bytes that a file may unpack to


@dataclass(frozen=True)
class Manifest:
    """The entries of a data set in its order: files, or blocks of an array's images.

    Equal for equal content, wherever it lies and whatever the folder, archive or array file is called.
    """

    names: np.ndarray  # (M,) bytes: paths below the data's folder; places in an array, as [17] or [0:25]
    sizes: np.ndarray  # (M,) int64 bytes; -1 where there is no file that can be read
    digests: np.ndarray  # (M, 16) uint8
    labels: np.ndarray  # (N,) int64; -1 where there is none
    classes: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """40 hexadecimal digits of all of it."""
        width = max(1, self.names.dtype.itemsize)
        header = {"entries": len(self.names), "width": width, "images": len(self.labels), "classes": self.classes}
        found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        for column in (self.names, self.sizes.astype("<i8"), self.digests, self.labels.astype("<i8")):
            found.update(np.ascontiguousarray(column).tobytes())
        return found.hexdigest()[:40]

    def packed(self) -> bytes:
        """As a file: a line of JSON, then the columns, compressed, with half of each digest."""
        header = {
            "content": self.digest,
            "entries": len(self.names),
            "width": self.names.dtype.itemsize,
            "images": len(self.labels),
            "classes": self.classes,
        }
        columns = (self.names, self.sizes.astype("<i8"), self.digests[:, :KEPT], self.labels.astype("<i8"))
        rows = b"".join(np.ascontiguousarray(column).tobytes() for column in columns)
        return json.dumps(header).encode() + b"\n" + zlib.compress(rows, 1)


@dataclass(frozen=True)
class Kept:
    """A manifest as it was read from a file."""

    content: str  # `digest` of the manifest that was written
    manifest: Manifest  # with half of each digest


def read_manifest(path: Path) -> Kept:
    """What `Manifest.packed` made.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is damaged.
    """
    try:
        line, _, packed = read_bytes(path).partition(b"\n")
        header = parse_json(line, path)
        entries, width, images = (int(header[name]) for name in ("entries", "width", "images"))
        counts = (entries * width, entries * 8, entries * KEPT, images * 8)
        if min(entries, width, images) < 0 or sum(counts) > _LARGEST:
            raise ValueError("it counts more than there can be")
        rows = zlib.decompressobj().decompress(packed, sum(counts) + 1)
        if len(rows) != sum(counts):
            raise ValueError(f"{len(rows)} bytes of {sum(counts)}")
        ends = np.cumsum(counts).tolist()
        names, sizes, digests, labels = (rows[end - count : end] for end, count in zip(ends, counts, strict=True))
        manifest = Manifest(
            names=np.frombuffer(names, f"S{width}") if entries else np.zeros(0, "S1"),
            sizes=np.frombuffer(sizes, "<i8"),
            digests=np.frombuffer(digests, np.uint8).reshape(entries, KEPT),
            labels=np.frombuffer(labels, "<i8"),
            classes=tuple(str(name) for name in header["classes"]),
        )
        return Kept(str(header["content"]), manifest)
    except (ValueError, KeyError, TypeError, zlib.error, OverflowError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


# What has changed


def changes(old: Manifest, new: Manifest) -> str:
    """In words: how many entries were added, removed, changed and renamed, and how labels differ, the first by name."""
    what = "images" if len(new.names) and new.names[0].startswith(b"[") else "files"
    before, after = _by_name(old), _by_name(new)
    changed = [name for name, content in after.items() if before.get(name, content) != content]
    added = [name for name in after if name not in before]
    removed = [name for name in before if name not in after]
    renamed = _renamed({name: before[name] for name in removed}, {name: after[name] for name in added})
    origins = set(renamed.values())
    parts = [
        _counted(changed, "changed", what),
        _counted([name for name in added if name not in renamed], "added", what),
        _counted([name for name in removed if name not in origins], "removed", what),
    ]
    if renamed:
        name, origin = next(iter(renamed.items()))
        parts.append(f"{len(renamed)} {what} renamed, the first from {_shown(origin)} to {_shown(name)}")
    parts += _labels(old, new)
    return "; ".join(part for part in parts if part) or "the order of the files differs"


Entries = dict[bytes, tuple[int, int]]  # name -> size and digest


def _by_name(manifest: Manifest) -> Entries:
    digests = np.ascontiguousarray(manifest.digests[:, :KEPT]).view("<u8").reshape(-1)
    rows = zip(manifest.names.tolist(), manifest.sizes.tolist(), digests.tolist(), strict=True)
    return {name: (size, digest) for name, size, digest in rows}


def _renamed(removed: Entries, added: Entries) -> dict[bytes, bytes]:
    """New names of removed content: new name -> old name, each old name once."""
    places: dict[tuple[int, int], list[bytes]] = {}
    for name, content in reversed(removed.items()):
        places.setdefault(content, []).append(name)
    return {name: places[content].pop() for name, content in added.items() if places.get(content)}


def _counted(names: list[bytes], verb: str, what: str) -> str:
    return f"{len(names)} {what} {verb}, the first {_shown(names[0])}" if names else ""


def _labels(old: Manifest, new: Manifest) -> Iterable[str]:
    if old.classes != new.classes:
        yield f"the class names were {_some(old.classes)} and are {_some(new.classes)}"
    if len(old.labels) != len(new.labels):
        if len(new.names) != len(new.labels):  # places are of several images
            yield f"there were {len(old.labels)} images and are {len(new.labels)}"
    elif len(old.names) == len(new.names) and (old.names == new.names).all():
        rows = np.flatnonzero(old.labels != new.labels)
        if len(rows):
            first = int(rows[0])
            name = _shown(new.names[first]) if len(new.names) == len(new.labels) else f"[{first}]"
            yield f"{len(rows)} labels changed, the first of {name} from {_class(old, first)} to {_class(new, first)}"


def _class(manifest: Manifest, row: int) -> str:
    label = int(manifest.labels[row])
    if 0 <= label < len(manifest.classes):
        return plain_name(manifest.classes[label], longest=60)
    return "none" if label < 0 else str(label)


def _some(classes: tuple[str, ...]) -> str:
    shown = ", ".join(plain_name(name, longest=60) for name in classes[:4])
    return f"({shown}{', ...' if classes[4:] else ''})"


def _shown(name: bytes) -> str:
    return plain_name(name.decode("utf-8", "surrogateescape"))
