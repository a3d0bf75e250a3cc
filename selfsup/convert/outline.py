"""What a network's settings alone say of it: names and shapes of its tensors."""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import torch

from selfsup.convert.layout import Refused
from selfsup.models.encoder import Encoder
from selfsup.storage.untrusted import plain_name


class Outline(NamedTuple):
    """What is known of a network without its weights."""

    shapes: Mapping[str, tuple[int, ...]]  # of its tensors, by name
    feature_dim: int


@lru_cache(maxsize=16)
def outline(config: Encoder.Config) -> Outline:
    """Names and shapes of an encoder's tensors; nothing is allocated.

    Raises:
        Refused: there is no such network.
    """
    try:
        with torch.device("meta"):
            encoder = config.build()
    except (RuntimeError, OverflowError, MemoryError, TypeError) as error:
        raise Refused(f"{config.title} cannot be built: {plain_name(error, 200)}") from error
    return Outline({name: tuple(t.shape) for name, t in encoder.state_dict().items()}, int(encoder.feature_dim))
