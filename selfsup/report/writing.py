"""A report becomes a file: the page within its size, and its drawings as PNG files."""

import base64
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfsup.report.contents import Contents, EmbeddingMap
from selfsup.report.drawing import png
from selfsup.report.markup import text
from selfsup.report.page import LIMIT, page
from selfsup.report.pictures import Album, sprite
from selfsup.report.plots import Plot, plots
from selfsup.report.sections import sections
from selfsup.storage import checkpoint
from selfsup.storage.untrusted import plain_name

_PICTURES, _THUMBS = 900_000, 500_000  # bytes of examples, and of the map's pictures
_ROOMIER = (1.0, 0.5, 0.25)  # shares of these that are tried where the rest is large
_MOST_GROUPS = 2**15 - 1  # classes that a map's 16-bit numbers tell apart


def report_page(contents: Contents) -> bytes:
    """The page, of at most `LIMIT` bytes.

    Raises:
        ValueError: it does not fit, even with small pictures.
    """
    drawn = plots(contents)
    size = 0
    for share in _ROOMIER:
        content = _page(contents, drawn, share).encode(errors="backslashreplace")
        size = len(content)
        if size <= LIMIT:
            return content
    raise ValueError(f"the report takes {size:,} bytes, and {LIMIT:,} are allowed; give fewer --images")


def _page(contents: Contents, drawn: dict[str, Plot], share: float) -> str:
    album = Album()
    data: dict[str, Any] = {"curves": {name: plot.data for name, plot in drawn.items() if plot.data is not None}}
    if contents.map is not None:
        data["map"] = map_data(contents.map, round(share * _THUMBS))
    name = Path(contents.evidence.name)
    lead = f"<p class='lead'>{text(contents.title, 300)} · {text(name, 300)}</p>"
    shown = page(name.name or str(name), lead, sections(contents, drawn, album), data)
    return album.placed(shown, round(share * _PICTURES))


def map_data(found: EmbeddingMap, room: int) -> dict[str, Any]:
    """A map for the scripts of the page: places as 16-bit numbers, and pictures of at most `room` bytes."""
    uri, edge, columns, count = sprite([example.picture for _, example in found.thumbs], room)
    groups = []
    if int(found.labels.max()) >= 0:
        names = [plain_name(name, 60) for name in found.names[:_MOST_GROUPS]]
        groups.append({"name": "class", "names": names, "of": _coded(found.labels, np.int16)})
    if found.clusters is not None:
        names = [str(number + 1) for number in range(int(found.clusters.max()) + 1)]
        groups.append({"name": "cluster", "names": names, "of": _coded(found.clusters, np.int16)})
    if not groups:
        groups.append({"name": "class", "names": [], "of": _coded(torch.full_like(found.labels, -1), np.int16)})
    thumbs = {
        "uri": uri,
        "edge": edge,
        "columns": columns,
        "rows": _coded(torch.tensor([row for row, _ in found.thumbs[:count]], dtype=torch.int64), np.uint32),
        "names": [plain_name(Path(example.name).name or example.name, 60) for _, example in found.thumbs[:count]],
    }
    layouts = [
        {
            "name": one.name,
            "note": one.note,
            "rows": None if one.rows is None else _coded(one.rows, np.uint32),
            "xy": _coded((one.places * 65535).round().long(), np.uint16),
        }
        for one in found.layouts
    ]
    first = found.layouts.index(found.shown_first)
    return {"count": len(found.labels), "first": first, "layouts": layouts, "groups": groups, "thumbs": thumbs}


def _coded(numbers: Tensor, kind: type[np.integer[Any]]) -> str:
    """Whole numbers as little-endian bytes in base64; what is too large for their kind becomes its largest."""
    bounds = np.iinfo(kind)
    values = numbers.clamp(int(bounds.min), int(bounds.max)).numpy().astype(np.dtype(kind).newbyteorder("<"))
    return base64.b64encode(values.tobytes()).decode()


def write_report(contents: Contents, out: Path) -> int:
    """Write the page to `out`, old or new and never between; returns its bytes.

    Raises:
        StorageError: it cannot be written.
        ValueError: it does not fit.
    """
    content = report_page(contents)
    out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_atomically(out, content)
    return len(content)


def write_drawings(contents: Contents, folder: Path) -> list[Path]:
    """Write every drawing of the page as a PNG file into a folder; returns their places.

    Raises:
        StorageError: one cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, plot in plots(contents).items():
        kept = "".join(letter if letter.isalnum() or letter == "_" else "_" for letter in name)
        place = folder / f"{kept}.png"
        checkpoint.write_atomically(place, png(plot.drawing))
        written.append(place)
    return written
