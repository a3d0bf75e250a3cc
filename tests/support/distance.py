"""How far the numbers of several processes are from those of one."""

from typing import Any

from torch import Tensor

from tests.contracts.contracts import equal


def distance(actual: Any, expected: Any) -> float:
    """Largest difference of a tensor, or of any of a dictionary's, relative to the largest value of that tensor.

    Gradients, and whatever is smaller than 1e-6, are measured by the largest of the dictionary. Infinite where whole
    numbers differ or something is missing.
    """
    if isinstance(expected, Tensor):
        actual, expected = {"": actual}, {"": expected}
    if actual.keys() != expected.keys():
        return float("inf")
    sizes = {name: float(value.double().abs().max()) for name, value in expected.items()}
    return max(
        _distance(actual[name], value, size if size > 1e-6 else max(sizes.values()))
        for (name, value), size in zip(expected.items(), sizes.values(), strict=True)
    )


def _distance(actual: Tensor, expected: Tensor, size: float) -> float:
    if equal(actual, expected):
        return 0.0
    if not expected.is_floating_point() or actual.shape != expected.shape:
        return float("inf")
    found = float((actual - expected).abs().max()) / size
    return found if found == found else float("inf")
