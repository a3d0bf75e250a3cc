"""Supervised contrastive learning (Khosla et al. 2020)."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from selfsup.batch import Batch
from selfsup.config.checks import require
from selfsup.devices.moving import to_device
from selfsup.distributed import gather, rank
from selfsup.losses.contrastive import l2_normalize
from selfsup.losses.diagnostics import feature_health
from selfsup.losses.sup_con import class_pairs, sup_con
from selfsup.methods.base import About, Method, RunContext, Step, detached, require_labels
from selfsup.models.encoder import Encoder
from selfsup.models.heads import Head
from selfsup.models.norm import convert


class SupCon(Method):
    """All views of all images of a class against all other views of the batch (Khosla et al. 2020, section 3.2).

    Any number of views: with one, the other images of the class are its positives.
    """

    about = About("SupCon", "none", "SupCon", ("Khosla 2020",), "needed")
    views_share_batch_norm = True

    @dataclass(frozen=True, kw_only=True)
    class Config(Method.Config):
        stored_as: ClassVar[str] = "supcon"
        temperature: float = 0.1  # the published command's; the published code's default is 0.07
        base_temperature: float = 0.07  # the loss is multiplied by temperature / base_temperature, as published
        anchors: Literal["all", "one"] = "all"  # which views are compared with all views
        head: Head.Config = field(default_factory=Head.Config)  # Linear, ReLU, Linear to 128
        batch_norm: Literal["sync", "plain"] = "sync"

        def __post_init__(self) -> None:
            for name in ("temperature", "base_temperature"):
                require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; give a number above 0, such as 0.1")

        def build(self, encoder: Encoder, context: RunContext) -> "SupCon":
            return SupCon(self, encoder, context)

    def __init__(self, config: Config, encoder: Encoder, context: RunContext) -> None:
        super().__init__()
        require_labels(context, "SupCon")
        _require_positives(context)
        self.config = config
        self.encoder = convert(encoder, config.batch_norm)
        self.head = convert(config.head.build(encoder.feature_dim), config.batch_norm)

    def embed(self, view: Tensor) -> Tensor:  # (B, C, S, S) -> (B, D), unit rows
        return l2_normalize(self.head(self.encoder(view)))

    def objective(self, embeddings: list[Tensor], views: list[Tensor], batch: Batch) -> Step:
        anchors = embeddings if self.config.anchors == "all" else embeddings[:1]
        columns = torch.cat([gather(embedding) for embedding in embeddings])  # (V N, D), view after view
        labels = to_device(batch.labels, columns.device)  # (B,)
        positive, own = class_pairs(labels, gather(labels), rank() * len(labels), len(embeddings), len(anchors))
        temperatures = self.config.temperature, self.config.base_temperature
        loss, accuracy = sup_con(torch.cat(anchors), columns, positive, None, *temperatures, own)
        shown = embeddings[0].detach(), embeddings[-1].detach()
        health = feature_health(*shown)
        if len(embeddings) == 1:
            del health["alignment"]  # there is no second view to be near to
        return Step(loss, detached({"accuracy": accuracy, **health}), {}, shown)


def _require_positives(context: RunContext) -> None:
    """With one view, refuse batches in which many images would have no other of their class."""
    alone = context.per_class == 1 or (context.per_class == 0 and context.batch_size < 2 * context.num_classes)
    if context.num_views == 1 and alone:
        raise ValueError(
            f"with one view an image's positives are the others of its class, and a batch of {context.batch_size} from "
            f"{context.num_classes} classes would leave many without;\ntake two views, a larger batch_size, or in the "
            "recipe sampling=ClassBalanced(per_class=4)"
        )
