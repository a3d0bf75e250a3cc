"""Refused before the first step: a network whose file could not be read when training is over."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from selfsup.catalogue import restore_encoder
from selfsup.config.own_code import is_shipped
from selfsup.config.settings import dump, restore
from selfsup.evaluation.encoder import filled
from selfsup.models.encoder import Encoder
from selfsup.models.heads import HeadConfig
from selfsup.storage.tensor_file import lay_out


def require_encoder(built: nn.Module, config: Encoder.Config) -> Encoder:
    """What an encoder's settings have built. Raises ValueError where it is none: a user's own may be any module."""
    if not isinstance(built, Encoder):
        raise ValueError(
            f"{type(config).__qualname__} builds a {type(built).__qualname__}, which is no Encoder; derive it from "
            "selfsup.Encoder, as docs/encoders.md shows"
        )
    return built


def require_readable(encoder: Encoder, config: Encoder.Config, size: tuple[int, int]) -> None:
    """Raise ValueError where an encoder of the user's own is not what the stages need.

    Its settings must be read back as they were, a network built from them must take its tensors, and its features must
    be (B, feature_dim). Of encoders that are shipped nothing is tried: tests do.

    Args:
        encoder: as `config.build` made it; not changed.
        config: its settings.
        size: height and width of an image, in pixels.
    """
    if is_shipped(type(config)):
        return
    with torch.random.fork_rng([]), torch.no_grad():
        try:
            if restore_encoder(dump(config)) != config:
                raise ValueError(f"its settings come back from a file as others: {dump(config)}")
            _require_same(encoder, config)
            _require_features(encoder, (config.channels, *size))
        except ValueError as error:
            raise ValueError(_refusal(config, error)) from error


def require_readable_head(head: tuple[HeadConfig, dict[str, Tensor]] | None, feature_dim: int) -> None:
    """As `require_readable`, of what a method exports beside its encoder."""
    if head is None or is_shipped(type(head[0])):
        return
    config, tensors = head
    with torch.random.fork_rng([]):
        try:
            if restore(dump(config), HeadConfig, "head") != config:
                raise ValueError(f"its settings come back from a file as others: {dump(config)}")
            lay_out(tensors)
            filled(lambda: config.build(feature_dim), config, tensors, Path("its own file"))
        except ValueError as error:
            raise ValueError(_refusal(config, error)) from error


def _refusal(config: Encoder.Config | HeadConfig, error: ValueError) -> str:
    return f"what {type(config).__qualname__} builds could not be read after training: {error}"


def _require_same(encoder: nn.Module, config: Encoder.Config) -> None:
    tensors = encoder.state_dict()
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} of its state is no tensor and cannot be stored; keep it in the settings")
    lay_out(tensors)
    filled(config.build, config, tensors, Path("its own file"))


def _require_features(encoder: Encoder, size: tuple[int, int, int]) -> None:
    dim = getattr(encoder, "feature_dim", None)
    if type(dim) is not int or dim < 1:
        raise ValueError(f"feature_dim is {dim!r}; it must be the number of features, 1 or more")
    trial = copy.deepcopy(encoder).eval()
    features = trial(torch.zeros(2, *size))
    if not isinstance(features, Tensor) or features.shape != (2, dim):
        found = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise ValueError(f"of 2 images its features are {found}, and (2, {dim}) was promised by feature_dim")
