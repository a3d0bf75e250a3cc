"""Whether a run folder's data are the ones that it was made for, and in words what differs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfsup.data.base import Source
from selfsup.data.identity import Content, in_first, manifest_of
from selfsup.data.manifest import KEPT, Manifest, changes, read_manifest
from selfsup.data.settings import Verify
from selfsup.output import message
from selfsup.storage import checkpoint

_SINCE_CONTENT = ("labelled",)  # facts that are recorded since content is; the digest of labels covered them before
Contents = Mapping[str, Content]  # by the fact that it is: "images" that are trained on, "test"


def with_content(facts: dict[str, Any], contents: Contents) -> dict[str, Any]:
    """Facts of a run, those of its data included."""
    return {name: content.fact for name, content in contents.items()} | facts


def from_before_content(recorded: Any) -> bool:
    """Whether a fact of data is one of the releases that looked at number, labels and three names alone."""
    return isinstance(recorded, dict) and "names" in recorded


def brought_up(recorded: dict[str, Any], facts: dict[str, Any], contents: Contents) -> dict[str, Any]:
    """Recorded facts in today's form, where those of an earlier release say of the data what can be said so of today's.

    Args:
        recorded: the facts of a run folder.
        facts: of today, with content.
        contents: of today's data.
    """
    known = dict(recorded)
    for name, content in contents.items():
        if from_before_content(recorded.get(name)):
            same = [fact for fact, value in content.before.items() if recorded.get(fact) == value]
            added = [fact for fact in _SINCE_CONTENT if fact not in recorded]
            known |= {fact: facts[fact] for fact in [*same, *added] if fact in facts}
    return known


def data_differences(folder: Path, recorded: dict[str, Any], contents: Contents) -> list[str]:
    """What is not as the folder records it, for each data set that is not: "images: 3 files changed, the first a.jpg".

    Args:
        folder: of the run, where `keep_manifests` left what it knows.
        recorded: its facts, `brought_up`.
        contents: of today's data.
    """
    return [
        f"{name}: {_said(folder, name, recorded.get(name), content)}"
        for name, content in contents.items()
        if recorded.get(name) != content.fact
    ]


def _said(folder: Path, name: str, recorded: Any, content: Content) -> str:
    if from_before_content(recorded):
        then, now = recorded, content.before[name]
        unlike = [what for what in ("count", "names", "labels_sha256") if then.get(what) != now[what]]
        return ", ".join(f"{what} {then.get(what)} then, {now[what]} now" for what in unlike)
    if content.manifest is None:
        return "other content; the first process tells what differs"
    try:
        kept = read_manifest(manifest_of_run(folder, name))
        if not isinstance(recorded, dict) or kept.content != recorded.get("content"):
            raise ValueError(f"{manifest_of_run(folder, name)} is of other data")
    except (OSError, ValueError) as error:
        then = recorded.get("count") if isinstance(recorded, dict) else "other"
        return f"other content, {then} images then, {content.fact['count']} now (what differs cannot be told: {error})"
    return changes(kept.manifest, content.manifest)


def keep_manifests(folder: Path, recorded: dict[str, Any], contents: Contents) -> None:
    """Write what is known of the data to contents/, and say it where an earlier release knew less."""
    if any(from_before_content(recorded.get(name)) for name in contents):
        message(
            "this run knew its data by their number, labels and three names only, and these are as they were; from "
            "now on it knows them by content"
        )
    for name, content in contents.items():
        path = manifest_of_run(folder, name)
        if content.manifest is None or (path.is_file() and recorded.get(name) == content.fact):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write_atomically(path, content.manifest.packed())


def trained_on(folder: Path, sources: Sequence[Source], verify: Verify) -> list[str]:
    """Names of the images that have the content of one that the run was trained on, in their order.

    Files and entries of archives are compared by size and digest, see docs/protocols.md, arrays by their pixels unless
    they have more than 65,536 images. Empty where the folder keeps no manifest that can be read. All processes must
    call it.
    """

    def look() -> dict[str, list[str]]:
        try:
            known = _entries(read_manifest(manifest_of_run(folder, "images")).manifest)
        except (OSError, ValueError):  # of an earlier release; or whoever goes on with the run is told of the damage
            return {"names": []}
        found: list[str] = []
        for source in sources:
            manifest = manifest_of(source, verify == "full")
            if len(manifest.names) == len(source):
                found += [source.name(row) for row, entry in enumerate(_list_of(manifest)) if entry in known]
        return {"names": found}

    names: list[str] = in_first(look)["names"]
    return names


def _list_of(manifest: Manifest) -> list[tuple[int, bytes] | None]:
    """Size and digest of each entry; None where nothing was read."""
    pairs = zip(manifest.sizes.tolist(), manifest.digests[:, :KEPT], strict=True)
    return [(size, digest.tobytes()) if digest.any() and size >= 0 else None for size, digest in pairs]


def _entries(manifest: Manifest) -> set[tuple[int, bytes]]:
    return {entry for entry in _list_of(manifest) if entry is not None}


def manifest_of_run(folder: Path, name: str) -> Path:
    """Where a run folder keeps what is in its data of that name."""
    return folder / "contents" / f"{name}.manifest"
