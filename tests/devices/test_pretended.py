"""What is computed in double precision for a device that has none: the figures and the bits of the CPU."""

from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

import selfsup.augment.views as views_module
from selfsup.augment import presets
from selfsup.augment.views import Center, Views
from selfsup.batch import Batch, Key
from selfsup.cluster.dbscan import cosine_graph, dbscan
from selfsup.cluster.jaccard import jaccard_graph
from selfsup.cluster.kmeans import spherical_kmeans
from selfsup.cluster.neighbours import nearest_neighbours
from selfsup.data.base import ArraySource
from selfsup.data.resident import Resident
from selfsup.evaluation.accuracy import first_choices
from selfsup.evaluation.clustering import cluster_figures
from selfsup.evaluation.confusion import calibration_error
from selfsup.evaluation.features import Features
from selfsup.evaluation.knn import knn_accuracies
from selfsup.evaluation.logistic import probe_features
from selfsup.evaluation.retrieval import retrieval_figures
from selfsup.losses.diagnostics import effective_rank
from selfsup.losses.mining import distance_weights, draw
from selfsup.losses.pairs import distance_similarity, margin_loss
from selfsup.monitor.health import Health
from selfsup.randomness import Stream, permutation, permutations, random_bits, uniform
from selfsup.stages.students import agreement
from tests.support.pretended import DEVICE, OnDevice, on_cpu, pretended

CPU = torch.device("cpu")
Place = Callable[[Tensor], Tensor]  # a tensor of the CPU, or the same on the device


def rows(count: int, dim: int, seed: int = 0) -> Tensor:
    found = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(found).float()


LABELS = torch.arange(60) % 5
FEATURES = Features(rows(60, 8), LABELS, torch.arange(60))


def _neighbours(place: Place, device: torch.device) -> object:
    bank = place(rows(60, 8))
    return nearest_neighbours(bank, bank, 5, exclude=place(torch.arange(60)), cosine=True)


def _probe(place: Place, device: torch.device) -> object:
    return probe_features(FEATURES, FEATURES, (1e-2, 1e-1), 20, device)


def _health(place: Place, device: torch.device) -> object:
    return Health(by_labels=True).figures(place(rows(60, 8)), place(LABELS))


def _mined(place: Place, device: torch.device) -> object:
    negative = place(LABELS[:, None] != LABELS)
    drawn = distance_weights(place(rows(60, 8) @ rows(60, 8).T), negative, dim=8)
    return draw(drawn, uniform(0, Stream.MINING, place(torch.arange(60)), 4, epoch=place(torch.tensor(3))))


def _margin(place: Place, device: torch.device) -> object:
    """The loss, and the gradients of rows and of a boundary that lie on the device."""
    own, beta = (place(value).requires_grad_() for value in (rows(12, 8), torch.full((12,), 1.2)))
    same = LABELS[:12, None] == LABELS[:12]
    loss = margin_loss(distance_similarity(own, own), same & ~torch.eye(12, dtype=torch.bool), ~same, beta)
    loss.backward()
    assert own.grad is not None
    assert beta.grad is not None
    assert own.grad.device == beta.grad.device == device
    return loss.detach(), own.grad, beta.grad


def _clusters(place: Place, device: torch.device) -> object:
    images = place(rows(60, 8))
    found = dbscan(jaccard_graph(images, 0.7, 8, 3), 0.7, 2)
    others = dbscan(cosine_graph(images, 0.3), 0.3, 2)
    return found, others, spherical_kmeans(images, 5, 2, 5, 0)[0]


def _random(place: Place, device: torch.device) -> object:
    numbers, step = place(torch.arange(9)), place(torch.tensor(2**33 + 5))
    bits, order = random_bits(7, Stream.NOISE, numbers, 5, step), permutation(7, Stream.SHUFFLE, 40, step)
    several = permutations(7, Stream.SHUFFLE, 11, numbers)
    assert bits.device == order.device == several.device == device
    return bits, order, several, uniform(7, Stream.NOISE, numbers, 5, step)


def _views(place: Place, device: torch.device) -> object:
    """By torch on the CPU, too, whose compiled loops round otherwise."""
    pictures = torch.randint(256, (20, 3, 24, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    batch = Batch(pictures, LABELS[:20], torch.arange(20))
    views = []
    with patch.object(views_module, "loops", lambda: None):
        for preset in (presets.moco_v2(size=16), presets.simclr(size=16), presets.moco_cifar(size=24)):
            views += Views(preset, 0)(batch, 3, device)
    center = Center(16, 0.875, (0.5,) * 3, (0.2,) * 3)(pictures, None, device)
    for view in [*views, center]:
        assert device == CPU or view.is_contiguous()
    return [*views, center]


def _batches(place: Place, device: torch.device) -> object:
    pictures = torch.arange(60 * 3 * 4 * 4).view(60, 3, 4, 4).to(torch.uint8)
    source = ArraySource(pictures, LABELS, tuple("abcde"))
    keys = [Key(0, torch.tensor([3, 59, 4]), None), Key(0, torch.tensor([7]), None)]
    loader = Resident(source, device, substitute=True)
    assert loader.images.device == CPU  # an Apple GPU shares its memory
    batches = list(loader.batches(keys))
    assert all(batch.images.device == batch.labels.device == device for batch in batches)  # type: ignore[union-attr]
    return batches


COMPUTED: dict[str, Callable[[Place, torch.device], object]] = {
    "neighbours": _neighbours,
    "knn": lambda place, device: knn_accuracies(FEATURES, None, (1, 5), (0.1,), "torch", device),
    "retrieval": lambda place, device: retrieval_figures(FEATURES, None, (1, 2), device),
    "probe": _probe,
    "cluster figures": lambda place, device: cluster_figures(LABELS, LABELS.roll(3)),
    "calibration": lambda place, device: calibration_error(place(rows(60, 8)[:, 0].abs()), place(LABELS > 1)),
    "first choices": lambda place, device: first_choices(rows(60, 8)),
    "agreement": lambda place, device: agreement(place(rows(60, 8)), place(rows(60, 8, seed=1))),
    "rank": lambda place, device: effective_rank(place(rows(60, 8))),
    "health": _health,
    "mining": _mined,
    "margin": _margin,
    "clusters": _clusters,
    "random": _random,
    "views": _views,
    "batches": _batches,
}


@pytest.mark.parametrize("name", COMPUTED)
def test_it_is_computed_as_on_the_cpu(name: str) -> None:
    expected = COMPUTED[name](lambda value: value, CPU)
    with pretended():
        found = COMPUTED[name](OnDevice, DEVICE)
        assert_equal(found, expected)


def assert_equal(found: object, expected: object) -> None:
    """Whatever they are made of, to the rounding of their type: sums may depend on where in memory numbers lie."""
    if isinstance(expected, Tensor):
        assert isinstance(found, Tensor)
        found = on_cpu(found)
        assert found.dtype == expected.dtype
        bound = 8 * torch.finfo(expected.dtype).eps if expected.is_floating_point() else 0.0
        torch.testing.assert_close(found, expected, rtol=bound, atol=bound, equal_nan=True)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-13, abs=1e-15, nan_ok=True)
    elif isinstance(expected, list | tuple):
        assert isinstance(found, list | tuple)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    elif isinstance(expected, dict):
        assert isinstance(found, dict)
        assert list(found) == list(expected)
        assert_equal(list(found.values()), list(expected.values()))
    else:
        assert found == expected
