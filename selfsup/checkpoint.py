"""Checkpoints that are whole or not there: written aside, verified by digest, never unpickled.

A checkpoint is a folder: tensors in safetensors, the rest in JSON, and a manifest with the size and SHA-256 of every
file, written last. It is written into a temporary sibling, synced to disk, renamed, and only then are older ones
removed, so that at every moment the newest complete checkpoint is on disk.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

SCHEMA = 1
_NAME = re.compile(r"step_(\d{8,})")


class Checkpoint(NamedTuple):
    path: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]  # by file: "method", "optimizer"
    state: dict[str, Any]


class StorageError(OSError):
    """The disk would not take or give what was asked; the message names the path and what is needed."""


class DamagedFile(ValueError):
    """A file is not what its manifest says."""


def serialize(tensors: dict[str, Tensor]) -> bytes:
    """Safetensors bytes of a state: the same for equal tensors, whatever their device or memory format."""
    return safetensors.torch.save({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()})


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes) -> None:
    """Write one file so that it is old or new, never between.

    Raises:
        StorageError: the disk has no room or refuses; what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write(temporary, content)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path} ({len(content)} bytes needed): {error.strerror}") from error


def save(folder: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any], keep: int = 2) -> Path:
    """Save one checkpoint as `folder/step_XXXXXXXX`; then remove later ones and all but the newest `keep`.

    Later ones are damaged: the run was resumed from before them.

    Raises:
        StorageError: no room (checked before anything is written), or the disk refuses. Older ones stay as they are.
    """
    final = folder / f"step_{step:08d}"
    temporary = folder / f".{final.name}.{os.getpid()}.tmp"
    contents = {f"{name}.safetensors": serialize(group) for name, group in tensors.items()}
    contents["state.json"] = json.dumps({"step": step, **state}, indent=1).encode()
    manifest = {name: {"size": len(c), "sha256": hashlib.sha256(c).hexdigest()} for name, c in contents.items()}
    needed = sum(len(content) for content in contents.values())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < needed + (1 << 20):
            raise StorageError(
                f"no room for checkpoint {final}: {needed} bytes needed, {free} free\n"
                "free some space and run the same command again; the checkpoint before this one is untouched"
            )
        temporary.mkdir()
        for name, content in contents.items():
            _write(temporary / name, content)
        _write(temporary / "manifest.json", json.dumps({"schema": SCHEMA, "files": manifest}, indent=1).encode())
        _sync_folder(temporary)
        if final.exists():  # a damaged one of the same step, which the resumed run has passed again
            shutil.rmtree(final)
        os.replace(temporary, final)
        _sync_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot write checkpoint {final} ({needed} bytes needed): {error.strerror}") from error
    present = steps(folder)
    earlier = [other for other in present if other <= step]
    for other in set(present) - set(earlier[-keep:]):
        shutil.rmtree(folder / f"step_{other:08d}")
    return final


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)))


def clean(folder: Path) -> None:
    """Remove what an interrupted save left behind."""
    for path in folder.glob(".step_*.tmp"):
        shutil.rmtree(path)


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        DamagedFile: a file is missing, has another size or digest, or the manifest cannot be read.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        schema, files = manifest["schema"], manifest["files"]
        listed = {name: (int(entry["size"]), str(entry["sha256"])) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFile(f"{path / 'manifest.json'}: {error}") from error
    if schema > SCHEMA:
        raise ValueError(f"{path} was written by a newer version (schema {schema}, this one reads {SCHEMA})")
    contents = {name: _verified(path / Path(name).name, *expected) for name, expected in listed.items()}
    state = json.loads(contents.pop("state.json"))
    tensors = {name.removesuffix(".safetensors"): safetensors.torch.load(c) for name, c in contents.items()}
    return Checkpoint(path, state.pop("step"), tensors, state)


def _verified(path: Path, size: int, digest: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DamagedFile(f"{path}: {error.strerror}") from error
    if len(content) != size:
        raise DamagedFile(f"{path}: {len(content)} bytes, {size} expected")
    if hashlib.sha256(content).hexdigest() != digest:
        raise DamagedFile(f"{path}: SHA-256 differs from the manifest")
    return content


def load_newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, and what was wrong with the newer ones that do not.

    Raises:
        ValueError: there are checkpoints and all of them are damaged.
    """
    damage: list[str] = []
    for step in reversed(steps(folder)):
        try:
            return load(folder / f"step_{step:08d}"), damage
        except DamagedFile as error:
            damage.append(str(error))
    if damage:
        listed = "\n".join(damage[:2])
        raise ValueError(f"every checkpoint in {folder} is damaged; remove the folder to start afresh\n{listed}")
    return None, damage


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        ValueError: there is no such file, or it is not safetensors.
    """
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: dict[Tensor, str]) -> dict[str, Tensor]:
    """The optimiser's state under readable names: "encoder.conv1.weight/momentum_buffer"."""
    return {
        f"{names[parameter]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, names: dict[Tensor, str], tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave, in the memory format of each parameter.

    Raises:
        ValueError: the state belongs to other parameters.
    """
    parameters = {name: parameter for parameter, name in names.items()}
    optimizer.state.clear()
    for key, value in tensors.items():
        name, _, entry = key.rpartition("/")
        if name not in parameters:
            raise ValueError(f"the checkpoint holds optimiser state of {name!r}, which this method does not have")
        parameter = parameters[name]
        # AdamW's count of steps stays on the CPU, also where the parameter is a single number on the device.
        if value.shape == parameter.shape and entry != "step":
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        optimizer.state[parameter][entry] = value
