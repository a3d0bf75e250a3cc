"""Files of weights from anywhere, as tensors by flat names. Nothing in them is run."""

import hashlib
import pickle
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from selfsup.convert import tf_bundle
from selfsup.convert.layout import SEPARATOR, Refused
from selfsup.storage.untrusted import plain_name, read_json, require_room

_DEEPEST = 20  # dictionaries in one another
_MOST = 1_000_000  # entries
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of a folder of Hugging Face's or timm's
_WRAPPED = re.compile(rf"^((?:.*{SEPARATOR})?)module\.")


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a file holds."""

    path: Path  # of the weights themselves
    tensors: dict[str, Tensor]  # by flat names, see selfsup.convert.layout
    config: dict[str, Any]  # config.json in the same folder, where the file is safetensors or a .bin
    preprocessor: dict[str, Any]  # preprocessor_config.json, likewise
    sha256: str  # of the file; of a TensorFlow checkpoint of all its files, one after another


def weights_in(path: Path) -> Path | None:
    """The file of weights that a path means: itself, one in a folder, or the index of a TensorFlow checkpoint."""
    if path.is_dir():
        found = [path / name for name in _WEIGHTS if (path / name).is_file()] or sorted(path.glob("*.ckpt*.index"))
        return found[0] if found else None
    if path.is_file() and not re.search(r"\.data-\d+-of-\d+$", path.name):
        return path
    index = Path(re.sub(r"\.data-\d+-of-\d+$", "", str(path)) + ".index")
    return index if index.is_file() else None


def read(path: Path, inert: Iterable[str] = ()) -> Contents:
    """The tensors of a file of weights: saved by torch, safetensors, or a TensorFlow checkpoint.

    Args:
        path: of the file; or a folder that holds model.safetensors or pytorch_model.bin; or the prefix of a checkpoint.
        inert: full names of classes that are read as dictionaries of what they hold; nothing of theirs is called.

    Raises:
        Refused: there is no such file, it is damaged, or holds more than tensors and plain values.
    """
    found = weights_in(path)
    if found is None:
        raise Refused(
            f"there are no weights at {plain_name(path)}; give a .pth or .safetensors file, a folder with "
            "model.safetensors, or a TensorFlow checkpoint"
        )
    files = [found]
    require_room(found)
    if found.suffix == ".index":
        tensors, files = _tensorflow(found)
    elif found.suffix == ".safetensors":
        tensors = _safetensors(found)
    else:
        tensors = dict(_flat(_unpickled(found, tuple(inert)), found))
    if not tensors:
        raise Refused(f"{plain_name(found)} holds no tensors")
    for name, tensor in tensors.items():
        _require_plain(name, tensor, found)
    beside = found.parent if found.suffix in (".safetensors", ".bin") else None
    return Contents(
        path=found,
        tensors={_WRAPPED.sub(r"\1", name, count=1): tensor for name, tensor in tensors.items()},
        config=_json(beside, "config.json"),
        preprocessor=_json(beside, "preprocessor_config.json"),
        sha256=_digest(files),
    )


def _tensorflow(index: Path) -> tuple[dict[str, Tensor], list[Path]]:
    try:
        return tf_bundle.read(index)
    except (ValueError, OSError) as error:
        raise Refused(f"{plain_name(index)} cannot be read as a TensorFlow checkpoint: {error}") from error


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load_file(path)
        return tensors
    except (safetensors.SafetensorError, OSError) as error:
        raise Refused(f"{plain_name(path)} is not a safetensors file: {plain_name(error, 200)}") from error


class _Inert(dict[str, Any]):
    """Stands for an object of a class that is not wanted: what it holds, as a dictionary."""

    def __init__(self, *held: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update((str(key), value) for key, value in state.items())


def _unpickled(path: Path, inert: tuple[str, ...]) -> Any:
    stands_in: list[Any] = [(_Inert, name) for name in inert]
    try:
        with torch.serialization.safe_globals(stands_in), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how an old file was pickled; what is in it is looked at below
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        UnicodeDecodeError,
    ) as error:  # torch's reader fails in many ways on what is no pickle
        text = str(error)
        if other := re.search(r"GLOBAL (\S+)|class (\S+)", text):
            name = plain_name((other[1] or other[2]).strip("'\"<>"), 100)
            raise Refused(
                f"{plain_name(path)} holds {name}, and only tensors and plain values are read; nothing of it was run\n"
                "whoever trusts its origin can save it anew, in the program that wrote it: "
                "torch.save(model.state_dict(), FILE)"
            ) from error
        with open(path, "rb") as file:
            known = file.read(2) in (b"PK", b"\x80\x02")  # of zip files, and of pickles as torch writes them
        told = plain_name(text, 200) if known else "it is no file of torch.save, no .safetensors, none of TensorFlow's"
        raise Refused(f"{plain_name(path)} holds no weights that can be read: {told}") from error


def _flat(content: Any, path: Path) -> Iterator[tuple[str, Tensor]]:
    """Tensors of nested dictionaries and lists by flat names."""
    waiting, seen = [("", content, 0)], 0
    while waiting:
        name, value, depth = waiting.pop()
        seen += 1
        if depth > _DEEPEST or seen > _MOST:
            raise Refused(f"{plain_name(path)} is nested more than {_DEEPEST} deep, or has over {_MOST} entries")
        if isinstance(value, Tensor):
            yield name, value.detach()
        elif isinstance(value, dict | list | tuple):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [(f"{name}{SEPARATOR}{key}" if depth else str(key), item, depth + 1) for key, item in items]


def _require_plain(name: str, tensor: Tensor, path: Path) -> None:
    """Raise Refused for a tensor that is not what it seems: of no ordinary kind, or larger than the file."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise Refused(f"{plain_name(path)}: {plain_name(name)} is a tensor of another kind ({tensor.layout})")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise Refused(f"{plain_name(path)}: {plain_name(name)} claims more values than it holds")


def _json(folder: Path | None, name: str) -> dict[str, Any]:
    """A JSON file beside weights; {} where there is none. A run's own config.json says nothing of weights."""
    if folder is None or not (folder / name).is_file():
        return {}
    found = read_json(folder / name)
    return {} if "checksum" in found else found


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            while piece := file.read(1 << 22):
                digest.update(piece)
    return digest.hexdigest()
