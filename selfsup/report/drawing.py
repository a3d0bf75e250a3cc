"""Drawings of a few kinds of shapes, written as SVG for a page and as PNG by Pillow: the same shapes in both."""

import html
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from PIL import Image, ImageDraw, ImageFont

from selfsup.storage.untrusted import plain_name

Anchor = Literal["start", "middle", "end"]
# What a colour is for; the page's style says it for light and dark, here it is said for PNG, in light. Those of series
# have a contrast of 3 to white and to near black, and differ for people who confuse red and green.
PAPER, INK, FAINT, GRID = "paper", "ink", "faint", "grid"
SERIES = tuple(f"s{number}" for number in range(10))
_LIGHT = {
    PAPER: "#ffffff",
    INK: "#1c2024",
    FAINT: "#5c646e",
    GRID: "#dfe3e8",
    **dict(
        zip(
            SERIES,
            "#2563b8 #c2570c #14804a #b0307a #7a5cc7 #8a6a00 #0e7c86 #c0392b #5b6b7a #6a7f10".split(),
            strict=True,
        )
    ),
}
_ROOM, _TITLE = 14.0, 26.0  # around the drawing in a PNG, and for the title above it
_SCALE = 3  # pixels of a PNG for a unit of the drawing
_LONGEST = 1_000  # letters of a description
_LETTER = 0.56  # width of a letter over its size, on average


@dataclass(frozen=True)
class Line:
    """Through points (x, y), in one of the colours."""

    points: Sequence[tuple[float, float]]
    colour: str
    width: float = 1.5
    dashed: bool = False


@dataclass(frozen=True)
class Dots:
    """A disc at each point."""

    points: Sequence[tuple[float, float]]
    colour: str
    radius: float


@dataclass(frozen=True)
class Box:
    """A filled rectangle; `strength` in [0, 1] of its colour over the paper."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    strength: float = 1.0


@dataclass(frozen=True)
class Words:
    """A line of text whose middle height is at y."""

    x: float
    y: float
    text: str
    anchor: Anchor = "start"
    colour: str = FAINT
    size: float = 12.0


Shape: TypeAlias = Line | Dots | Box | Words


@dataclass(frozen=True)
class Drawing:
    """Shapes on a paper of this width and height, and what they show, for those who do not see them."""

    width: float
    height: float
    shapes: tuple[Shape, ...]
    title: str  # words may come from anyone: they are escaped where they are written
    description: str


def width_of(text: str, size: float) -> float:
    """About how wide a text is."""
    return len(text) * size * _LETTER


def shortened(text: str, most: int) -> str:
    """At most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


# SVG


def svg(drawing: Drawing) -> str:
    """An `<svg>` that stands in a page; its colours are classes of the page's style."""
    return (
        f'<svg class="drawing" viewBox="0 0 {drawing.width:g} {drawing.height:g}" role="img" '
        f'style="max-width:{drawing.width * 1.15:.0f}px" '
        f'aria-label="{_escaped(f"{drawing.title}. {drawing.description}")}">'
        + "".join(map(_element, drawing.shapes))
        + "</svg>"
    )


def _escaped(word: str) -> str:
    return html.escape(plain_name(word, _LONGEST))


def _element(shape: Shape) -> str:
    if isinstance(shape, Line):
        dashes = ' stroke-dasharray="4 3"' if shape.dashed else ""
        return f'<path class="line {shape.colour}" d="M{_path(shape.points)}" stroke-width="{shape.width:g}"{dashes}/>'
    if isinstance(shape, Dots):  # lines of no length with round ends: a few bytes each
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in shape.points)
        return (
            f'<path class="line {shape.colour}" d="{dots}" stroke-linecap="round" stroke-width="{2 * shape.radius:g}"/>'
        )
    if isinstance(shape, Box):
        strength = "" if shape.strength == 1 else f' fill-opacity="{shape.strength:.2f}"'
        return (
            f'<rect class="fill {shape.colour}" x="{shape.x:.1f}" y="{shape.y:.1f}" width="{shape.width:.1f}" '
            f'height="{shape.height:.1f}"{strength}/>'
        )
    return (
        f'<text class="fill {shape.colour}" x="{shape.x:.1f}" y="{shape.y:.1f}" font-size="{shape.size:g}" '
        f'text-anchor="{shape.anchor}" dominant-baseline="central">{_escaped(shape.text)}</text>'
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


# PNG


def png(drawing: Drawing) -> bytes:
    """The drawing below its title as a PNG file, in light colours, three pixels to a unit, with some room around it."""
    size = (drawing.width + 2 * _ROOM) * _SCALE, (drawing.height + 2 * _ROOM + _TITLE) * _SCALE
    picture = Image.new("RGB", (round(size[0]), round(size[1])), _LIGHT[PAPER])
    pen = ImageDraw.Draw(picture)
    _drawn(pen, Words(0, -_TITLE / 2, drawing.title, colour=INK, size=15))
    for shape in drawing.shapes:
        _drawn(pen, shape)
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return content.getvalue()


def _at(x: float, y: float) -> tuple[float, float]:
    """The pixel of a place of a drawing."""
    return (x + _ROOM) * _SCALE, (y + _ROOM + _TITLE) * _SCALE


def _drawn(pen: ImageDraw.ImageDraw, shape: Shape) -> None:
    colour = _LIGHT[shape.colour]
    if isinstance(shape, Line):
        places = [_at(x, y) for x, y in shape.points]
        width = max(1, round(shape.width * _SCALE))
        if shape.dashed:
            for part in _dashes(places, 4 * _SCALE, 3 * _SCALE):
                pen.line(part, fill=colour, width=width)
        elif len(places) > 1:
            pen.line(places, fill=colour, width=width, joint="curve")
    elif isinstance(shape, Dots):
        for x, y in shape.points:
            pen.circle(_at(x, y), shape.radius * _SCALE, fill=colour)
    elif isinstance(shape, Box):
        corners = [*_at(shape.x, shape.y), *_at(shape.x + shape.width, shape.y + shape.height)]
        pen.rectangle(corners, fill=_mixed(colour, shape.strength))
    else:
        font = ImageFont.load_default(shape.size * _SCALE)
        anchor = {"start": "lm", "middle": "mm", "end": "rm"}[shape.anchor]
        pen.text(
            (shape.x * _SCALE, shape.y * _SCALE),
            plain_name(shape.text, _LONGEST),
            fill=colour,
            font=font,
            anchor=anchor,
        )


def _dashes(points: list[tuple[float, float]], drawn: float, left_out: float) -> list[list[tuple[float, float]]]:
    """The pieces of straight lines that a dashed line shows."""
    parts = []
    for (x, y), (to_x, to_y) in itertools.pairwise(points):
        length = ((to_x - x) ** 2 + (to_y - y) ** 2) ** 0.5
        along, step = 0.0, drawn + left_out
        while along < length:
            ends = (along / length, min(along + drawn, length) / length)
            parts.append([(x + (to_x - x) * end, y + (to_y - y) * end) for end in ends])
            along += step
    return parts


def _mixed(colour: str, strength: float) -> tuple[int, ...]:
    """A colour laid over white."""
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return tuple(round(255 + (part - 255) * strength) for part in parts)
