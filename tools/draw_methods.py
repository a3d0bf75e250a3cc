"""Draw the flow of data of each method: `python -m tools.draw_methods`.

Writes the drawings that docs/methods shows, from the descriptions in `tools.method_flows`. Boxes stand in columns and
rows; an arrow goes straight where it can, else with two bends. Every word stands on a light ground of its own and lines
are of a middle gray, so that a drawing reads on a light page and on a dark one.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parent / "checkout.py"))["again_as_module"](__file__)

import argparse
import html
from itertools import pairwise

from selfsup.output import print_figures, program
from tools.checkout import ROOT
from tools.method_flows import FLOWS, Arrow, Box, Flow

_COLUMN, _ROW, _EDGE = 142, 90, 14  # distances of centres; the margin
_WIDTH, _HEIGHT = 104, 58  # of a box in one row
_LINE, _INK, _PAPER, _STOP = "#768390", "#1c2024", "#eef1f4", "#d64545"
_NARROW, _WIDE = frozenset(" ,.'fijlrtI1"), frozenset("mwMW")  # letters
_FONT = "font-family=\"system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif\""
# Ground and frame of a box by what it is, and what the legend calls it.
_KINDS = {
    "data": ("#e4e8ee", "#7b8794", "data"),
    "trained": ("#cfe2ff", "#2563b8", "trained by gradient"),
    "average": ("#e6defa", "#7a5cc7", "moving average"),
    "memory": ("#ffe7c2", "#c2700c", "memory"),
    "rows": ("#f3f5f7", "#7b8794", "embeddings"),
    "step": ("#fbdfe6", "#b0307a", "found without gradient"),
    "loss": ("#cdeedd", "#14804a", "loss"),
}
_DASHED = {"average": "7 4", "write": "3 3"}  # by the kind of an arrow
_Point = tuple[float, float]


class _Place:
    """Where a box lies."""

    def __init__(self, box: Box) -> None:
        first, last = box.rows
        self.x = _EDGE + _WIDTH / 2 + box.column * _COLUMN
        self.top = _EDGE + first * _ROW
        self.bottom = _EDGE + last * _ROW + _HEIGHT
        self.y = (self.top + self.bottom) / 2
        self.left, self.right = self.x - _WIDTH / 2, self.x + _WIDTH / 2


def drawing(flow: Flow) -> str:
    """The SVG of a flow of data."""
    places = {box.name: _Place(box) for box in flow.boxes}
    width = max(place.right for place in places.values()) + _EDGE
    bottom = max(place.bottom for place in places.values())
    lines = [_arrow(arrow, places) for arrow in flow.arrows]
    shapes = [shape for shape, _ in lines]
    shapes += [_box(box, places[box.name]) for box in flow.boxes]
    shapes += [words for _, words in lines if words]
    legend, height = _legend(flow, bottom + 26, width)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'height="{height:g}" role="img" {_FONT}>',
            f"<title>{html.escape(flow.title)}</title>",
            f"<desc>{html.escape(flow.told)}</desc>",
            *shapes,
            *legend,
            "</svg>",
            "",
        ]
    )


def _box(box: Box, place: _Place) -> str:
    ground, frame, _ = _KINDS[box.kind]
    radius = _HEIGHT / 2 if box.kind == "rows" else 7
    rect = (
        f'<rect x="{place.left:g}" y="{place.top:g}" width="{_WIDTH}" height="{place.bottom - place.top:g}" '
        f'rx="{radius:g}" fill="{ground}" stroke="{frame}" stroke-width="1.5"/>'
    )
    lines = [(box.name if box.text is None else box.text, 13, 600), *((line, 11, 400) for line in box.detail)]
    step = 15
    first = place.y - step * (len(lines) - 1) / 2
    return rect + "".join(
        _words(place.x, first + step * number, text, size, weight) for number, (text, size, weight) in enumerate(lines)
    )


def _words(x: float, y: float, text: str, size: int, weight: int = 400) -> str:
    return (
        f'<text x="{x:g}" y="{y + 0.35 * size:g}" font-size="{size}" font-weight="{weight}" text-anchor="middle" '
        f'fill="{_INK}">{html.escape(text)}</text>'
    )


def _width(text: str) -> float:
    """About how wide a small text is, in any of the fonts."""
    return sum(4.2 if letter in _NARROW else 9.6 if letter in _WIDE else 6.6 for letter in text)


def _label(x: float, y: float, text: str) -> str:
    """Words on a ground of their own, with their middle at (x, y)."""
    width = _width(text) + 12
    return f'<rect x="{x - width / 2:.1f}" y="{y - 9:g}" width="{width:.1f}" height="18" rx="9" fill="{_PAPER}"/>' + (
        _words(x, y, text, 11)
    )


def _arrow(arrow: Arrow, places: dict[str, _Place]) -> tuple[str, str]:
    """The line, and the words on it."""
    points = _route(arrow, places)
    dashes = f' stroke-dasharray="{_DASHED[arrow.kind]}"' if arrow.kind in _DASHED else ""
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
    shape = f'<path d="{path}" fill="none" stroke="{_LINE}" stroke-width="1.6" stroke-linejoin="round"{dashes}/>'
    shape += _head(*points[-2:])
    # In the middle of the longest part.
    (x0, y0), (x1, y1) = max(
        pairwise(points), key=lambda ends: abs(ends[1][0] - ends[0][0]) + abs(ends[1][1] - ends[0][1])
    )
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    if arrow.stopped:  # two strokes across the line
        shape += "".join(
            f'<path d="M{x + at - 3:g} {y + 7:g}L{x + at + 3:g} {y - 7:g}" stroke="{_STOP}" stroke-width="2"/>'
            for at in (-3, 3)
        )
    return shape, _label(x, y, arrow.label) if arrow.label else ""


def _head(before: _Point, tip: _Point) -> str:
    """The point of an arrow, along the last part of its line."""
    (x0, y0), (x, y) = before, tip
    along = (x > x0) - (x < x0), (y > y0) - (y < y0)
    back = x - 8 * along[0], y - 8 * along[1]
    across = 4 * along[1], 4 * along[0]
    corners = [tip, (back[0] + across[0], back[1] + across[1]), (back[0] - across[0], back[1] - across[1])]
    return f'<path d="M{"L".join(f"{x:g} {y:g}" for x, y in corners)}Z" fill="{_LINE}"/>'


def _route(arrow: Arrow, places: dict[str, _Place]) -> list[_Point]:
    start, end = places[arrow.start], places[arrow.end]
    if start.x == end.x:  # down or up
        down = end.y > start.y
        return [(start.x, start.bottom if down else start.top), (end.x, end.top if down else end.bottom)]
    # Level where the middle of one box is at the height of the other.
    for one, other in ((start, end), (end, start)):
        if other.top <= one.y <= other.bottom:
            return [(start.right, one.y), (end.left, one.y)]
    if end.left - start.right > _COLUMN:  # below what lies between them
        return [(start.x, start.bottom), (start.x, end.y), (end.left, end.y)]
    bend = end.left - (_COLUMN - _WIDTH) / 2
    return [(start.right, start.y), (bend, start.y), (bend, end.y), (end.left, end.y)]


def _legend(flow: Flow, top: float, width: float) -> tuple[list[str], float]:
    """What colours and dashes mean, of those that occur; and the height of the drawing with it."""
    kinds = [kind for kind in _KINDS if any(box.kind == kind for box in flow.boxes)]
    entries: list[tuple[str, str]] = [(kind, _KINDS[kind][2]) for kind in kinds]
    if any(arrow.kind == "write" for arrow in flow.arrows):
        entries.append(("write", "written after the step"))
    if any(arrow.stopped for arrow in flow.arrows):
        entries.append(("stopped", "no gradient"))
    shapes, x, y = [], float(_EDGE), top
    for kind, text in entries:
        wide = _width(text) + 12
        if x + wide + 24 > width:
            x, y = float(_EDGE), y + 24
        if kind in _KINDS:
            ground, frame, _ = _KINDS[kind]
            shapes.append(
                f'<rect x="{x:g}" y="{y - 6:g}" width="16" height="12" rx="3" fill="{ground}" stroke="{frame}"/>'
            )
        elif kind == "write":
            shapes.append(
                f'<path d="M{x:g} {y:g}h18" stroke="{_LINE}" stroke-width="1.6" stroke-dasharray="{_DASHED["write"]}"/>'
            )
        else:
            shapes += [f'<path d="M{x + at:g} {y + 6:g}l6 -12" stroke="{_STOP}" stroke-width="2"/>' for at in (3, 9)]
        shapes.append(_label(x + 22 + wide / 2, y, text))
        x += wide + 36
    return shapes, y + 12 + _EDGE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "methods" / "drawn", help="for the drawings")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for name, flow in FLOWS.items():
        (asked.out / f"{name}.svg").write_text(drawing(flow))
    print_figures({"drawn": list(FLOWS)})


if __name__ == "__main__":
    with program():
        main()
