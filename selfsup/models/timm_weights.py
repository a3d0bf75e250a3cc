"""Weights that a network of timm begins from: a file of tensors, and whether they are of that network."""

import pickle
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from selfsup.models.channels import with_channels
from selfsup.storage.untrusted import plain_name

HUB = "hub"
_CLASSIFIER = ("head.", "fc.", "classifier.", "head_dist.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of one that torch.save wrote. Raises ValueError where there are none."""
    if not path.is_file():
        raise ValueError(f"there is no file {path} of pretrained weights; give a path, or {HUB}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, safetensors.SafetensorError, EOFError, OSError) as error:
        raise ValueError(f"{path} holds no weights that can be read: {plain_name(error, 200)}") from error
    for name in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} holds no dictionary of tensors")
    return found


def fill(network: nn.Module, tensors: dict[str, Tensor], where: str, name: str) -> None:
    """Load tensors of the same network, whose classifier is left out.

    Args:
        network: of timm.
        tensors: by its names, with `network.` before them or not.
        where: they are from, for messages.
        name: of the network.

    Raises:
        ValueError: they are of another network.
    """
    tensors = {key.removeprefix("network."): value for key, value in tensors.items()}
    wanted = network.state_dict()
    tensors = with_channels(tensors, wanted, where)
    missing = [key for key in wanted if key not in tensors or tensors[key].shape != wanted[key].shape]
    stray = [key for key in tensors if key not in wanted and not key.startswith(_CLASSIFIER)]
    if missing or stray:
        first = missing[0] if missing else stray[0]
        what = "missing or of another shape" if missing else "not in the network"
        raise ValueError(
            f"the weights of {where} are not of {name}: {len(missing) + len(stray)} tensors differ, "
            f"{plain_name(first)} is {what}"
        )
    network.load_state_dict({key: tensors[key] for key in wanted})
