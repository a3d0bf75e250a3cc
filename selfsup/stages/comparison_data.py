"""In words, which runs of a comparison were trained and judged on different data, and where these lie."""

from pathlib import Path
from typing import Any, NamedTuple

from selfsup.data.manifest import changes, read_manifest
from selfsup.run_folder.folder import RunFolder
from selfsup.run_folder.same_data import manifest_of_run
from selfsup.stages.base import Result
from selfsup.storage.untrusted import plain_name


class TrainedOn(NamedTuple):
    """The training images of a run."""

    content: str
    root: str  # where they were
    images: str  # how many
    manifest: Path  # the list of them in the run folder

    @property
    def told(self) -> str:
        return f"{self.root} ({self.images} images)"


def trained_on(run: Path) -> TrainedOn | None:
    """The data of a run; None where it records none by their content, or is not a run of its own.

    Raises:
        ValueError: its config.json is damaged.
    """
    folder = RunFolder(run)
    fact: Any = folder.facts().get("images")
    if not isinstance(fact, dict) or not isinstance(fact.get("content"), str):
        return None
    data: Any = folder.saved_run().get("data", {})
    root = data.get("root", "") if isinstance(data, dict) else ""
    root = " and ".join(map(str, root)) if isinstance(root, list) else root
    return TrainedOn(fact["content"], plain_name(root), plain_name(fact.get("count")), manifest_of_run(run, "images"))


def training_notes(runs: dict[Path, TrainedOn | None]) -> list[str]:
    """A line that names the data of all runs where they are not the same, and how they differ; else none."""
    by_content: dict[str, list[Path]] = {}
    for run, data in runs.items():
        if data is not None:
            by_content.setdefault(data.content, []).append(run)
    if len(by_content) < 2:
        return []
    first: TrainedOn | None = None
    parts = []
    for same in by_content.values():
        data = runs[same[0]]
        assert data is not None
        differing = "" if first is None else _differing(first, data)
        parts.append(f"{', '.join(map(str, same))} on {data.told}{differing}")
        first = first or data
    return [f"trained on different data: {'; '.join(parts)}"]


def _differing(first: TrainedOn, other: TrainedOn) -> str:
    """What is not as in the first data; empty where a list of images is gone or damaged."""
    try:
        old, new = (read_manifest(data.manifest).manifest for data in (first, other))
    except (OSError, ValueError):
        return ""
    return f", beside the first with {changes(old, new)}"


def judging_notes(results: dict[Path, list[tuple[str, Result]]]) -> list[str]:
    """Where the data lie that the digests in headings stand for, where figures are of more than one; else none."""
    digests: dict[tuple[str, str], set[str]] = {}
    roots: dict[str, dict[str, None]] = {}
    for part, result in (pair for found in results.values() for pair in found):
        digest, root = result.protocol.get("data"), result.data_root
        if isinstance(digest, str):
            digests.setdefault((part, result.stage), set()).add(digest)
            roots.setdefault(digest, {}).update({plain_name(root): None} if root else {})
    several = {digest for found in digests.values() if len(found) > 1 for digest in found}
    return [f"data={digest}: {', '.join(named)}" for digest, named in roots.items() if digest in several and named]
