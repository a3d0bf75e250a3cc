"""MoCo v3 (Chen et al. 2021, "An empirical study of training self-supervised vision transformers")."""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from selfsup.batch import Batch
from selfsup.config.checks import require
from selfsup.devices.moving import to_device
from selfsup.distributed import gather
from selfsup.losses.contrastive import info_nce, l2_normalize
from selfsup.losses.diagnostics import feature_health
from selfsup.losses.pairing import Same
from selfsup.memory.ema import ema_update
from selfsup.methods.base import About, Method, RunContext, Step, detached, require_two_views
from selfsup.models.encoder import Encoder
from selfsup.models.heads import PlainHead
from selfsup.models.norm import convert
from selfsup.optim.schedules import momentum_at


class MoCoV3(Method):
    """Predictions of each view against the keys of the other view of the whole batch; no queue (Algorithm 1).

    Batch norm is over all processes. Of the published code one thing differs by a step: the momentum of an update is
    that of the step before it, there that of the step after it.
    """

    about = About("MoCo v3", "momentum encoder", "InfoNCE in the batch", ("Chen 2021",))

    @dataclass(frozen=True, kw_only=True)
    class Config(Method.Config):
        stored_as: ClassVar[str] = "moco_v3"
        momentum: float = 0.99  # m, of the key encoder, at the beginning; 0.996 for 1,000 epochs of ResNet-50
        final_momentum: float | None = 1.0  # m at the end of training, reached along half a cosine; None: constant
        temperature: float = 0.2  # 1.0 for ResNet-50
        # 1 hidden layer for ResNet-50, 2 for transformers.
        head: PlainHead.Config = field(default_factory=lambda: PlainHead.Config(hidden_layers=2))
        # batch_norm "hidden" for ResNet-50, "all" for transformers.
        predictor: PlainHead.Config = field(default_factory=PlainHead.Config)
        batch_norm: Literal["sync", "plain"] = "sync"  # over all processes, or over each process's images

        def __post_init__(self) -> None:
            for name in ("momentum", "final_momentum"):
                value = getattr(self, name)
                require(value is None or 0 <= value <= 1, f"{name} is {value}; it must lie in [0, 1], such as 0.99")
            require(self.temperature > 0, f"temperature is {self.temperature}; give a number above 0, such as 0.2")
            require(
                self.predictor.output_dim == self.head.output_dim,
                f"predictor.output_dim is {self.predictor.output_dim} and head.output_dim {self.head.output_dim}; "
                "predictions are compared with what the head gives, so both must be equal",
            )

        def build(self, encoder: Encoder, context: RunContext) -> "MoCoV3":
            return MoCoV3(self, encoder, context)

    def __init__(self, config: Config, encoder: Encoder, context: RunContext) -> None:
        super().__init__()
        require_two_views(context)
        self.config = config
        self.encoder = convert(encoder, config.batch_norm)
        self.head = convert(config.head.build(encoder.feature_dim), config.batch_norm)
        self.predictor = convert(config.predictor.build(config.head.output_dim), config.batch_norm)
        self.key_encoder = deepcopy(self.encoder).requires_grad_(False)
        self.key_head = deepcopy(self.head).requires_grad_(False)

    def embed(self, view: Tensor) -> Tensor:  # (B, C, S, S) -> (B, D), unit rows
        return l2_normalize(self.predictor(self.head(self.encoder(view))))

    def embed_key(self, view: Tensor) -> Tensor:  # (B, C, S, S) -> (B, D), unit rows
        return l2_normalize(self.key_head(self.key_encoder(view)))

    def objective(self, embeddings: list[Tensor], views: list[Tensor], batch: Batch) -> Step:
        keys = self.without_gradient(self.embed_key, views)  # (B, D) each
        indices = to_device(batch.indices, keys[0].device)
        own = Same(indices, gather(indices))  # the key of the same image is the positive, no negative
        results = [
            info_nce(queries, key, gather(key), self.config.temperature, mask=own)
            for queries, key in zip(embeddings, reversed(keys), strict=True)
        ]
        # Algorithm 1: each cross-entropy is multiplied by 2 T, so that the rate hardly depends on the temperature.
        loss = 2 * self.config.temperature * torch.stack([loss for loss, _ in results]).sum()
        accuracy = torch.stack([accuracy for _, accuracy in results]).mean()
        shown = embeddings[0].detach(), keys[-1]
        metrics = {"accuracy": accuracy, **feature_health(*shown)}
        return Step(loss, detached(metrics), {"keys": torch.stack(keys, dim=1)}, shown)

    def after_step(self, update: dict[str, Tensor], progress: float) -> None:
        momentum = momentum_at(self.config.momentum, self.config.final_momentum, progress)
        ema_update(self.key_encoder, self.encoder, momentum)
        ema_update(self.key_head, self.head, momentum)
