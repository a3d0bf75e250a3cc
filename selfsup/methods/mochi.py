"""MoCHi (Kalantidis et al. 2020): MoCo with synthetic negatives, mixed from the hardest ones of each query."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from selfsup.batch import Batch
from selfsup.config.checks import require
from selfsup.losses.contrastive import contrast_logits, first_is_positive
from selfsup.losses.mixing import mixed_scores
from selfsup.methods.base import About, RunContext
from selfsup.methods.moco import MoCo, References
from selfsup.models.encoder import Encoder
from selfsup.randomness import Stream, uniform


class MoCHi(MoCo):
    """Mixing of the contrastive hard negatives: MoCHi (N, s, s') on any of MoCo's memories (section 3).

    Only real keys are remembered. Which negatives are mixed is a pure function of seed, step and image.
    """

    about = About("MoCHi", "queue of keys, momentum encoder", "InfoNCE, hardest negatives mixed", ("Kalantidis 2020",))

    @dataclass(frozen=True, kw_only=True)
    class Config(MoCo.Config):
        stored_as: ClassVar[str] = "mochi"
        hardest: int = 1024  # N, negatives of each query that are mixed
        pairs: int = 1024  # s, mixtures of two of them
        with_query: int = 128  # s', mixtures of one of them with the query
        oversample: bool = False  # allow s or s' above N, as in (512, 1024, 512)
        warmup_epochs: float = 10.0  # plain MoCo for so long

        def __post_init__(self) -> None:
            super().__post_init__()
            require(self.hardest >= 2, f"hardest is {self.hardest}; it takes at least 2 negatives to mix two")
            for name in ("pairs", "with_query", "warmup_epochs"):
                require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it must not be negative")
            require(
                self.pairs + self.with_query != 0,
                "pairs and with_query are both 0, which mixes nothing; use MoCo for that",
            )
            most = max(self.pairs, self.with_query)
            require(
                most <= self.hardest or self.oversample,
                f"{most} mixtures (pairs, with_query) are more than the {self.hardest} hardest negatives they are "
                "made from; raise hardest, or set oversample=True to use negatives several times",
            )

        def build(self, encoder: Encoder, context: RunContext) -> "MoCHi":
            return MoCHi(self, encoder, context)

    config: Config

    def __init__(self, config: Config, encoder: Encoder, context: RunContext) -> None:
        super().__init__(config, encoder, context)
        in_batch = context.batch_size * (2 if config.symmetric else 1) if config.batch_negatives else 0
        if config.hardest > config.queue_size + in_batch:
            raise ValueError(
                f"hardest is {config.hardest} and there are only {config.queue_size + in_batch} negatives; lower it, "
                "or use a larger queue"
            )
        self.first_step = round(config.warmup_epochs * context.steps_per_epoch)

    def contrast(
        self, queries: Tensor, keys: Tensor, references: References, batch: Batch, number: int
    ) -> tuple[Tensor, Tensor]:
        config = self.config
        own = references.indices == batch.indices[:, None]  # (B, M)
        logits = contrast_logits(queries, keys, references.features, 1.0, mask=own)  # (B, 1 + M)
        count = 3 * config.pairs + 2 * config.with_query
        numbers = uniform(self.seed, Stream.MIXING, batch.indices, count, epoch=2 * self.steps + number)
        mixed = mixed_scores(
            queries, references.features, logits[:, 1:], numbers, config.hardest, config.pairs, config.with_query
        )
        # As a mask and not as a branch, so that the step counter stays on its device.
        mixed = mixed.masked_fill(self.steps < self.first_step, -torch.inf)
        loss, _ = first_is_positive(torch.cat([logits, mixed], dim=1) / config.temperature)
        _, accuracy = first_is_positive(logits.detach())  # among real negatives, comparable with MoCo's
        return loss, accuracy
