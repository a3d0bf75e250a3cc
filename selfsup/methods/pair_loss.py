"""What a loss over pairs of embeddings is: all that it may look at, and what it must say of itself."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor, nn

from selfsup.losses.pairs import Gather, mean_of_anchors
from selfsup.methods.base import RunContext


class Pairs(NamedTuple):
    """Anchors of this process against references: all that a loss may look at.

    All on one device: that of the method or, for a loss of distances where that has no double precision, the CPU. A
    loss brings parameters of its own there.
    """

    anchors: Tensor  # (B, D)
    references: Tensor  # (M, D)
    similarity: Tensor  # (B, M)
    positive: Tensor  # (B, M) bool
    negative: Tensor  # (B, M) bool; a pair that is neither is an anchor with itself, or an empty place of a memory
    labels: Tensor  # (B,) int64
    reference_labels: Tensor  # (M,) int64
    rows: Tensor  # (B,) int64, the anchors' places among those of all processes
    mutual: bool  # the references are the anchors of all processes, in the order of `rows`
    step: Tensor  # () int64
    # Rows of this process's anchors -> those of all, in the order of `rows`; None: these are some of the anchors, and
    # the loss is to give what they contribute (`AnchorLoss`).
    gather: Gather | None

    @property
    def scored(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.similarity, self.positive, self.negative


class PairLoss(nn.Module):
    """A loss and its learnt parameters: pairs -> ()."""

    by_distance: ClassVar[bool] = True  # compares distances; False: inner products
    # Of embeddings. unit: it is defined for no others. any: for all, published for unit norm. free: published for
    # embeddings that are not normalised.
    norm: ClassVar[Literal["unit", "any", "free"]] = "any"
    needs_pairs: ClassVar[bool] = True  # of images; a proxy does without
    config: "PairLoss.Config"

    @dataclass(frozen=True, kw_only=True)
    class Config:
        def build(self, context: RunContext, dim: int) -> "PairLoss":
            """The loss for embeddings (B, `dim`)."""
            raise NotImplementedError(f"{type(self).__qualname__} does not say how to build its loss")

    def __init__(self, config: Config, context: RunContext, dim: int) -> None:
        super().__init__()
        self.config = config

    def rates(self) -> dict[str, float]:
        """Factors on the learning rate of the loss's own parameters, as `Method.rates`."""
        return {}

    def forward(self, pairs: Pairs) -> Tensor:
        raise NotImplementedError


class AnchorLoss(PairLoss):
    """A loss of what each anchor contributes, so that some anchors at a time can be compared with a large memory.

    Where references are not mutual and `pairs.gather` is None, `forward` gives what the anchors contribute, (B, k).
    """

    def of_anchors(self, contributed: Tensor, gather: Gather) -> Tensor:
        """The loss () of what all anchors of this process contribute."""
        return mean_of_anchors(contributed, gather)
