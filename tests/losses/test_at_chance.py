"""The loss of an encoder that answers all images alike: the logarithm of the number of candidates, as docs/collapse.md
has it."""

import math

import pytest
import torch

from selfsup.losses.contrastive import info_nce, nt_xent
from selfsup.losses.nce import softmax_over_bank
from selfsup.losses.pairing import Same
from selfsup.losses.sup_con import class_pairs, sup_con

IMAGES, KEYS, DIM, TEMPERATURE = 24, 100, 8, 0.2


def alike(count: int) -> torch.Tensor:
    """(count, D) rows that are all the same unit vector."""
    return torch.full((count, DIM), DIM**-0.5, dtype=torch.float64)


def test_simclr() -> None:
    views = [alike(IMAGES)] * 2
    for reduction, times in (("mean2n", 1), ("simclr", 2)):
        loss, accuracy = nt_xent(views, views, 0, TEMPERATURE, reduction)  # type: ignore[arg-type]
        assert float(loss) == pytest.approx(times * math.log(2 * IMAGES - 1))
        assert accuracy == 0


def test_moco_and_moco_v3() -> None:
    loss, _ = info_nce(alike(IMAGES), alike(IMAGES), alike(KEYS), TEMPERATURE)
    assert float(loss) == pytest.approx(math.log(1 + KEYS))
    numbers = torch.arange(IMAGES)
    one_way, _ = info_nce(alike(IMAGES), alike(IMAGES), alike(IMAGES), TEMPERATURE, mask=Same(numbers, numbers))
    assert float(2 * TEMPERATURE * 2 * one_way) == pytest.approx(4 * TEMPERATURE * math.log(IMAGES))


def test_supcon() -> None:
    labels = torch.arange(IMAGES) % 3
    positive, own = class_pairs(labels, labels, 0, 2, 2)
    loss, _ = sup_con(alike(2 * IMAGES), alike(2 * IMAGES), positive, None, TEMPERATURE, 0.07, own)
    assert float(loss) == pytest.approx(TEMPERATURE / 0.07 * math.log(2 * IMAGES - 1))


def test_instdisc() -> None:
    loss, _ = softmax_over_bank(alike(IMAGES) / TEMPERATURE, alike(KEYS), torch.arange(IMAGES))
    assert float(loss) == pytest.approx(math.log(KEYS))
