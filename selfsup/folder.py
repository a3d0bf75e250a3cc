"""The run folder: what was run, with which versions, how it went, how good it is."""

import contextlib
import json
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from selfsup import checkpoint, distributed, inherited
from selfsup.config import differences, dump, result_relevant
from selfsup.sealed import seal, unseal
from selfsup.untrusted import is_text, read_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_CONFIG = ("result", "run")  # entries of config.json
EXTENSIONS = "extensions"  # the fact that lists what a run was extended by, in order
_MORE_EPOCHS = "; a finished pretraining gets more epochs by --extend.to-epoch"
_PACKAGES = ("selfsup", "torch", "torchvision", "kornia", "accelerate", "safetensors", "numpy", "pillow")


class RunFolder:
    """A folder that explains its run: config.json, environment.json, metrics.jsonl, checkpoints/, results/.

    Args:
        path: where; made when `claimed` is entered.
    """

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.encoder = path / "encoder.safetensors"

    def check(self, config: Any, facts: dict[str, Any]) -> None:
        """Make sure that the folder is free, or was made for this configuration and these facts.

        Args:
            config: fields declared with `execution` may differ, such as where the data lie.
            facts: what else must be the same, such as what the data are; the list of `EXTENSIONS` may have grown.

        Raises:
            ValueError: the folder holds a run of another configuration (what differs is listed), or something else.
        """
        saved = self.path / "config.json"
        if not is_text(str(self.path.resolve())):  # TensorBoard takes no other names
            raise ValueError(
                f"the name of run folder {self.path} is not UTF-8 as this Python reads it\n"
                "give another --folder, or set the environment variable PYTHONUTF8=1"
            )
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; give --folder the name of a folder")
        if saved.is_file():
            old = _as_extended(unseal(saved, _CONFIG).get("result", {}), facts)
            changed = differences(_completed(old, config), _relevant(config, facts))
            if changed:
                shown = "; ".join(changed[:6]) + ("; ..." if len(changed) > 6 else "")
                raise ValueError(
                    f"run folder {self.path} belongs to another configuration: {shown}\n"
                    "give this run another --folder, or the old settings to go on with the old run"
                    + (_MORE_EPOCHS if any(line.startswith("epochs: ") for line in changed) else "")
                )
        elif self.path.exists() and any(self.path.iterdir()):
            raise ValueError(f"folder {self.path} is not empty and holds no run; give another --folder")

    @contextlib.contextmanager
    def claimed(self, config: Any, facts: dict[str, Any], device: torch.device) -> Iterator[None]:
        """`check`, then make the folder or note another launch in it, and keep other launches out meanwhile.

        Raises:
            ValueError: as `check`, or another process is at work in the folder.
            StorageError: the folder cannot be written.
        """
        self.check(config, facts)
        distributed.barrier()  # every process has looked before the first one writes
        with self._locked() if distributed.rank() == 0 else contextlib.nullcontext():
            if distributed.rank() == 0:
                self._write(config, _relevant(config, facts), device)
            distributed.barrier()
            yield

    def _write(self, config: Any, relevant: Any, device: torch.device) -> None:
        self.write_sealed("config.json", {"result": relevant, "run": dump(config)})
        known = self.read_json("environment.json").get("launches", [])
        self.write_json("environment.json", {"launches": [*known, environment(device)]})
        checkpoint.clean(self.checkpoints)
        checkpoint.clean(self.path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Make the folder and hold its lock, which ends with this process however that ends."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            held = open(self.path / ".lock", "w")  # noqa: SIM115 (closed below)
        except OSError as error:
            raise checkpoint.StorageError(f"cannot make run folder {self.path}: {error.strerror}") from error
        with held:
            try:
                if fcntl is not None:  # some systems have no such locks
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ValueError(
                    f"another process is at work in {self.path}; wait for it, or give another --folder"
                ) from error
            yield

    @property
    def holds_run(self) -> bool:
        return (self.path / "config.json").is_file()

    def saved_run(self) -> dict[str, Any]:
        """The run's configuration as it was dumped; `selfsup.config.restore` makes objects of it.

        Raises:
            ValueError: this is no run folder.
        """
        if not self.holds_run:
            raise ValueError(f"{self.path} is not a run folder: it has no config.json")
        run = unseal(self.path / "config.json", _CONFIG).get("run")
        if not isinstance(run, dict):
            raise ValueError(f"{self.path / 'config.json'} does not say what was run; the file is damaged")
        return run

    def extensions(self) -> list[dict[str, Any]]:
        """What the run was extended by, in order; empty where there is no run yet."""
        result = unseal(self.path / "config.json", _CONFIG).get("result", {}) if self.holds_run else {}
        found: list[dict[str, Any]] = result.get("facts", {}).get(EXTENSIONS, [])
        return found

    def read_json(self, name: str) -> dict[str, Any]:
        """What `write_json` wrote, or an empty dictionary where there is no such file."""
        return read_json(self.path / name) if (self.path / name).is_file() else {}

    def write_json(self, name: str, content: Any) -> Path:
        """Write `name` inside the folder, atomically."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
        return path

    def read_sealed(self, name: str, *older: str) -> dict[str, Any]:
        """What `write_sealed` wrote, or an empty dictionary where there is no such file.

        Args:
            name: inside the folder.
            older: entries of such a file from before there were checksums.

        Raises:
            DamagedFile: a byte of the file has changed.
        """
        return unseal(self.path / name, older) if (self.path / name).is_file() else {}

    def write_sealed(self, name: str, content: dict[str, Any]) -> None:
        """As `write_json`, with a checksum."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomically(path, seal(content))


def _as_extended(saved: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """What was saved, with the new list of extensions where that begins with the old one."""
    old, new = saved.get("facts", {}), facts.get(EXTENSIONS, [])
    known = old.get(EXTENSIONS, [])
    return saved | {"facts": old | {EXTENSIONS: new}} if new and new[: len(known)] == known else saved


def _completed(saved: Any, config: Any) -> Any:
    """A saved configuration with the fields that its classes have got since: their defaults do what was done before."""
    if is_dataclass(config) and isinstance(saved, dict):
        parts = {f.name: getattr(config, f.name) for f in fields(config)}
        new = {f.name: f.default for f in fields(config) if f.name not in saved and not f.metadata.get("execution")}
        added = {name: result_relevant(default) for name, default in new.items() if default is not MISSING}
        return {name: _completed(value, parts.get(name)) for name, value in saved.items()} | added
    if isinstance(config, tuple) and isinstance(saved, list) and len(config) == len(saved):
        return [_completed(one, part) for one, part in zip(saved, config, strict=True)]
    return saved


def _relevant(config: Any, facts: dict[str, Any]) -> dict[str, Any]:
    return result_relevant(config) | {"facts": facts}


def environment(device: torch.device) -> dict[str, Any]:
    """What this process runs on, for the record."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": device_name(device),
        "processes": distributed.world_size(),
        "threads": torch.get_num_threads(),
        "launcher": inherited.recorded(),
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def device_name(device: torch.device) -> str:
    """A GPU by its name, a CPU by the number of threads used."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({torch.get_num_threads()} threads)"
