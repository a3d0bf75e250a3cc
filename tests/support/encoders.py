"""Exported encoders that have seen nothing."""

from pathlib import Path

from selfsup.evaluation.encoder import save_encoder
from selfsup.evaluation.feed import Preprocessing
from selfsup.models.encoder import Encoder


def export_untrained(folder: Path, config: Encoder.Config, feed: Preprocessing, factor: float = 1.0) -> Path:
    """Export an encoder with the weights that torch draws now, times `factor`; returns the file of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor * factor for name, tensor in config.build().state_dict().items()}
    save_encoder(folder / "encoder.safetensors", state, config, feed, {})
    return folder / "encoder.safetensors"
