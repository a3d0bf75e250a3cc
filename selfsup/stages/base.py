"""What every stage shares: the form of a result, and of the stage as a command knows it."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from selfsup.config.schema import SCHEMA, in_present_names
from selfsup.config.settings import placed, restore
from selfsup.data.settings import Data
from selfsup.evaluation.encoder import trained_channels, trained_range
from selfsup.evaluation.foreign import is_foreign
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.settings import Help
from selfsup.storage.untrusted import plain_name


@dataclass(frozen=True, kw_only=True)
class Result:
    """Figures, how they came about, and of what.

    Two results of one stage may stand in one column where their protocols are equal. What differs between runs that are
    to be compared, such as the encoder and the seeds, is in `about`.
    """

    stage: str  # names the file: results/<stage>.json
    figures: dict[str, float]
    protocol: dict[str, Any]  # k, T, metric, layer, transform, labels, split, numbers of images
    about: dict[str, Any] = field(default_factory=dict)  # encoder_sha256, seed, what was chosen on the way
    data_root: str = field(default="", compare=False)  # where the data lie; what they are is in the protocol

    def flat(self) -> dict[str, Any]:
        """One level, for the line on standard output."""
        return {**self.figures, **self.protocol, **self.about}


class Evaluated(NamedTuple):
    """How a stage ended; one that was stopped has no results yet."""

    results: list[Result]
    reason: str = "finished"
    signal: int = 0
    folder: Path | None = None  # the stage's own run folder, where it made one: its results are kept there
    told: dict[str, Any] | None = None  # what the JSON object says of a stage that has no figures to keep

    def line(self) -> dict[str, Any]:
        """The JSON object of the command: the first result, with the other ones in a list."""
        ended: dict[str, Any] = (self.told or {}) | {"reason": self.reason, "signal": self.signal}
        if self.folder is not None:
            ended["run"] = str(self.folder)
        if not self.results:
            return ended
        first, *others = (result.flat() for result in self.results)
        return first | ({"others": others} if others else {}) | ended


class Stage(NamedTuple):
    """A command on a run folder or an encoder file: `selfsup NAME RUN [--protocol P] [flags]`."""

    run: Callable[[Path, Any], Evaluated]  # of RUN, and the settings
    defaults: Callable[[Path, str], Any]  # of RUN and the protocol's name: settings, each field a flag
    help: Help


class Command(NamedTuple):
    """A command on weights: `selfsup NAME WORD [flags]`, of a module NAMEing."""

    usage: str  # how it is called, in a line
    word: str  # what its first word stands for, in the usage
    what: str  # the same for people, where it is missing
    settings: Callable[[], Any]  # with all defaults, each field a flag
    run: Callable[[Path, Any], dict[str, Any]]  # of the path and the settings; the figures
    explained: Callable[[], str]  # examples, and what there is to choose from


def examples_and(examples: str, what: str, table: Mapping[str, Any]) -> str:
    """Examples, and the entries of a table, each with its `title` in a line, for the help."""
    width = max(map(len, table)) + 2
    return f"{examples}\n{what}:\n" + "".join(f"  {name:{width}}{table[name].title}\n" for name in sorted(table))


def data_of(path: Path) -> Data:
    """The data that a run was trained on; of an encoder alone only how they were read."""
    folder = RunFolder(path)
    if not folder.holds_run or is_foreign(path):
        return Data(range=trained_range(path), channels=trained_channels(path))
    data: Data = restore(folder.saved_run().get("data", {}), Data)
    return data


def as_read(data: Data) -> dict[str, Any]:
    """What a protocol says of how images are read."""
    held_out = {} if data.holdout is None else {"holdout": data.holdout, "holdout_seed": data.holdout_seed}
    cut_short = {} if data.truncated == "refuse" else {"truncated": data.truncated}
    channels = {} if data.channels == "rgb" else {"channels": data.channels}
    ranged = {} if data.range == "type" else {"range": data.range}
    return {"canvas": data.canvas} | ranged | channels | held_out | cut_short


def place_of(data: Data) -> str:
    """Where the data of a result lie, for its `data_root`."""
    there: Data = placed(data)
    return there.place


def keep(folder: RunFolder, results: list[Result]) -> None:
    """Add results to the folder's files, in place of those with the same protocol and of those of another encoder.

    What was found of steps of the run before its end stays: the step stands in its protocol.
    """
    for stage in dict.fromkeys(result.stage for result in results):
        new = [result for result in results if result.stage == stage]
        encoder = new[0].about.get("encoder_sha256")
        said = [_as_json(result.protocol) for result in new]
        kept = [
            old
            for old in read(folder, stage)
            if (old.about.get("encoder_sha256") == encoder or "pretraining_step" in old.protocol)
            and _as_json(old.protocol) not in said
        ]
        content = {"schema": SCHEMA, "results": [asdict(result) for result in [*new, *kept]]}
        folder.write_sealed(f"results/{stage}.json", content)


def read(folder: RunFolder, stage: str) -> list[Result]:
    """The results of a stage, the newest first; none where it was never carried out.

    Raises:
        ValueError: the file is damaged, of an older layout, or of a newer schema.
    """
    content = folder.read_sealed(f"results/{stage}.json", "schema", "results")
    if not content:
        return []
    content = in_present_names(content, folder.path / "results" / f"{stage}.json")
    try:
        return [_result(item) for item in content["results"]]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{folder.path}/results/{stage}.json holds no results ({error}); delete it and evaluate again"
        ) from error


def _result(item: dict[str, Any]) -> Result:
    result = Result(**item)
    parts = (result.figures, result.protocol, result.about)
    if not (isinstance(result.stage, str) and isinstance(result.data_root, str)) or not all(
        isinstance(part, dict) for part in parts
    ):
        raise TypeError("its parts are of the wrong types")
    for name, value in result.figures.items():
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
            raise TypeError(f"the figure {plain_name(name, 80)} is {plain_name(value, 80)}, not a finite number")
    return result


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
