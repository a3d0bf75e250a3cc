"""Pictures of a page: small, as data URIs, within a number of bytes."""

import base64
import io
import math
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

from selfsup.augment.bands import Bands, Picture
from selfsup.data.base import UnreadableImage
from selfsup.data.sources import Source
from selfsup.report.contents import Example

EDGE = 64  # pixels of the longer side of an example
_STEPS = ((64, 85), (64, 70), (56, 65), (48, 60), (40, 55), (32, 45), (24, 35), (16, 25))  # edge, quality of JPEG


def as_rgb(picture: Picture) -> Image.Image:
    """A picture that can be shown: of more than three channels the first three, of fewer the first one as gray."""
    if isinstance(picture, Bands):
        if len(picture.bands) >= 3:
            return Image.merge("RGB", picture.bands[:3])
        return picture.bands[0].convert("RGB")
    return picture.convert("RGB")


def small(picture: Image.Image, edge: int = EDGE) -> Image.Image:
    """The picture with its longer side at most so many pixels."""
    if max(picture.size) <= edge:
        return picture
    scale = edge / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BOX if scale < 0.25 else Image.Resampling.BILINEAR)


class Examples:
    """Examples of a source, each decoded once; one that cannot be read is a gray square."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._known: dict[int, Example] = {}

    def __call__(self, index: int) -> Example:
        if index not in self._known:
            self._known[index] = self._made(index)
        return self._known[index]

    def _made(self, index: int) -> Example:
        label = int(self._source.labels[index])
        named = self._source.class_name(label) if label >= 0 else ""
        return Example(shown(self._source, index), self._source.name(index), named)


def shown(source: Source, index: int, edge: int = EDGE) -> Image.Image:
    """Image `index` with its longer side at most so many pixels; a gray square where it cannot be read."""
    try:
        picture, size = source.load_for_canvas(index, edge)
        return _unsqueezed(small(as_rgb(picture), edge), size)
    except UnreadableImage:
        return Image.new("RGB", (edge, edge), (128, 128, 128))


def _unsqueezed(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """In the aspect ratio of the original height and width, within reason."""
    ratio = min(4.0, max(0.25, size[1] / max(1, size[0])))
    edge = max(picture.size)
    wanted = (edge, max(1, round(edge / ratio))) if ratio >= 1 else (max(1, round(edge * ratio)), edge)
    return picture if abs(picture.width / picture.height - ratio) < 0.05 * ratio else picture.resize(wanted)


def jpeg(picture: Image.Image, quality: int) -> bytes:
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=quality, optimize=True)
    return content.getvalue()


def data_uri(content: bytes, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


class Album:
    """The pictures of a page: each gets a mark in the text, in whose place the picture stands in the end."""

    def __init__(self) -> None:
        self._pictures: list[Image.Image] = []
        self._uses: list[int] = []
        self._numbers: dict[int, int] = {}  # by the identity of the picture, which stays in the list

    def mark(self, picture: Image.Image) -> str:
        """A mark for the address of a picture; no escaped text holds one."""
        number = self._numbers.setdefault(id(picture), len(self._pictures))
        if number == len(self._pictures):
            self._pictures.append(picture)
            self._uses.append(0)
        self._uses[number] += 1
        return f"\0{number}\0"

    def placed(self, text: str, room: int) -> str:
        """The text with its pictures, of together at most `room` bytes: in the best quality, then size, that fits.

        Raises:
            ValueError: they do not fit in any.
        """
        for edge, quality in _STEPS:
            found = [data_uri(jpeg(small(picture, edge), quality)) for picture in self._pictures]
            if sum(len(uri) * uses for uri, uses in zip(found, self._uses, strict=True)) <= room:
                return _replaced(text, found)
        raise ValueError(f"{len(self._pictures)} pictures do not fit in {room} bytes")


def _replaced(text: str, addresses: Sequence[str]) -> str:
    return re.sub("\0([0-9]+)\0", lambda mark: addresses[int(mark[1])], text)


def sheet(pictures: Sequence[Image.Image], edge: int, columns: int) -> Image.Image:
    """Pictures row by row in cells of so many pixels, each in the middle of its own."""
    pixels = np.full((math.ceil(len(pictures) / columns) * edge, columns * edge, 3), 128, dtype=np.uint8)
    for place, picture in enumerate(pictures):
        shown = np.asarray(small(picture, edge))
        top, left = place // columns * edge, place % columns * edge
        top, left = top + (edge - shown.shape[0]) // 2, left + (edge - shown.shape[1]) // 2
        pixels[top : top + shown.shape[0], left : left + shown.shape[1]] = shown
    return Image.fromarray(pixels)


def sprite(pictures: Sequence[Image.Image], room: int) -> tuple[str, int, int, int]:
    """Pictures side by side in one, of at most `room` bytes: its URI, the edge of a cell, columns, and how many.

    Where they do not fit in a quality in which they can be recognised, only the first ones are taken.
    """
    count = len(pictures)
    edge = min(40, max((max(picture.size) for picture in pictures), default=1))
    while count:
        for quality in (75, 60, 45):
            uri = data_uri(jpeg(sheet(pictures[:count], edge, min(40, count)), quality))
            if len(uri) <= room:
                return uri, edge, min(40, count), count
        count = count * 3 // 4
    return "", edge, 1, 0
