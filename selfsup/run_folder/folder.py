"""The run folder: what was run, with which versions, how it went, how good it is."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch

from selfsup import distributed
from selfsup.config.own_code import own_files
from selfsup.config.schema import SCHEMA, gone_settings, in_present_names
from selfsup.config.settings import CHANGED_DEFAULTS, differences, dump, placed, result_relevant
from selfsup.data.identity import Content
from selfsup.output import message
from selfsup.run_folder.begun import as_begun, completed, with_processes
from selfsup.run_folder.environment import environment
from selfsup.run_folder.same_data import brought_up, data_differences, keep_manifests, with_content
from selfsup.storage import checkpoint
from selfsup.storage.sealed import seal, unseal
from selfsup.storage.untrusted import is_text, open_own, read_json, require_own_folder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_FOLDERS = ("checkpoints", "tensorboard", "wandb", "mlflow", "results", "captured")  # inside a run folder
_CONFIG = ("schema", "result", "run", "defaults")  # entries of config.json
CODE = "code"  # the folder inside a run folder that keeps the files of its own classes
EXTENSIONS = "extensions"  # the fact that lists what a run was extended by, in order
_MORE_EPOCHS = "; a finished pretraining gets more epochs by --extend.to-epoch"
_NO_DATA: Mapping[str, Content] = MappingProxyType({})

Config = TypeVar("Config")


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

    def check(self, config: Any, facts: dict[str, Any], contents: Mapping[str, Content] = _NO_DATA) -> None:
        """Make sure that the folder is free, or was made for this configuration, these facts and these data.

        Args:
            config: fields declared with `execution` may differ, such as where the data lie.
            facts: what else must be the same, such as the encoder's hash; the list of `EXTENSIONS` may have grown.
            contents: of the data, by name: "images" for those that are trained on.

        Raises:
            ValueError: the folder holds a run of another configuration or of other data (what differs is listed), or
                something else.
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
            self._check_same(self._saved().get("result", {}), config, facts, contents)
        elif self.path.exists() and any(self.path.iterdir()):
            raise ValueError(f"folder {self.path} is not empty and holds no run; give another --folder")

    def _check_same(self, old: Any, config: Any, facts: dict[str, Any], contents: Mapping[str, Content]) -> None:
        old, now = _as_extended(old, facts), with_content(facts, contents)
        known = brought_up(old.get("facts", {}), now, contents)
        known = with_processes(known, facts, self.read_json("environment.json").get("launches", []))
        # What differs of the data is said in words, not by digests.
        other_data = data_differences(self.path, known, contents)
        known = known | {name: content.fact for name, content in contents.items()}
        changed = differences(completed(old | {"facts": known}, config), _relevant(config, now))
        if other_data:  # the names of labelled images follow from them
            changed = [line for line in changed if not line.startswith("facts.labelled:")]
        if changed:
            shown = "; ".join([*changed[:6], *(["..."] if len(changed) > 6 else []), *other_data])
            raise ValueError(
                f"run folder {self.path} belongs to another configuration: {shown}\n"
                "give this run another --folder, or the old settings to go on with the old run"
                + (_MORE_EPOCHS if any(line.startswith("epochs: ") for line in changed) else "")
            )
        if other_data:
            raise ValueError(
                f"run folder {self.path} belongs to other data; {'; '.join(other_data)}\n"
                "give this run another --folder, or by --data.root the old data to go on with the old run"
            )

    @contextlib.contextmanager
    def claimed(
        self, config: Any, facts: dict[str, Any], device: torch.device, contents: Mapping[str, Content] = _NO_DATA
    ) -> Iterator[None]:
        """`check`, then make the folder or note another launch in it, and keep other launches out meanwhile.

        Raises:
            ValueError: as `check`, or another process is at work in the folder.
            StorageError: the folder cannot be written.
        """
        self.check(config, facts, contents)
        distributed.barrier()  # every process has looked before the first one writes
        with self._locked() if distributed.rank() == 0 else contextlib.nullcontext():
            if distributed.rank() == 0:
                self._write(config, facts, contents, device)
            distributed.barrier()
            yield

    def _write(self, config: Any, facts: dict[str, Any], contents: Mapping[str, Content], device: torch.device) -> None:
        keep_manifests(self.path, self.facts(), contents)
        result = _relevant(config, with_content(facts, contents))
        content = {"schema": SCHEMA, "result": result, "run": dump(placed(config)), "defaults": self._defaults()}
        self.write_sealed("config.json", content)
        known = self.read_json("environment.json").get("launches", [])
        code = self._keep_code(config)
        self.write_json("environment.json", {"launches": [*known, environment(device) | code]})
        checkpoint.clean(self.checkpoints)
        checkpoint.clean(self.path)

    def _keep_code(self, config: Any) -> dict[str, Any]:
        """Copy the files of the run's own classes to code/; returns what a launch records of them: digests by name.

        A file that has changed since is said, and kept beside the older one.
        """
        digests = {}
        for file in own_files(config):
            content = file.read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            kept = self._place(f"{CODE}/{file.name}")
            if kept.is_file() and kept.read_bytes() != content:
                message(f"{file} has changed since this run began; the run goes on, and keeps both in {kept.parent}")
                kept = kept.with_name(f"{file.stem}_{digest[:8]}.py")
            checkpoint.write_atomically(kept, content)
            digests[kept.name] = digest
        return {"code": digests} if digests else {}

    def as_begun(self, config: Config) -> Config:
        """The configuration, with the defaults of its time where the folder holds a run from before they changed.

        Raises:
            DamagedFile: config.json is not as it was written.
        """
        if not self.holds_run:
            return config
        gone = gone_settings(unseal(self.path / "config.json", _CONFIG).get("run"))
        config, notes = as_begun(config, self.saved_run(), self._defaults())
        if gone and distributed.rank() == 0:
            message(f"the run was begun with settings that there are no more: {'; '.join(gone)}")
        if notes and distributed.rank() == 0:
            message(f"the run goes on with the defaults it was begun with: {', '.join(notes)}")
        return config

    def _defaults(self) -> int:
        """The number of the newest changed default that the run was begun with."""
        if not self.holds_run:
            return CHANGED_DEFAULTS
        number = self._saved().get("defaults", 0)
        if type(number) is not int:
            raise ValueError(f"{self.path / 'config.json'} does not say which defaults it was begun with")
        return number

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Make the folder and hold its lock, which ends with this process however that ends."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in _FOLDERS:
                require_own_folder(self.path / name)
            held = open_own(self.path / ".lock", "r+b")
        except OSError as error:
            why = error.strerror or str(error)
            raise checkpoint.StorageError(f"cannot make run folder {self.path}: {why}") from error
        with held:
            try:
                if fcntl is not None:  # some systems have no such locks
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ValueError(
                    f"another process is at work in {self.path}; wait for it, or give another --folder"
                ) from error
            yield

    def _saved(self) -> dict[str, Any]:
        """What config.json holds, in the names of today."""
        path = self.path / "config.json"
        return in_present_names(unseal(path, _CONFIG), path)

    @property
    def holds_run(self) -> bool:
        return (self.path / "config.json").is_file()

    def saved_run(self) -> dict[str, Any]:
        """The run's configuration as it was dumped; `selfsup.config.settings.restore` makes objects of it.

        Raises:
            ValueError: this is no run folder.
        """
        if not self.holds_run:
            raise ValueError(f"{self.path} is not a run folder: it has no config.json")
        run = self._saved().get("run")
        if not isinstance(run, dict):
            raise ValueError(f"{self.path / 'config.json'} does not say what was run; the file is damaged")
        return run

    def facts(self) -> dict[str, Any]:
        """What the run records of its data and all else that must stay the same; nothing where there is no run."""
        result = self._saved().get("result", {}) if self.holds_run else {}
        facts: dict[str, Any] = result.get("facts", {})
        return facts

    def extensions(self) -> list[dict[str, Any]]:
        """What the run was extended by, in order; empty where there is no run yet."""
        found: list[dict[str, Any]] = self.facts().get(EXTENSIONS, [])
        return found

    def read_json(self, name: str) -> dict[str, Any]:
        """What `write_json` wrote, or an empty dictionary where there is no such file."""
        return read_json(self.path / name) if (self.path / name).is_file() else {}

    def write_json(self, name: str, content: Any) -> Path:
        """Write `name` inside the folder, atomically."""
        path = self._place(name)
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
        checkpoint.write_atomically(self._place(name), seal(content))

    def _place(self, name: str) -> Path:
        """Of a file inside the folder, whose own folder is made."""
        path = self.path / name
        if path.parent != self.path:
            require_own_folder(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _as_extended(saved: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """What was saved, with the new list of extensions where that begins with the old one."""
    old, new = saved.get("facts", {}), facts.get(EXTENSIONS, [])
    known = old.get(EXTENSIONS, [])
    return saved | {"facts": old | {EXTENSIONS: new}} if new and new[: len(known)] == known else saved


def _relevant(config: Any, facts: dict[str, Any]) -> dict[str, Any]:
    relevant: dict[str, Any] = result_relevant(config)
    return relevant | {"facts": facts}
