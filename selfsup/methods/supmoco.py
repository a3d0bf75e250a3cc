"""SupCon with a queue: the loss of Khosla et al. 2020 on the memory of He et al. 2020."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from selfsup.batch import Batch
from selfsup.config.checks import require
from selfsup.distributed import rank, world_size
from selfsup.losses.pairing import Same
from selfsup.losses.sup_con import sup_con
from selfsup.methods.base import About, RunContext, require_labels
from selfsup.methods.moco import MoCo, References
from selfsup.models.encoder import Encoder


class SupMoCo(MoCo):
    """A query against the batch's keys and older ones; all keys of its class attract it.

    Older keys of the query's own image are left out, and so are places of the queue that hold no key yet and, where
    symmetric, the key of the very same view.
    """

    about = About(
        "SupCon with queue", "queue of keys, momentum encoder", "SupCon", ("Khosla 2020", "He 2020"), "needed"
    )

    @dataclass(frozen=True, kw_only=True)
    class Config(MoCo.Config):
        stored_as: ClassVar[str] = "supmoco"
        temperature: float = 0.1
        base_temperature: float = 0.07  # the loss is multiplied by temperature / base_temperature, as in SupCon
        batch_negatives: bool = True

        def __post_init__(self) -> None:
            super().__post_init__()
            require(
                self.batch_negatives, "SupMoCo's positives are among the batch's keys; batch_negatives must be True"
            )
            require(
                self.base_temperature > 0,
                f"base_temperature is {self.base_temperature}; give a number above 0, such as 0.07",
            )

        def build(self, encoder: Encoder, context: RunContext) -> "SupMoCo":
            return SupMoCo(self, encoder, context)

    config: Config

    def __init__(self, config: Config, encoder: Encoder, context: RunContext) -> None:
        require_labels(context, "SupMoCo")
        super().__init__(config, encoder, context)

    def contrast(
        self, queries: Tensor, keys: Tensor, references: References, batch: Batch, number: int
    ) -> tuple[Tensor, Tensor]:
        everyone = len(keys) * world_size()
        blocks = (len(references.indices) - self.config.queue_size) // everyone  # keys of each view, after the queue
        first = self.config.queue_size + (blocks - 1 - number) * everyone + rank() * len(keys)  # of the queries' keys
        excluded = Same(batch.indices, references.indices, nobody=True, kept=first)
        positive = Same(batch.labels, references.labels)
        return sup_con(
            queries, references.features, positive, excluded, self.config.temperature, self.config.base_temperature
        )
