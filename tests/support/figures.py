"""Golden figures: inputs and outputs of the published code, and the rule by which ours agree with them."""

import numpy as np
import torch
from torch import Tensor

from tests.support.places import GOLDEN


def golden(case: str) -> dict[str, Tensor]:
    """The arrays of one case as tensors; text arrays are left out."""
    with np.load(GOLDEN / f"{case}_0.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files if arrays[name].dtype.kind != "U"}


def golden_text(case: str, name: str) -> list[str]:
    with np.load(GOLDEN / f"{case}_0.npz") as arrays:
        return [str(text) for text in arrays[name]]


def recipe_weight(number: int, kind: str, shape: list[int], scale: float) -> Tensor:
    """One tensor of a network as the golden figures' generator draws it (seed 0)."""
    z = np.random.RandomState(number).standard_normal(shape)
    if kind == "kernel":
        z *= np.sqrt(2 / np.prod(shape[:-1]))
    elif kind == "gamma":
        z = 1 + 0.1 * z
    else:
        z = abs(1 + 0.1 * z) if kind == "moving_variance" else 0.1 * z
    return torch.from_numpy((scale * z).astype(np.float32))


def assert_agree(actual: Tensor, expected: Tensor, tolerance: float, name: str = "") -> None:
    """max |a - b| <= tolerance * max |b| over the whole array."""
    assert actual.shape == expected.shape, name
    error = (actual.detach().double() - expected.double()).abs().max()
    assert error <= tolerance * expected.double().abs().max(), f"{name}: error {error:.3e}"
