"""An encoder in one safetensors file that says itself what it is: what `selfsup export --to safetensors` writes."""

import hashlib
import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import safetensors
import torch
from torch import Tensor

from selfsup.catalogue import restore_encoder
from selfsup.config.schema import SCHEMA, in_present_names
from selfsup.config.settings import dump, restore
from selfsup.config.stored_names import stored_name
from selfsup.convert.layout import Refused
from selfsup.evaluation.encoder import Exported, filled
from selfsup.evaluation.feed import Preprocessing
from selfsup.models.encoder import Encoder
from selfsup.models.heads import HeadConfig
from selfsup.models.timm import Timm
from selfsup.storage import checkpoint
from selfsup.storage.untrusted import parse_json, plain_name, require_room

_KEY = "selfsup"  # of the file's metadata
LAYOUT = "selfsup"  # what imported weights are said to be of


def metadata(exported: Exported, with_head: bool, about: dict[str, Any]) -> dict[str, str]:
    """What a file says of itself, as safetensors has it: words by name.

    Args:
        exported: what it holds.
        with_head: whether it holds the head too.
        about: what other programs may want to know.
    """
    own = {
        "schema": SCHEMA,
        "encoder": dump(without_paths(exported.config)),
        "feed": asdict(exported.feed),
        "made_by": exported.made_by,
        "head": dump(cast(Any, exported.head).config) if with_head else None,
    }
    said = {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
    return {"format": "pt", **said, _KEY: json.dumps(own)}


def without_paths(config: Encoder.Config) -> Encoder.Config:
    """The settings of the same network, without the name of a file of this machine that training began from."""
    return replace(config, pretrained="") if isinstance(config, Timm.Config) else config


def described_in(path: Path) -> dict[str, Any] | None:
    """What a file says of the encoder in it; None where it is no safetensors file or says nothing."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    require_room(path)
    try:
        with safetensors.safe_open(path, "pt") as file:
            said = file.metadata() or {}
    except (safetensors.SafetensorError, OSError):  # whoever reads its tensors tells what is wrong
        return None
    return parse_json(said[_KEY].encode(), path) if _KEY in said else None


def require_described(path: Path) -> dict[str, Any]:
    """What a file says of the encoder in it. Raises Refused where it says nothing."""
    about = described_in(path)
    if about is None:
        raise Refused(f"{plain_name(path)} does not say what encoder it holds")
    return about


def described_encoder(path: Path, about: dict[str, Any], head: bool = True) -> Exported:
    """The encoder in a file that says what it is, in evaluation mode.

    Args:
        path: of the file.
        about: what `described_in` found.
        head: whether its head comes along.

    Raises:
        ValueError: it is damaged, or does not hold what it says.
    """
    about = in_present_names(about, path)
    try:
        config = restore_encoder(about["encoder"])
        feed: Preprocessing = restore({**about["feed"], "class": stored_name(Preprocessing)}, Preprocessing)
        head_config: HeadConfig | None = restore(about["head"], HeadConfig) if about["head"] is not None else None
        before: dict[str, Any] = dict(about["made_by"])
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{plain_name(error)} is missing" if isinstance(error, KeyError) else str(error)
        raise Refused(f"what {plain_name(path)} says of itself cannot be read: {reason}") from error
    tensors = checkpoint.read_tensors(path)
    behind: dict[str, Tensor] = {}
    if head_config is not None:
        behind = {n.removeprefix("head."): t for n, t in tensors.items() if n.startswith("head.")}
        tensors = {n.removeprefix("encoder."): t for n, t in tensors.items() if not n.startswith("head.")}
    encoder = filled(config.build, config, tensors, path)
    network = None
    if head_config is not None and head:
        network = filled(partial(head_config.build, encoder.feature_dim), head_config, behind, path).eval()
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    made_by = {
        "method": "import",
        "layout": LAYOUT,
        "network": "",
        "source": plain_name(path.name),
        "source_sha256": digest,
        "left_out": {"the head": len(behind)} if behind and not head else {},
        "notes": [f"{path.name} says itself that it holds {config.title}"],
        "made_by": before,
    }
    return Exported(
        encoder=encoder.eval().to(memory_format=torch.channels_last),
        config=config,
        head=network,
        feed=feed,
        sha256=hashlib.sha256(checkpoint.serialize(encoder.state_dict())).hexdigest(),
        made_by=made_by,
    )
