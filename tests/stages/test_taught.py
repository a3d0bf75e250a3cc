"""A student beside its teacher: the loss, what stays as it is, one process or two."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from selfsup.batch import Batch
from selfsup.distributed import rank, world_size
from selfsup.losses.distillation import distillation
from selfsup.stages.students import Distilled
from tests.support.figures import assert_agree
from tests.support.processes import run_processes
from tests.support.toys import toy


def method(alpha: float = 1.0, temperature: float = 0.5) -> Distilled:
    torch.manual_seed(0)
    student, taught = (nn.Sequential(toy(True), nn.Linear(16, 5)) for _ in range(2))
    nn.init.normal_(taught[1].weight, std=2.0)
    return Distilled(student[0], student[1], taught, temperature=temperature, alpha=alpha, tau_squared=False)


def batch(labels: list[int]) -> tuple[list[torch.Tensor], Batch]:
    view = torch.randn(len(labels), 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return [view], Batch((), torch.tensor(labels), torch.arange(len(labels)))


def test_the_ends_of_alpha() -> None:
    views, seen = batch([2, -1, -1, 0, -1, 4])
    logits, taught = (network(views[0]) for network in (method().student, method().teacher))
    assert_agree(method(1.0)(views, seen).loss, distillation(logits, taught, 0.5).detach(), 1e-6)
    rows = seen.labels >= 0
    labelled = F.cross_entropy(logits[rows], seen.labels[rows]).detach()
    assert_agree(method(0.0)(views, seen).loss, labelled, 1e-6)
    both = 0.3 * distillation(logits, taught, 0.5).detach() + 0.7 * labelled
    assert_agree(method(0.3)(views, seen).loss, both, 1e-6)


def test_the_teacher_is_no_part_of_the_method_and_does_not_change() -> None:
    learner = method()
    names = {name.partition(".")[0] for name in learner.state_dict()}
    assert names == {"encoder", "head"}
    before = {name: value.clone() for name, value in learner.teacher.state_dict().items()}
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.1)
    learner.train()
    for _ in range(2):
        learner(*batch([-1] * 6)).loss.backward()
        optimizer.step()
    assert not learner.teacher.training
    assert learner.student.training
    for name, value in learner.teacher.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in learner.teacher.parameters())


def test_the_teacher_moves_with_the_method() -> None:
    learner = method().double()
    assert next(learner.teacher.parameters()).dtype == torch.float64
    assert learner.to("meta").teacher.get_parameter("1.weight").device.type == "meta"


LABELS = [2, 1, 0, -1, -1, 3, -1, -1]  # of two processes one has three labels, the other has one


def gradients(labels: list[int]) -> dict[str, torch.Tensor]:
    learner = method(alpha=0.3)
    model: nn.Module = learner if world_size() == 1 else DistributedDataParallel(learner, broadcast_buffers=False)
    views, seen = batch(labels)
    size = len(labels) // world_size()
    own = slice(rank() * size, (rank() + 1) * size)
    out = model([views[0][own]], Batch((), seen.labels[own], seen.indices[own]))
    out.loss.backward()
    found = {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}
    return found | {"loss": out.loss.detach()}


def test_two_processes_are_one() -> None:
    cases = (LABELS, [-1] * 4 + [1, -1, 2, -1], [-1] * 8)
    ones = [gradients(labels) for labels in cases]
    first, second = run_processes(2, all_gradients, cases)
    for case, one, *two in zip(cases, ones, first, second, strict=True):
        for name, value in one.items():
            mean = (two[0][name] + two[1][name]) / 2  # the gradients, which DDP has averaged, are equal
            torch.testing.assert_close(mean, value, rtol=1e-5, atol=1e-6, msg=f"{case} {name}")


def all_gradients(cases: tuple[list[int], ...]) -> list[dict[str, torch.Tensor]]:
    return [gradients(labels) for labels in cases]
