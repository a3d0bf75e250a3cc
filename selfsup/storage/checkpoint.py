"""Checkpoints that are whole or not there: written aside, verified by digest, never unpickled.

A checkpoint is a folder: tensors in safetensors, the rest in JSON, and a sealed manifest with the size and SHA-256 of
every file, written last. It is written into a hidden sibling, synced to disk, renamed, and only then are older ones
removed: renamed to hidden names, and deleted. So at every moment the newest complete checkpoint is on disk, and what
a visible name belongs to is whole.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
from torch import Tensor

from selfsup.storage.sealed import DamagedFile, seal, unseal
from selfsup.storage.tensor_file import lay_out
from selfsup.storage.untrusted import create, parse_json, read_bytes, require_file, require_room

SCHEMA = 1
_NAME = re.compile(r"step_(\d{8,})")
_LEFT_BEHIND = re.compile(r"\..+\.(\d+|[0-9a-f]{16})\.(tmp|removed)")
_SPARE = 1 << 20  # bytes left free beside a checkpoint, for the run's other files


class Checkpoint(NamedTuple):
    path: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]  # by file: "method", "optimizer"
    state: dict[str, Any]


class StorageError(OSError):
    """The disk would not take or give what was asked; the message names the path and what is needed."""


# Where writing may be cut short, in order.
POINTS = ("opened", "mid-write", "before-sync", "synced", "before-rename", "renamed", "pruning", "pruned")


def fault_point(point: str, path: Path) -> None:
    """Nothing. Whoever wants to see writing fail, or end, at one of POINTS puts a function of his own in this place."""


def serialize(tensors: dict[str, Tensor]) -> bytes:
    """Safetensors bytes of a state: the same for equal tensors, whatever their device or memory format."""
    return b"".join(lay_out(tensors).pieces())


def _hidden(path: Path, why: str) -> Path:
    """A name beside `path` that `clean` knows and nobody foresees."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.{why}")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(path: Path, pieces: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write and sync a file; returns its size and SHA-256."""
    digest, size = hashlib.sha256(), 0
    with create(path) as file:
        fault_point("opened", path)
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
            fault_point("mid-write", path)
        file.flush()
        fault_point("before-sync", path)
        os.fsync(file.fileno())
    fault_point("synced", path)
    return {"size": size, "sha256": digest.hexdigest()}


def write_atomically(path: Path, content: bytes) -> None:
    """Write one file so that it is old or new, never between.

    Raises:
        StorageError: the disk has no room or refuses; what was there before is untouched.
    """
    temporary = _hidden(path, "tmp")
    try:
        _write(temporary, [content])
        fault_point("before-rename", path)
        os.replace(temporary, path)
        fault_point("renamed", path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path} ({len(content)} bytes needed): {error.strerror}") from error


def save(
    folder: Path,
    step: int,
    tensors: dict[str, dict[str, Tensor]],
    state: dict[str, Any],
    keep_last: int = 2,
    kept: bool = False,
) -> Path:
    """Save one checkpoint as `folder/step_XXXXXXXX`; then remove later ones, and older ones but the newest `keep_last`.

    Later ones are damaged: the run was resumed from before them. One that was `kept` is not removed when it is older.

    Raises:
        StorageError: no room (checked before anything is written), or the disk refuses. Older ones stay as they are.
    """
    final = folder / f"step_{step:08d}"
    temporary = _hidden(final, "tmp")
    files = {f"{name}.safetensors": lay_out(group) for name, group in tensors.items()}
    beside = json.dumps({"step": step, **state}, indent=1).encode()
    needed = sum(file.size for file in files.values()) + len(beside)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < needed + _SPARE:
            before = "; the checkpoint before this one is untouched" if steps(folder) else ""
            raise StorageError(
                f"no room for checkpoint {final}: {needed} bytes needed beside a reserve of {_SPARE}, {free} free\n"
                f"free some space and run the same command again{before}"
            )
        temporary.mkdir()
        listed = {name: _write(temporary / name, file.pieces()) for name, file in files.items()}
        listed["state.json"] = _write(temporary / "state.json", [beside])
        _write(temporary / "manifest.json", [seal({"schema": SCHEMA, "kept": kept, "files": listed})])
        _sync_folder(temporary)
        fault_point("before-rename", final)
        if final.exists():  # a damaged one of the same step, which the resumed run has passed again
            _remove(final)
        os.replace(temporary, final)
        fault_point("renamed", final)
        _sync_folder(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"cannot write checkpoint {final} ({needed} bytes needed): {error.strerror}") from error
    _prune(folder, step, keep_last)
    return final


def _prune(folder: Path, step: int, keep_last: int) -> None:
    present = steps(folder)
    earlier = [other for other in present if other <= step]
    surplus = [other for other in earlier[:-keep_last] if not _kept(folder / f"step_{other:08d}")]
    try:
        for other in surplus + [other for other in present if other > step]:
            _remove(folder / f"step_{other:08d}")
        fault_point("pruned", folder)
    except OSError as error:
        raise StorageError(f"cannot remove old checkpoints from {folder}: {error.strerror}") from error


def _remove(path: Path) -> None:
    """Delete a folder, which from the first moment on has a hidden name that `clean` knows."""
    hidden = _hidden(path, "removed")
    os.replace(path, hidden)
    fault_point("pruning", path)
    shutil.rmtree(hidden)


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)))


def clean(folder: Path) -> None:
    """Remove what interrupted saves, and interrupted removals, left behind in a folder that no other process writes."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _LEFT_BEHIND.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif _LEFT_BEHIND.fullmatch(path.name):
            path.unlink()


def load(path: Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        DamagedFile: a file is missing, has another size or digest, or the manifest cannot be read.
    """
    manifest = _manifest(path)
    try:
        listed = {name: (int(entry["size"]), str(entry["sha256"])) for name, entry in manifest["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DamagedFile(f"{path / 'manifest.json'} is damaged: {error!r}") from error
    contents = {name: _verified(path / Path(name).name, *expected) for name, expected in listed.items()}
    try:  # whoever writes a file of his own can write its checksum, too
        state = parse_json(contents.pop("state.json"), path / "state.json")
        step = state.pop("step")
        tensors = {name.removesuffix(".safetensors"): safetensors.torch.load(c) for name, c in contents.items()}
    except (KeyError, ValueError, safetensors.SafetensorError) as error:
        raise DamagedFile(f"{path} holds no checkpoint: {error}") from error
    if type(step) is not int or step < 0:
        raise DamagedFile(f"{path / 'state.json'} is damaged: there is no step {step!r}")
    if (named := _NAME.fullmatch(path.name)) and int(named[1]) != step:
        raise DamagedFile(f"{path / 'state.json'} is of step {step}, and the folder's name of another")
    return Checkpoint(path, step, tensors, state)


def _manifest(path: Path) -> dict[str, Any]:
    """The manifest of a checkpoint. Raises DamagedFile; ValueError where a later version wrote it."""
    try:
        manifest = unseal(path / "manifest.json", older=("schema", "files"))
    except OSError as error:
        raise DamagedFile(f"{path / 'manifest.json'}: {error.strerror}") from error
    schema = manifest.get("schema")
    if not isinstance(schema, int) or schema < 1 or (schema > SCHEMA and "kept" not in manifest):
        raise DamagedFile(f"{path / 'manifest.json'} is damaged: there is no schema {schema!r}")
    if schema > SCHEMA:
        raise ValueError(f"{path} was written by a newer version (schema {schema}, this one reads {SCHEMA})")
    return manifest


def _kept(path: Path) -> bool:
    try:
        return bool(_manifest(path).get("kept"))
    except DamagedFile:
        return False


def _verified(path: Path, size: int, digest: str) -> bytes:
    try:
        found = require_file(path)  # before anything is read
        content = read_bytes(path) if found == size else b""
    except (OSError, ValueError) as error:
        raise DamagedFile(str(error) if isinstance(error, ValueError) else f"{path}: {error.strerror}") from error
    if found != size or len(content) != size:
        raise DamagedFile(f"{path}: {found} bytes, {size} expected")
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
            damage.append(str(error).partition("\n")[0])
    if damage:
        listed = "\n".join(damage[:2])
        raise ValueError(f"every checkpoint in {folder} is damaged; remove the folder to start afresh\n{listed}")
    return None, damage


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file.

    Raises:
        ValueError: there is no such file, it is a pipe or a device, larger than the memory, or not safetensors.
    """
    if not path.exists():
        raise ValueError(f"there is no file {path}")
    try:
        require_room(path)
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
