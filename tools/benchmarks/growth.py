"""How what a piece of work takes grows with its size: the exponent of the power that fits best."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import torch

from selfsup.output import print_figures
from tools.benchmarks.side_by_side import about, alternate, short


def exponent(sizes: Sequence[float], figures: Sequence[float]) -> float:
    """Of the power of the size that fits best, by least squares of logarithms.

    Raises:
        ValueError: there are not two different sizes, or not all numbers are above 0.
    """
    if len(set(sizes)) < 2 or min(*sizes, *figures) <= 0:
        raise ValueError(f"no exponent fits sizes {list(sizes)}; give two different ones or more, all above 0")
    x, y = ([math.log(value) for value in values] for values in (sizes, figures))
    return statistics.linear_regression(x, y).slope


def growth_line(
    name: str, over: str, sizes: Sequence[int], figures: Mapping[str, Sequence[float]]
) -> dict[str, object]:
    """The line that says how figures grow: {"seconds": ..., "bytes": ...}, one value of each for each size."""
    line: dict[str, object] = {"name": name, "over": over, "sizes": list(sizes)}
    for what, values in figures.items():
        line[what] = [short(value) for value in values]
        line[f"exponent_of_{what}"] = short(exponent(sizes, values))
    return line


def measure_growth(
    name: str,
    over: str,
    sizes: Sequence[int],
    make: Callable[[int], Mapping[str, Callable[[], object]]],
    runs: int,
    packages: Sequence[str] = (),
    **facts: object,
) -> None:
    """Print a line for each contestant: median seconds of the processor at each size, and their exponent.

    All contestants at all sizes take turns, so that a busy moment of the machine hits all sizes.

    Args:
        name, over: of the work, and of what grows.
        sizes: in ascending order.
        make: returns the contestants at a size.
        runs: of each.
        packages: whose versions the lines have.
    """
    cpu = torch.device("cpu")
    works = {(size, contestant): work for size in sizes for contestant, work in make(size).items()}
    times = alternate({f"{contestant}/{size}": work for (size, contestant), work in works.items()}, runs, cpu)
    for contestant in dict.fromkeys(contestant for _, contestant in works):
        seconds = [statistics.median(times[f"{contestant}/{size}"]) for size in sizes]
        line = growth_line(f"{name}_growth/{contestant}", over, sizes, {"seconds": seconds})
        print_figures(line | facts | {"runs": runs} | about(cpu, *packages))
