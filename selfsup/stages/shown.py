"""Images beside those that were found for them: a page of HTML that holds its pictures, or one large picture."""

import io
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import PIL.Image
from PIL import ImageDraw, ImageFont, ImageOps

from selfsup.data.base import Source
from selfsup.report.markup import text
from selfsup.report.page import without_scripts
from selfsup.report.pictures import data_uri, jpeg, shown
from selfsup.storage.untrusted import plain_name

SIDE = 128  # pixels of a picture's longer side
_GAP, _CAPTION = 8, 32  # pixels between cells of the large picture, and of the two lines below each
_LETTERS = 20  # of a name below a picture
MOST_CELLS = 4000  # of the large picture
_LONGEST = 200  # letters of a name in HTML


class Cell(NamedTuple):
    """An image with what is written below it."""

    picture: PIL.Image.Image
    name: str
    caption: str


def cell(source: Source, index: int, caption: str) -> Cell:
    """Image `index`, with its longer side of `SIDE` pixels; one that cannot be read is gray."""
    return Cell(ImageOps.contain(shown(source, index, SIDE), (SIDE, SIDE)), source.name(index), caption)


def as_html(rows: Iterator[Sequence[Cell]], title: str, lead: str) -> Iterator[bytes]:
    """A page in the form of a report's, piece by piece, without scripts and of any length.

    Args:
        rows: what was found, a sequence of cells for each image that was asked for, which is its first.
        title: of the page.
        lead: markup below the title.
    """
    for piece in without_scripts(title, lead, (_answer(number, row) for number, row in enumerate(rows, start=1))):
        yield piece.encode(errors="backslashreplace")


def _answer(number: int, row: Sequence[Cell]) -> str:
    """One image with those that were found for it, the most alike first."""
    query, *found = row
    cells = "".join(f"<li>{_in_html(one)}<span class='name'>{_last(one.name)}</span></li>" for one in found)
    beside = f"<ol class='found'>{cells}</ol>" if found else "<p>Nothing was found: this image cannot be read.</p>"
    return (
        f"<section class='answer' aria-labelledby='image-{number}'>"
        f"<h2 id='image-{number}'>{_last(query.name)}</h2>"
        f"<div class='beside-query'><div class='asked'>{_in_html(query)}</div>{beside}</div></section>\n"
    )


def _in_html(one: Cell) -> str:
    """A picture above its caption; all of its name where one points at it."""
    alternative = text(f"{one.name}: {one.caption}")
    return (
        f"<img src='{data_uri(jpeg(one.picture, 85))}' alt='{alternative}' title='{text(one.name)}'>"
        f"<span class='caption'>{text(one.caption)}</span>"
    )


def _last(name: str) -> str:
    """The end of a path that tells images apart, the folder and the file, as markup that breaks between words."""
    end = text("/".join(plain_name(name, _LONGEST).rsplit("/", 2)[-2:]))
    return end.replace("/", "/<wbr>").replace("_", "_<wbr>")


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
