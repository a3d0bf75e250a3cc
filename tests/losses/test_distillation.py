"""The losses of a student against plain loops, and at the ends of the temperature."""

import math

import pytest
import torch
import torch.nn.functional as F

from selfsup.losses.distillation import cosine_distance, distillation, labelled_cross_entropy
from tests.support.figures import assert_agree


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (2 * torch.randn(6, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    return student.requires_grad_(), teacher


def naive(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> float:
    def probabilities(row: list[float]) -> list[float]:
        powers = [math.exp(value / temperature) for value in row]
        return [power / sum(powers) for power in powers]

    loss = 0.0
    for own, other in zip(student.tolist(), teacher.tolist(), strict=True):
        for wanted, given in zip(probabilities(other), probabilities(own), strict=True):
            loss -= wanted * math.log(given)
    return loss / len(student)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_against_loops(logits: tuple[torch.Tensor, torch.Tensor], temperature: float) -> None:
    student, teacher = logits
    expected = naive(student, teacher, temperature)
    assert distillation(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-12)
    squared = distillation(student, teacher, temperature, tau_squared=True)
    assert squared.item() == pytest.approx(temperature**2 * expected, rel=1e-12)


def test_a_low_temperature_teaches_the_teachers_choice(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    """t -> 0: t L becomes the distance of the teacher's class from the student's highest logit."""
    student, teacher = logits
    temperature = 1e-4
    chosen = student.gather(1, teacher.argmax(dim=1, keepdim=True))[:, 0]
    expected = (student.amax(dim=1) - chosen).mean()
    assert_agree(temperature * distillation(student, teacher, temperature), expected.detach(), 1e-6)


def test_a_high_temperature_matches_centred_logits(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    """t -> infinity with t^2: the gradient is that of half the squared distance of centred logits, over the classes."""
    student, teacher = logits
    (gradient,) = torch.autograd.grad(distillation(student, teacher, 1e5, tau_squared=True), student)
    centred = [values - values.mean(dim=1, keepdim=True) for values in (student.detach(), teacher)]
    assert_agree(gradient, (centred[0] - centred[1]) / student.numel(), 1e-3)


def test_equal_logits_are_the_minimum(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, teacher = logits
    same = teacher.clone().requires_grad_()
    loss = distillation(same, teacher, 0.5)
    assert torch.autograd.grad(loss, same)[0].abs().max() < 1e-12
    assert loss < distillation(student, teacher, 0.5)


def test_single_precision_under_autocast(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, teacher = (values.detach().bfloat16() for values in logits)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = distillation(student, teacher, 0.1)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(naive(student, teacher, 0.1), rel=1e-5)


def test_only_labelled_rows_count(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, _ = logits
    labels = torch.tensor([-1, 3, -1, 0, 4, -1])
    rows = labels >= 0
    loss = labelled_cross_entropy(student, labels, rows.sum())
    assert_agree(loss, F.cross_entropy(student[rows], labels[rows]).detach(), 1e-12)
    gradient = torch.autograd.grad(loss, student)[0]
    assert (gradient[~rows] == 0).all()
    assert (gradient[rows] != 0).all()


def test_a_batch_without_labels_adds_nothing(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, _ = logits
    loss = labelled_cross_entropy(student, torch.full((6,), -1), torch.tensor(0))
    assert loss == 0
    assert (torch.autograd.grad(loss, student)[0] == 0).all()


def test_cosine_distance_is_that_of_unit_vectors(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    student, teacher = logits
    difference = F.normalize(student) - F.normalize(teacher)
    assert_agree(cosine_distance(student, teacher), (difference.square().sum(dim=1).mean() / 2).detach(), 1e-12)
    assert float(cosine_distance(3 * teacher, teacher)) == pytest.approx(0, abs=1e-12)
