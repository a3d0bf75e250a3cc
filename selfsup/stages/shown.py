"""Images beside those that were found for them: a page of HTML that holds its pictures, or one large picture."""

import html
import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import PIL.Image
from PIL import ImageDraw, ImageFont, ImageOps

from selfsup.data.base import Source
from selfsup.report.pictures import data_uri, jpeg, shown
from selfsup.storage.untrusted import plain_name

SIDE = 128  # pixels of a picture's longer side
_GAP, _CAPTION = 8, 32  # pixels between cells of the large picture, and of the two lines below each
_LETTERS = 20  # of a name below a picture
MOST_CELLS = 4000  # of the large picture
_LONGEST = 200  # letters of a name in HTML
_STYLE = (
    "body{font-family:sans-serif}table{border-collapse:collapse}td{padding:6px;vertical-align:top;max-width:140px;"
    "font-size:12px;overflow-wrap:anywhere}tr{border-bottom:1px solid #ccc}td:first-child{background:#eee}"
)


class Cell(NamedTuple):
    """An image with what is written below it."""

    picture: PIL.Image.Image
    name: str
    caption: str


def cell(source: Source, index: int, caption: str) -> Cell:
    """Image `index`, with its longer side of `SIDE` pixels; one that cannot be read is gray."""
    return Cell(ImageOps.contain(shown(source, index, SIDE), (SIDE, SIDE)), source.name(index), caption)


def as_html(rows: Iterator[Sequence[Cell]], title: str) -> Iterator[bytes]:
    """A page, piece by piece: a row of the table for each sequence of cells, the first of which was asked for."""
    yield f"<!DOCTYPE html>\n<meta charset='utf-8'><title>{html.escape(title)}</title>\n".encode()
    yield f"<style>{_STYLE}</style>\n<table>\n".encode()
    for row in rows:
        yield f"<tr>{''.join(map(_in_html, row))}</tr>\n".encode()
    yield b"</table>\n"


def _in_html(one: Cell) -> str:
    name = html.escape(plain_name(one.name, _LONGEST))
    return f"<td><img src='{data_uri(jpeg(one.picture, 85))}' alt=''><br>{html.escape(one.caption)}<br>{name}</td>"


def as_picture(rows: Sequence[Sequence[Cell]]) -> PIL.Image.Image:
    """One picture, a row of cells for each sequence. Names are shortened to their ends, in plain letters."""
    width, height = SIDE + _GAP, SIDE + _CAPTION + _GAP
    large = PIL.Image.new("RGB", (max(map(len, rows)) * width + _GAP, len(rows) * height + _GAP), (255, 255, 255))
    draw, font = ImageDraw.Draw(large), ImageFont.load_default()
    for down, row in enumerate(rows):
        for right, one in enumerate(row):
            left, top = _GAP + right * width, _GAP + down * height
            large.paste(one.picture, (left + (SIDE - one.picture.width) // 2, top + SIDE - one.picture.height))
            name = plain_name(one.name, _LONGEST).encode("ascii", "backslashreplace").decode()
            draw.text((left, top + SIDE + 2), one.caption, fill=(0, 0, 0), font=font)
            draw.text((left, top + SIDE + 16), name[-_LETTERS:], fill=(90, 90, 90), font=font)
    return large


def as_png(rows: Sequence[Sequence[Cell]]) -> bytes:
    """`as_picture` as a file."""
    content = io.BytesIO()
    as_picture(rows).save(content, "PNG")
    return content.getvalue()
