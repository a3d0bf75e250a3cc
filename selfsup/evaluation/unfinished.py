"""The encoder of a run folder of fine-tuning or distillation that is not finished: that of its newest checkpoint.

What such a stage trains follows from an encoder that may be gone by then, and from the data. So its run folder says it
from the beginning, in network.json.
"""

import hashlib
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from selfsup.catalogue import restore_encoder
from selfsup.config.schema import SCHEMA, in_present_names
from selfsup.config.settings import dump, restore
from selfsup.config.stored_names import stored_name
from selfsup.evaluation.encoder import Exported, filled
from selfsup.evaluation.feed import Preprocessing
from selfsup.methods.base import Method
from selfsup.models.encoder import Encoder
from selfsup.models.heads import HeadConfig
from selfsup.run_folder.folder import RunFolder
from selfsup.storage import checkpoint
from selfsup.storage.untrusted import plain_name

_NAME = "network.json"


class Described(NamedTuple):
    """What is said of an encoder beside its weights."""

    config: Encoder.Config
    feed: Preprocessing
    made_by: dict[str, Any]  # without the number of steps


def describe(folder: RunFolder, method: Method, described: Described) -> None:
    """Write what a stage trains to its folder, so that it can be judged before its end."""
    head = method.head_state()
    about = {
        "schema": SCHEMA,
        "encoder": dump(described.config),
        "feed": asdict(described.feed),
        "made_by": described.made_by,
        "head": dump(head[0]) if head else None,
    }
    folder.write_sealed(_NAME, about)


def encoder_of_stage(folder: RunFolder) -> Exported:
    """The encoder, with its head, as an export at the newest checkpoint would hold it.

    Raises:
        ValueError: there is no checkpoint, nothing says what the stage trains, or the two do not fit.
    """
    path = folder.path / _NAME
    about = folder.read_sealed(_NAME)
    if not about:
        raise ValueError(
            f"{folder.path} is not finished, and has no {_NAME} that says what it trains\n"
            "run the same command again to finish it"
        )
    about = in_present_names(about, path)
    try:
        config = restore_encoder(about["encoder"])
        feed: Preprocessing = restore({**about["feed"], "class": stored_name(Preprocessing)}, Preprocessing)
        head: HeadConfig | None = restore(about["head"], HeadConfig) if about["head"] is not None else None
        made_by: dict[str, Any] = dict(about["made_by"])
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{plain_name(error)} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} cannot be read: {reason}") from error
    found, _ = checkpoint.load_newest(folder.checkpoints)
    if found is None:
        raise ValueError(f"{folder.path} has neither an encoder nor a checkpoint yet; run the same command again")
    place = found.path / "method.safetensors"
    state = _part(found, "encoder.")
    encoder = filled(config.build, config, state, place)
    read_head = None
    if head is not None:
        read_head = filled(partial(head.build, encoder.feature_dim), head, _part(found, "head."), place)
    return at_checkpoint(found.step, encoder, read_head, state, Described(config, feed, made_by))


def at_checkpoint(
    step: int, encoder: Encoder, head: nn.Module | None, state: dict[str, Tensor], described: Described
) -> Exported:
    """What an export at this step would be read as.

    Args:
        step: of the checkpoint.
        encoder: with its weights.
        head: likewise; None where none would be exported.
        state: what the encoder's file would hold.
        described: what would be said of it.
    """
    return Exported(
        encoder=encoder.eval().to(memory_format=torch.channels_last),
        config=described.config,
        head=None if head is None else head.eval(),
        feed=described.feed,
        sha256=hashlib.sha256(checkpoint.serialize(state)).hexdigest(),
        made_by=described.made_by | {"steps": step},
        step=step,
    )


def _part(found: checkpoint.Checkpoint, prefix: str) -> dict[str, Tensor]:
    tensors = found.tensors.get("method", {})
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
