"""Students beside a frozen teacher: what distillation trains."""

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from selfsup.batch import Batch
from selfsup.devices.double import to_double
from selfsup.distributed import mean_over_processes
from selfsup.losses.distillation import cosine_distance, distillation, labelled_cross_entropy
from selfsup.methods.base import Method, Step
from selfsup.models.encoder import Encoder
from selfsup.models.heads import HeadConfig
from selfsup.models.norm import convert


class Student(Method):
    """An encoder and a head that see the same view as a teacher, which stays as it is, in evaluation mode.

    The teacher moves to the student's device, but is neither saved with it nor known to the optimizer or to DDP.
    """

    def __init__(self, encoder: Encoder, head: nn.Module, teacher: nn.Module):
        super().__init__()
        self.encoder = convert(encoder, "sync")
        self.head = convert(head, "sync")
        self._teacher = (teacher.eval().requires_grad_(False),)  # in a tuple, it is no part of this module

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Student":
        self.teacher._apply(fn, recurse)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # nn.Module's
        return self

    @property
    def teacher(self) -> nn.Module:
        return self._teacher[0]

    @property
    def student(self) -> nn.Module:
        return nn.Sequential(self.encoder, self.head)

    def embed(self, view: Tensor) -> Tensor:  # (B, 3, S, S) -> (B, C)
        out: Tensor = self.head(self.encoder(view))
        return out

    def taught(self, view: Tensor) -> Tensor:  # (B, 3, S, S) -> (B, C)
        (out,) = self.without_gradient(self.teacher, [view])
        return out

    def head_state(self) -> tuple[HeadConfig, dict[str, Tensor]]:
        return cast(HeadConfig, self.head.config), self.head.state_dict()


class Distilled(Student):
    """(1 - alpha) cross-entropy of the labelled rows + alpha distillation of all (SimCLRv2, equations 2 and 3).

    The cross-entropy is the mean over the labelled rows of the global batch, and 0 where it has none.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: nn.Module,
        teacher: nn.Module,
        *,
        temperature: float,
        alpha: float,
        tau_squared: bool,
    ):
        super().__init__(encoder, head, teacher)
        self.temperature, self.alpha, self.tau_squared = temperature, alpha, tau_squared

    def objective(self, embeddings: list[Tensor], views: list[Tensor], batch: Batch) -> Step:
        logits, taught = embeddings[0], self.taught(views[0])  # (B, C) both
        loss = distillation(logits, taught, self.temperature, self.tau_squared)
        if self.alpha < 1:
            count = mean_over_processes((batch.labels >= 0).sum().float())
            labelled = labelled_cross_entropy(logits, batch.labels, count)
            loss = (1 - self.alpha) * labelled + self.alpha * loss
        return Step(loss, {"agreement": agreement(logits.detach(), taught).float().to(logits.device)}, {})


class FeatureDistilled(Student):
    """The directions of the teacher's features from a linear map of the student's.

    FitNets' regressor (Romero et al. 2015, section 2.2), here linear and on pooled features, and 1 - cosine in place of
    the squared distance, so that the lengths of features play no part.
    """

    def objective(self, embeddings: list[Tensor], views: list[Tensor], batch: Batch) -> Step:
        loss = cosine_distance(embeddings[0], self.taught(views[0]))
        return Step(loss, {"cosine": 1 - loss.detach()}, {})


def agreement(logits: Tensor, others: Tensor) -> Tensor:
    """The share of rows (B, C) whose highest class is the same, () float64, on the CPU where their device has none."""
    return to_double(logits.argmax(dim=1) == others.argmax(dim=1)).mean()
