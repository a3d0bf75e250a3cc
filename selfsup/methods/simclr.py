"""SimCLR (Chen et al. 2020)."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor

from selfsup.batch import Batch
from selfsup.config.checks import require
from selfsup.distributed import gather, rank
from selfsup.losses.contrastive import l2_normalize, nt_xent
from selfsup.losses.diagnostics import feature_health
from selfsup.methods.base import About, Method, RunContext, Step, detached, require_two_views
from selfsup.models.encoder import Encoder
from selfsup.models.heads import Head
from selfsup.models.norm import convert


class SimCLR(Method):
    """Two views of an image against all other views of the batch (Chen et al. 2020, Algorithm 1).

    Batch norm, in the head too, is over both views of all processes, so that no view can be told from its neighbours.
    """

    about = About("SimCLR", "none", "NT-Xent", ("Chen 2020a",))
    views_share_batch_norm = True

    @dataclass(frozen=True, kw_only=True)
    class Config(Method.Config):
        stored_as: ClassVar[str] = "simclr"
        temperature: float = 0.1  # 0.5 for CIFAR-10
        head: Head.Config = field(default_factory=lambda: Head.Config(hidden_layers=2, batch_norm="all"))
        # mean2n: the paper's mean over 2N anchors. simclr: the published code's sum of both views' means, twice that.
        reduction: Literal["mean2n", "simclr"] = "mean2n"
        batch_norm: Literal["sync", "plain"] = "sync"  # over all processes, or over each process's images

        def __post_init__(self) -> None:
            require(self.temperature > 0, f"temperature is {self.temperature}; give a number above 0, such as 0.1")

        def build(self, encoder: Encoder, context: RunContext) -> "SimCLR":
            return SimCLR(self, encoder, context)

    def __init__(self, config: Config, encoder: Encoder, context: RunContext) -> None:
        super().__init__()
        require_two_views(context)
        self.config = config
        self.encoder = convert(encoder, config.batch_norm)
        self.head = convert(config.head.build(encoder.feature_dim), config.batch_norm)

    def embed(self, view: Tensor) -> Tensor:  # (B, C, S, S) -> (B, D), unit rows
        return l2_normalize(self.head(self.encoder(view)))

    def objective(self, embeddings: list[Tensor], views: list[Tensor], batch: Batch) -> Step:
        gathered = [gather(embedding) for embedding in embeddings]  # (N, D) each
        offset = rank() * len(embeddings[0])
        loss, accuracy = nt_xent(embeddings, gathered, offset, self.config.temperature, self.config.reduction)
        shown = embeddings[0].detach(), embeddings[1].detach()
        return Step(loss, detached({"accuracy": accuracy, **feature_health(*shown)}), {}, shown)
