"""An encoder and a classifier that are trained together."""

import torch.nn.functional as F
from torch import Tensor, nn

from selfsup.batch import Batch
from selfsup.losses.contrastive import at_least_float32
from selfsup.methods.base import Method, Step
from selfsup.models.encoder import Encoder
from selfsup.models.heads import Classifier, HeadConfig
from selfsup.models.norm import convert
from selfsup.stages.finetune_settings import Finetune


class FineTuned(Method):
    """An encoder and a classifier on it, trained together by cross-entropy, above the parts that stay as they are."""

    accuracy_is = "accuracy"

    def __init__(self, encoder: Encoder, head: Classifier, settings: Finetune):
        super().__init__()
        self.settings = settings
        nn.init.normal_(head.linear.weight, std=settings.initial_std)
        nn.init.zeros_(head.linear.bias)
        self.encoder = convert(encoder, "sync")
        self.head = convert(head, "sync")
        for part in self._frozen():
            part.requires_grad_(False)

    def _frozen(self) -> list[nn.Module | nn.Parameter]:
        kept = self.settings.train_after
        return [] if kept < 0 else list(self.encoder.frozen(kept))

    def train(self, mode: bool = True) -> "FineTuned":
        super().train(mode)
        for part in self._frozen():
            if isinstance(part, nn.Module):
                part.eval()  # no running statistic of theirs moves
        return self

    def rates(self) -> dict[str, float]:
        settings, levels = self.settings, self.encoder.levels()  # from the lowest
        factors = {
            f"encoder.{name}": settings.layer_decay ** (len(levels) - 1 - level)
            for level, names in enumerate(levels)
            if level > settings.train_after
            for name in names
        }
        return {name: f for name, f in (factors | {"head.linear.": settings.classifier_rate}).items() if f != 1}

    def embed(self, view: Tensor) -> Tensor:
        features: Tensor = self.encoder(view)
        return features

    def objective(self, embeddings: list[Tensor], views: list[Tensor], batch: Batch) -> Step:
        logits = at_least_float32(self.head(embeddings[0]))  # (B, classes)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.settings.label_smoothing)
        accuracy = (logits.argmax(dim=1) == batch.labels).float().mean()
        return Step(loss, {"accuracy": accuracy.detach()}, {})

    def head_state(self) -> tuple[HeadConfig, dict[str, Tensor]]:
        return self.head.config, self.head.state_dict()
