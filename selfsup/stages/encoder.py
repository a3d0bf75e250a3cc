"""The result of a run: an encoder's weights, and what is needed to build it and to feed it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from selfsup import checkpoint
from selfsup.augment.views import Center
from selfsup.config import dump, restore
from selfsup.models.resnet import ResNet

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Feed:
    """What the encoder wants to be fed at test time."""

    size: int
    fraction: float  # central part of the short side that is kept
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def center(self) -> Center:
        return Center(self.size, self.fraction, self.mean, self.std)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An encoder read from disk, in evaluation mode."""

    encoder: ResNet
    feed: Feed
    sha256: str
    made_by: dict[str, Any]


def save_encoder(path: Path, encoder: nn.Module, config: ResNet.Config, feed: Feed, made_by: dict[str, Any]) -> str:
    """Write `path` (safetensors) and `path` with .json beside it; returns the SHA-256 of the weights file."""
    content = checkpoint.serialize(encoder.state_dict())
    digest = hashlib.sha256(content).hexdigest()
    about = {
        "schema": SCHEMA,
        "encoder": dump(config),
        "feed": asdict(feed),
        "sha256": digest,
        "made_by": made_by,
    }
    checkpoint.write_atomically(path, content)
    checkpoint.write_atomically(path.with_suffix(".json"), (json.dumps(about, indent=1) + "\n").encode())
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
        fed = about["feed"]
        feed = Feed(size=fed["size"], fraction=fed["fraction"], mean=tuple(fed["mean"]), std=tuple(fed["std"]))
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{weights.with_suffix('.json')} cannot be read: {error!r}; it must lie beside the weights"
        ) from error
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if digest != about["sha256"]:
        raise ValueError(
            f"{weights} is damaged or belongs to another .json: SHA-256 {digest[:12]} is not the recorded one"
        )
    encoder = config.build()
    encoder.load_state_dict(checkpoint.read_tensors(weights))
    return Exported(
        encoder=encoder.eval().to(memory_format=torch.channels_last), feed=feed, sha256=digest, made_by=about["made_by"]
    )
