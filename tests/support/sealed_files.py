"""Files of a run with something else in them, sealed as if that were right."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from selfsup.storage.sealed import seal


def rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Let a JSON file say what `change` returns, or, where that is None, what it made of the content in place."""
    content = json.loads(path.read_text())
    content.pop("checksum", None)
    changed = change(content)
    path.write_bytes(seal(content if changed is None else changed))


def put(value: Any, keys: tuple[str, ...], content: dict[str, Any]) -> None:
    """Put a value where the keys lead."""
    for key in keys[:-1]:
        content = content[key]
    content[keys[-1]] = value


def replace_in_checkpoint(place: Path, name: str, content: bytes) -> None:
    """Another file in a checkpoint, which its manifest lists."""
    (place / name).write_bytes(content)
    listed = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(place / "manifest.json", lambda manifest: put(listed, ("files", name), manifest))


def put_tensors(place: Path, name: str, tensors: dict[str, Tensor]) -> None:
    """Other tensors in a checkpoint."""
    replace_in_checkpoint(place, name, save(tensors))
