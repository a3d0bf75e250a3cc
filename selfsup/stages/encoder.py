"""The result of a run: an encoder's weights, and what is needed to build it and to feed it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from selfsup import checkpoint, distributed
from selfsup.augment.geometry import Fit
from selfsup.augment.parameters import Size
from selfsup.augment.views import Center
from selfsup.config import dump, restore
from selfsup.methods.base import Method
from selfsup.models.heads import Classifier, HeadConfig
from selfsup.models.resnet import ResNet

SCHEMA = 1
HEAD = "head.safetensors"
Layer = Literal["backbone", "embedding"]


@dataclass(frozen=True, kw_only=True)
class Feed:
    """What the encoder wants to be fed at test time."""

    size: Size
    fraction: float  # side of the central box that is kept over that of the largest one
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: Fit = "center"  # whole: the whole image squeezed to the size, as training by shifts sees it

    def center(self) -> Center:
        return Center(self.size, self.fraction, self.mean, self.std, fit=self.fit)

    @property
    def transform(self) -> str:
        """What an evaluation says of it."""
        part = "of the short side" if self.fit == "center" else "of both sides"
        return f"centre {self.fraction} {part}, resized to {self.size}"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An encoder read from disk, in evaluation mode."""

    encoder: ResNet
    config: ResNet.Config
    head: nn.Module | None  # (B, feature_dim) -> (B, D), the embeddings that the loss was about, not normalised
    feed: Feed
    sha256: str
    made_by: dict[str, Any]

    @property
    def about(self) -> dict[str, Any]:
        """What results say of the encoder that they judge."""
        return {"encoder_sha256": self.sha256}

    def network(self, layer: Layer) -> nn.Module:
        """Images to the features of this layer. Raises ValueError where the head was not exported."""
        if layer == "backbone":
            return self.encoder
        if self.head is None:
            raise ValueError("this encoder has no head beside it; use --layer backbone")
        return nn.Sequential(self.encoder, self.head)

    @property
    def classifier(self) -> nn.Sequential:
        """Images to logits. Raises ValueError where the head is no classifier."""
        if not isinstance(self.head, Classifier):
            raise ValueError("this encoder has no classifier; make one by selfsup finetune")
        return nn.Sequential(self.encoder, self.head)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the classifier's logits, in their order; () where the data named none, or there is no classifier."""
        return self.head.config.class_names if isinstance(self.head, Classifier) else ()


def save_encoder(
    path: Path,
    state: dict[str, Tensor],
    config: ResNet.Config,
    feed: Feed,
    made_by: dict[str, Any],
    head: tuple[HeadConfig, dict[str, Tensor]] | None = None,
) -> str:
    """Write `path` (safetensors) and `path` with .json beside it; returns the SHA-256 of the weights file.

    A head, settings and tensors, is written to head.safetensors beside it.
    """
    content = checkpoint.serialize(state)
    digest = hashlib.sha256(content).hexdigest()
    beside: dict[str, Any] = {}
    if head is not None:
        tensors = checkpoint.serialize(head[1])
        beside["head"] = {"config": dump(head[0]), "sha256": hashlib.sha256(tensors).hexdigest()}
        checkpoint.write_atomically(path.with_name(HEAD), tensors)
    about = {
        "schema": SCHEMA,
        "encoder": dump(config),
        "feed": asdict(feed),
        "sha256": digest,
        "made_by": made_by,
        **beside,
    }
    checkpoint.write_atomically(path, content)
    checkpoint.write_atomically(path.with_suffix(".json"), (json.dumps(about, indent=1) + "\n").encode())
    return digest


def export(method: Method, path: Path, config: ResNet.Config, feed: Feed, made_by: dict[str, Any]) -> str:
    """`save_encoder` of what was trained, with its head, by the main process; returns the SHA-256 there, "" elsewhere.

    Every process must call it, and all wait for the files.
    """
    digest = ""
    if distributed.rank() == 0:
        digest = save_encoder(path, method.encoder_state(), config, feed, made_by, method.head_state())
    distributed.barrier()
    return digest


def load_encoder(path: Path) -> Exported:
    """Read an encoder from a run folder or from its encoder.safetensors.

    Raises:
        ValueError: no encoder is there, the two files do not belong together, or one of them is damaged.
    """
    weights = path / "encoder.safetensors" if path.is_dir() else path
    if not weights.is_file():
        unfinished = path.is_dir() and (path / "config.json").is_file()
        remedy = "run the same pretrain command again to finish it" if unfinished else "give a run folder or the file"
        raise ValueError(f"there is no encoder at {weights}; {remedy}")
    try:
        about = json.loads(weights.with_suffix(".json").read_text())
        config = restore(about["encoder"], ResNet.Config)
        # JSON has lists for tuples; fields that an older file lacks take their defaults.
        fed: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in about["feed"].items()
        }
        feed = Feed(**fed)
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{weights.with_suffix('.json')} cannot be read: {error!r}; it must lie beside the weights"
        ) from error
    _check_digest(weights, about["sha256"])
    encoder = config.build()
    encoder.load_state_dict(checkpoint.read_tensors(weights))
    return Exported(
        encoder=encoder.eval().to(memory_format=torch.channels_last),
        config=config,
        head=_load_head(weights.with_name(HEAD), about["head"], encoder.feature_dim) if "head" in about else None,
        feed=feed,
        sha256=about["sha256"],
        made_by=about["made_by"],
    )


def _check_digest(path: Path, recorded: str) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != recorded:
        raise ValueError(
            f"{path} is damaged or belongs to another .json: SHA-256 {digest[:12]} is not the recorded one"
        )


def _load_head(path: Path, about: dict[str, Any], feature_dim: int) -> nn.Module | None:
    """The head beside an encoder; None where only the encoder was taken along."""
    if not path.is_file():
        return None
    _check_digest(path, about["sha256"])
    config: HeadConfig = restore(about["config"], HeadConfig)
    head = config.build(feature_dim)
    head.load_state_dict(checkpoint.read_tensors(path))
    return head.eval()
