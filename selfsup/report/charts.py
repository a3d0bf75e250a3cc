"""The drawings of a report: lines over steps, bars, a heat map of classes, a map of points."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from selfsup.report.drawing import FAINT, GRID, INK, SERIES, Box, Dots, Drawing, Line, Shape, Words, shortened, width_of

WIDTH, HEIGHT = 520.0, 230.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 16.0, 30.0, 34.0
_BARS = 400.0  # width of bars
_LONGEST = 18  # letters of a class name beside a heat map


class Series(NamedTuple):
    """Values over x, both of one length; their name stands in the legend."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str
    dashed: bool = False


def number(value: float) -> str:
    """A number as people write it, in about three digits."""
    if value == round(value) and abs(value) < 1e6:
        return f"{value:,.0f}"
    if abs(value) >= 1e6 or 0 < abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.3g}"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from low to high: multiples of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [count * step for count in range(first, math.floor(high / step + 1e-9) + 1)]


class _Frame:
    """Where values lie on the paper."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], logarithmic: bool = False) -> None:
        self.x, self.y, self.logarithmic = x, y, logarithmic

    def place(self, x: float, y: float) -> tuple[float, float]:
        share = (x - self.x[0]) / ((self.x[1] - self.x[0]) or 1)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT), self.height(y)

    def height(self, y: float) -> float:
        y = math.log10(y) if self.logarithmic else y
        return HEIGHT - _BOTTOM - (y - self.y[0]) / ((self.y[1] - self.y[0]) or 1) * (HEIGHT - _TOP - _BOTTOM)

    def axes(self, x_name: str) -> list[Shape]:
        """Lines and numbers of both axes."""
        shapes: list[Shape] = []
        for value in ticks(*self.y):
            height = HEIGHT - _BOTTOM - (value - self.y[0]) / ((self.y[1] - self.y[0]) or 1) * (HEIGHT - _TOP - _BOTTOM)
            shapes.append(Line([(_LEFT, height), (WIDTH - _RIGHT, height)], GRID, 1))
            if not self.logarithmic or value == round(value):
                said = f"1e{value:.0f}" if self.logarithmic else number(value)
                shapes.append(Words(_LEFT - 8, height, said, "end"))
        for value in ticks(*self.x, about=6):
            across = self.place(value, 1)[0]
            shapes.append(Words(across, HEIGHT - _BOTTOM + 14, number(value), "middle"))
        shapes.append(Words(WIDTH - _RIGHT, HEIGHT - 7, x_name, "end"))
        return shapes


def _range(values: Sequence[float], least: float | None = None) -> tuple[float, float]:
    low, high = min(values), max(values)
    if least is not None:
        low = min(low, least)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return (low if low == least else low - room), high + room


def lines(series: Sequence[Series], title: str, x_name: str = "step", from_zero: bool = False) -> Drawing:
    """Lines over steps; of one point, a dot. Values that are not finite are left out.

    Args:
        series: at least one, with at least one finite value.
        title: of the drawing.
        x_name: of the horizontal axis.
        from_zero: whether the vertical axis begins at 0.
    """
    kept = [_finite(one) for one in series]
    kept = [one for one in kept if one.y]
    xs, ys = ([value for one in kept for value in getattr(one, name)] for name in "xy")
    frame = _Frame((min(xs), max(xs)), _range(ys, 0.0 if from_zero else None))
    shapes = frame.axes(x_name)
    across = _LEFT
    for one in kept:
        points = [frame.place(x, y) for x, y in zip(one.x, one.y, strict=True)]
        if len(points) > 1:
            shapes.append(Line(points, one.colour, 2, one.dashed))
        else:
            shapes.append(Dots(points, one.colour, 3.5))
        shapes += [Line([(across, 12), (across + 18, 12)], one.colour, 3, one.dashed)]
        shapes.append(Words(across + 24, 12, one.name, colour=INK))
        across += 24 + width_of(one.name, 12) + 22
    told = "; ".join(
        f"{one.name} from {number(one.y[0])} to {number(one.y[-1])}, lowest {number(min(one.y))}, highest "
        f"{number(max(one.y))}"
        for one in kept
    )
    return Drawing(
        WIDTH, HEIGHT, tuple(shapes), title, f"Over {x_name}s {number(min(xs))} to {number(max(xs))}: {told}"
    )


def _finite(one: Series) -> Series:
    pairs = [(x, y) for x, y in zip(one.x, one.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return one._replace(x=[x for x, _ in pairs], y=[y for _, y in pairs])


def decay(values: Sequence[float], title: str, x_name: str) -> Drawing:
    """Positive values in their order, on a logarithmic axis; what is below 1e-8 of the largest is not shown."""
    least = max(values) * 1e-8
    kept = [value for value in values if value > least]
    logs = [math.log10(value) for value in kept]
    frame = _Frame((1, len(values)), _range(logs), logarithmic=True)
    points = [frame.place(place, value) for place, value in enumerate(kept, 1)]
    shapes: list[Shape] = [*frame.axes(x_name)]
    shapes.append(Line(points, SERIES[0], 2) if len(points) > 1 else Dots(points, SERIES[0], 3))
    half = next((place for place, value in enumerate(kept, 1) if value < kept[0] / 2), len(kept))
    told = f"{len(kept)} of {len(values)} shown, from {number(kept[0])} to {number(kept[-1])}; half at number {half}"
    return Drawing(WIDTH, HEIGHT, tuple(shapes), title, told)


class Bar(NamedTuple):
    """A share in [0, 1] and what it is of."""

    name: str
    share: float
    colour: str


def bars(found: Sequence[Bar], title: str) -> Drawing:
    """Shares, one below the other, each with its per cent."""
    names = max(width_of(bar.name, 13) for bar in found) + 14
    height, room = 26.0, _BARS - names - 56
    shapes: list[Shape] = []
    for place, bar in enumerate(found):
        y = 6 + place * height
        shapes.append(Words(0, y + 9, bar.name, colour=INK, size=13))
        shapes.append(Box(names, y, room, 18, GRID, 0.7))
        if bar.share > 0:
            shapes.append(Box(names, y, max(1.0, room * bar.share), 18, bar.colour))
        shapes.append(Words(names + room + 10, y + 9, f"{bar.share:.1%}", colour=INK, size=13))
    told = "; ".join(f"{bar.name} {bar.share:.1%}" for bar in found)
    return Drawing(_BARS, 6 + height * len(found), tuple(shapes), title, told)


def heat_map(matrix: Sequence[Sequence[int]], names: Sequence[str], title: str) -> Drawing:
    """A confusion matrix: rows are classes, columns what their images were taken for; a row's shares are its colours.

    Args:
        matrix: (C, C) counts.
        names: of the C classes.
        title: of the drawing.
    """
    count = len(names)
    shown = [shortened(name, _LONGEST) for name in names]
    left = max(width_of(name, 11) for name in shown) + 14
    cell = min(38.0, max(5.0, (WIDTH - left - 8) / count))
    top = 30.0
    shapes: list[Shape] = [Words(left, 10, "taken for (columns in the order of the rows)", size=11)]
    for row, counts in enumerate(matrix):
        total = sum(counts)
        y = top + row * cell
        if cell >= 11:
            shapes.append(Words(left - 8, y + cell / 2, shown[row], "end", INK, 11))
            shapes.append(Words(left + (row + 0.5) * cell, top - 7, str(row + 1), "middle", FAINT, 10))
        for column, value in enumerate(counts):
            if not value:
                continue
            share = value / total
            colour = SERIES[2] if row == column else SERIES[1]
            strength = 0.06 + 0.54 * share  # so that black numbers stay readable on it
            shapes.append(Box(left + column * cell, y, cell - 1, cell - 1, colour, strength))
            if cell >= 24:
                place = left + (column + 0.5) * cell - 0.5
                shapes.append(Words(place, y + cell / 2, str(value), "middle", INK, 10 if value < 1000 else 8))
    pairs = [(counts[b], names[a], names[b]) for a, counts in enumerate(matrix) for b in range(count) if a != b]
    worst = sorted((pair for pair in pairs if pair[0]), reverse=True)[:3]
    told = "; ".join(f"{times} of {own} taken for {taken}" for times, own, taken in worst) or "no mistakes"
    width = max(left + cell * count + 8, left + 250)
    return Drawing(width, top + cell * count + 6, tuple(shapes), title, f"Most frequent: {told}")


def scatter(points: Sequence[tuple[float, float]], groups: Sequence[int], title: str, told: str) -> Drawing:
    """Points in [0, 1] x [0, 1], coloured by the number of their group; -1 is faint.

    Args:
        points: (x, y), from left and from top.
        groups: of each point; colours repeat after ten.
        title: of the drawing.
        told: what it shows, in words.
    """
    side, edge = 560.0, 10.0
    radius = 3.0 if len(points) <= 600 else 2.0
    shapes: list[Shape] = []
    for group in sorted(set(groups)):
        own = [
            (edge + x * (side - 2 * edge), edge + y * (side - 2 * edge))
            for (x, y), of in zip(points, groups, strict=True)
            if of == group
        ]
        shapes.append(Dots(own, FAINT if group < 0 else SERIES[group % len(SERIES)], radius))
    return Drawing(side, side, tuple(shapes), title, told)
