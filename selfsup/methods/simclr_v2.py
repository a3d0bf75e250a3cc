"""SimCLRv2's memory (Chen et al. 2020, "Big self-supervised models are strong semi-supervised learners", section 2)."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from selfsup.batch import Batch
from selfsup.config.checks import require
from selfsup.methods.base import About, RunContext, Step
from selfsup.methods.moco import MoCo
from selfsup.models.encoder import Encoder
from selfsup.models.heads import Head


class SimCLRv2(MoCo):
    """SimCLR with a deep head, and a memory: each view against the other one's key, the batch's keys, and older ones.

    The paper describes the memory in two sentences and its code was not released: keys come from a moving average of
    the network, 64K older ones are negatives beside those of the large batch. Batch norm is over both views of all
    processes, for queries and for keys. (SimCLRv2 without memory is `SimCLR` with the same head.)
    """

    about = About("SimCLRv2", "queue of keys, momentum encoder", "NT-Xent with memory", ("Chen 2020c",))
    views_share_batch_norm = True

    @dataclass(frozen=True, kw_only=True)
    class Config(MoCo.Config):
        stored_as: ClassVar[str] = "simclr_v2"
        temperature: float = 0.1
        head: Head.Config = field(default_factory=lambda: Head.Config(hidden_layers=2, batch_norm="all"))
        batch_norm: Literal["groups", "sync", "plain", "shuffle", "split", "auto"] = "sync"
        symmetric: bool = True
        batch_negatives: bool = True
        # mean2n: mean over both views. simclr: their sum, as in the published code of SimCLR and in symmetric MoCo.
        reduction: Literal["mean2n", "simclr"] = "mean2n"

        def __post_init__(self) -> None:
            super().__post_init__()
            require(self.symmetric, "SimCLRv2 compares each view with the other; for one direction only use MoCo")
            require(
                self.batch_norm in ("sync", "plain"),
                f'batch_norm is "{self.batch_norm}"; SimCLRv2 takes "sync", or "plain"',
            )

        def build(self, encoder: Encoder, context: RunContext) -> "SimCLRv2":
            return SimCLRv2(self, encoder, context)

    config: Config

    def objective(self, embeddings: list[Tensor], views: list[Tensor], batch: Batch) -> Step:
        step = super().objective(embeddings, views, batch)
        return step._replace(loss=step.loss / 2) if self.config.reduction == "mean2n" else step
