"""The run folder: what was run, with which versions, how it went, how good it is."""

import json
import platform
import shlex
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from selfsup import checkpoint, distributed
from selfsup.config import differences, dump, result_relevant

_PACKAGES = ("selfsup", "torch", "torchvision", "kornia", "accelerate", "safetensors", "numpy", "pillow")


class RunFolder:
    """A folder that explains its run: config.json, environment.json, metrics.jsonl, checkpoints/, results/.

    Args:
        path: where; made when `claim` is called.
    """

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.tensorboard = path / "tensorboard"
        self.encoder = path / "encoder.safetensors"

    def claim(self, config: Any, data: dict[str, Any], device: torch.device) -> None:
        """Make the folder for this configuration and these data, or make sure that it was made for them.

        Where the data lie may change; what they are, as `data` tells, may not.

        Raises:
            ValueError: the folder holds a run of another configuration (what differs is listed), or something else.
            StorageError: the folder cannot be written.
        """
        saved, relevant = self.path / "config.json", result_relevant(config) | {"images": data}
        if saved.is_file():
            old = _read_json(saved)
            changed = differences(old.get("result", {}), relevant)
            if changed:
                shown = "; ".join(changed[:6]) + ("; ..." if len(changed) > 6 else "")
                raise ValueError(
                    f"run folder {self.path} belongs to another configuration: {shown}\n"
                    "give this run another --folder, or the old settings to go on with the old run"
                )
        elif self.path.exists() and any(self.path.iterdir()):
            raise ValueError(f"folder {self.path} is not empty and holds no run; give another --folder")
        distributed.barrier()  # every process has looked before the first one writes
        if distributed.rank() == 0:
            self._write(config, relevant, device)
        distributed.barrier()

    def _write(self, config: Any, relevant: Any, device: torch.device) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise checkpoint.StorageError(f"cannot make run folder {self.path}: {error.strerror}") from error
        self.write_json("config.json", {"result": relevant, "run": dump(config)})
        launches = self.path / "environment.json"
        known = _read_json(launches)["launches"] if launches.is_file() else []
        self.write_json("environment.json", {"launches": [*known, environment(device)]})
        checkpoint.clean(self.checkpoints)

    def saved_run(self) -> dict[str, Any]:
        """The run's configuration as it was dumped; `selfsup.config.restore` makes objects of it.

        Raises:
            ValueError: this is no run folder.
        """
        saved = self.path / "config.json"
        if not saved.is_file():
            raise ValueError(f"{self.path} is not a run folder: it has no config.json")
        run: dict[str, Any] = _read_json(saved)["run"]
        return run

    def write_json(self, name: str, content: Any) -> Path:
        """Write `name` inside the folder, atomically."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
        return path


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    return content


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
