"""The result of a run: an encoder's weights, and what is needed to build it and to feed it."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from selfsup import distributed
from selfsup.catalogue import restore_encoder
from selfsup.config.schema import SCHEMA, in_present_names
from selfsup.config.settings import dump, restore
from selfsup.config.stored_names import nearest, stored_name
from selfsup.data.channels import MOST, Channels, reading_of
from selfsup.data.levels import parse_levels
from selfsup.dtensor import full_state
from selfsup.evaluation.built import built
from selfsup.evaluation.feed import Preprocessing
from selfsup.evaluation.reading import Layer
from selfsup.methods.base import Method
from selfsup.models.encoder import Encoder
from selfsup.models.heads import Classifier, HeadConfig
from selfsup.storage import checkpoint
from selfsup.storage.sealed import seal, unseal
from selfsup.storage.untrusted import plain_name, require_file, require_room

_ABOUT = ("schema", "encoder", "feed", "sha256", "made_by", "head")  # entries of encoder.json
HEAD = "head.safetensors"
Built = TypeVar("Built", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An encoder read from disk, in evaluation mode."""

    encoder: Encoder
    config: Encoder.Config
    head: nn.Module | None  # (B, feature_dim) -> (B, D), the embeddings that the loss was about, not normalised
    feed: Preprocessing
    sha256: str
    made_by: dict[str, Any]
    step: int | None = None  # of the checkpoint that it is from; None where the run was finished

    @property
    def protocol(self) -> dict[str, Any]:
        """What figures of this encoder are to be told apart by: the transform, and the step of an unfinished run."""
        unfinished = {} if self.step is None else {"pretraining_step": self.step}
        return {"transform": self.feed.transform, **unfinished}

    @property
    def suffix(self) -> str:
        """Ends the names of folders of stages that train; empty where the run was finished."""
        return "" if self.step is None else f"_step{self.step}"

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
    config: Encoder.Config,
    feed: Preprocessing,
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
    checkpoint.write_atomically(path.with_suffix(".json"), seal(about))
    return digest


def export(method: Method, path: Path, config: Encoder.Config, feed: Preprocessing, made_by: dict[str, Any]) -> str:
    """`save_encoder` of what was trained, with its head, by the main process; returns the SHA-256 there, "" elsewhere.

    Every process must call it, and all wait for the files.
    """
    digest = ""
    state, head = full_state(method.encoder_state()), method.head_state()
    if head is not None:
        head = head[0], full_state(head[1])
    if distributed.rank() == 0:
        digest = save_encoder(path, state, config, feed, made_by, head)
    distributed.barrier()
    return digest


def _weights(path: Path) -> Path:
    return path / "encoder.safetensors" if path.is_dir() else path


def trained_range(path: Path) -> str:
    """`data.range` of the images that an encoder was trained on; "type" where none can be read."""
    try:
        found = unseal(_weights(path).with_suffix(".json"), _ABOUT)["feed"]["range"]
        parse_levels(found)
    except (OSError, KeyError, TypeError, ValueError, AttributeError):  # load_encoder tells what is wrong
        return "type"
    return str(found)


def _beside(path: Path) -> str:
    """A sentence part on run folders beside a path where nothing is, as finetune_1pct_step3 is beside finetune_1pct."""
    if path.exists() or not path.parent.is_dir():
        return ""
    runs = sorted(folder.name for folder in path.parent.iterdir() if (folder / "config.json").is_file())
    return nearest(path.name, [plain_name(name) for name in runs]).replace("; did", ", did")


def trained_channels(path: Path) -> Channels:
    """`data.channels` of the images that an encoder was trained on; "rgb" where none can be read."""
    try:
        count = len(unseal(_weights(path).with_suffix(".json"), _ABOUT)["feed"]["mean"])
    except (OSError, KeyError, TypeError, ValueError, AttributeError):  # load_encoder tells what is wrong
        return "rgb"
    return reading_of(count) if 1 <= count <= MOST else "rgb"


def load_encoder(path: Path) -> Exported:
    """Read an encoder from a run folder or from its encoder.safetensors.

    Raises:
        ValueError: no encoder is there, the two files do not belong together, or one of them is damaged.
    """
    weights = _weights(path)
    if os.path.lexists(weights):
        require_file(weights)
    if not weights.is_file():
        unfinished = path.is_dir() and (path / "config.json").is_file()
        remedy = "run the same pretrain command again to finish it" if unfinished else "give a run folder or the file"
        raise ValueError(f"there is no encoder at {weights}; {remedy}{_beside(path)}")
    beside = weights.with_suffix(".json")
    about = _read_about(beside)
    try:
        config = restore_encoder(about["encoder"])
        # Fields that an older file lacks take their defaults.
        feed: Preprocessing = restore({**about["feed"], "class": stored_name(Preprocessing)}, Preprocessing)
        recorded, made_by, head = about["sha256"], about["made_by"], about.get("head")
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        kept = ", ".join(map(str, sorted(weights.parent.glob("code/*.py"))))
        code = f"\nthe run folder keeps the code of its own classes: {plain_name(kept, 200)}" if kept else ""
        raise ValueError(f"{beside} cannot be read: {reason}; it must lie beside the weights{code}") from error
    _check_digest(weights, recorded)
    encoder = filled(config.build, config, checkpoint.read_tensors(weights), weights)
    return Exported(
        encoder=encoder.eval().to(memory_format=torch.channels_last),
        config=config,
        head=_load_head(weights.with_name(HEAD), head, encoder.feature_dim) if head is not None else None,
        feed=feed,
        sha256=recorded,
        made_by=made_by,
    )


def _read_about(path: Path) -> dict[str, Any]:
    """What encoder.json holds, in the names of today."""
    try:
        about = unseal(path, _ABOUT)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}; it must lie beside the weights") from error
    return in_present_names(about, path)


def _check_digest(path: Path, recorded: str) -> None:
    require_room(path)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != recorded:
        raise ValueError(
            f"{path} is damaged or belongs to another .json: SHA-256 {digest[:12]} is not the recorded one"
        )


def _load_head(path: Path, about: dict[str, Any], feature_dim: int) -> nn.Module | None:
    """The head beside an encoder; None where only the encoder was taken along."""
    if not os.path.lexists(path):
        return None
    try:
        recorded = about["sha256"]
        config: HeadConfig = restore(about["config"], HeadConfig)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"what is said of {path} cannot be read: {error}") from error
    _check_digest(path, recorded)
    return filled(lambda: config.build(feature_dim), config, checkpoint.read_tensors(path), path).eval()


def filled(build: Callable[[], Built], settings: Any, tensors: dict[str, Tensor], path: Path) -> Built:
    """A network with these tensors; nothing is allocated before it is known that they are those it has.

    Args:
        build: makes the network from settings that may come from anyone.
        settings: those, for messages.
        tensors: of all its weights.
        path: of the file that they are from, for messages.

    Raises:
        ValueError: the settings are of no network, or of another.
    """
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in built(build, settings, f"beside {path}").state_dict().items()}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    other = [name for name in sorted(wanted.keys() | found.keys()) if wanted.get(name) != found.get(name)]
    if other:
        raise ValueError(
            f"{path} does not hold what is said beside it: {len(other)} tensors differ, the first is "
            f"{plain_name(other[0])}"
        )
    network = build()
    network.load_state_dict(tensors)
    return network
