"""Disks that fill up, refuse or fail below a running `selfsup pretrain`.

    python -m tests.reliability.crash_disks FOLDER    the cases; with --disk also those of a full and a read-only disk

With --disk it must run in a mount namespace of its own, where FOLDER/disk is a small tmpfs.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from selfsup.storage import checkpoint
from tests.support.kills import at_point, command, exit_code, forked, recipe

DISK = 8 << 20  # bytes of the small disk
EVERY = 4  # steps between saves
WRITTEN = checkpoint.POINTS[:5]  # before the new checkpoint has its name


class Case(NamedTuple):
    """One disk that does not do what it should."""

    name: str
    within: Callable[[Path], None]  # what goes wrong, called in the process of the command
    before: Callable[[Path], None] = lambda folder: None  # ... or before it, called in this one
    after: Callable[[Path], None] = lambda folder: None  # the remedy
    bytes_named: bool = True
    told: str = ""  # what the message says beside that
    flags: tuple[str, ...] = ()


def nothing(folder: Path) -> None:
    pass


def fill(folder: Path, left: int) -> None:
    """Write a file until so many bytes are left on the disk."""
    with open(folder.parent / "filler", "wb") as file:
        while (free := shutil.disk_usage(folder).free) > left:
            file.write(bytes(min(free - left, 1 << 20)))
            file.flush()


def all_but_the_reserve(folder: Path) -> None:
    """Leave room for a checkpoint, but not for the run's other files."""
    newest = max((folder / "checkpoints").glob("step_*"))
    fill(folder, sum(path.stat().st_size for path in newest.iterdir()) + (512 << 10))


def empty(folder: Path) -> None:
    (folder.parent / "filler").unlink()


def small_files(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


def failing(point: str) -> Callable[[Path], None]:
    def fail(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    return lambda folder: at_point(point, 1, fail)


def filled_at(point: str) -> Callable[[Path], None]:
    return lambda folder: at_point(point, 1, lambda _: fill(folder, 64 << 10))


def read_only(folder: Path) -> None:
    place = str(folder / "checkpoints")
    subprocess.run(["mount", "--bind", place, place], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)


def writable(folder: Path) -> None:
    subprocess.run(["umount", str(folder / "checkpoints")], check=True)


def cases(disk: bool) -> list[Case]:
    found = [Case(f"EIO, {point}", failing(point), bytes_named=point in WRITTEN) for point in checkpoint.POINTS]
    both = [Case("limit on the size of files", small_files)]
    if disk:
        both += [
            Case("no room from the beginning", nothing, lambda folder: fill(folder, 600 << 10), empty),
            Case("room beside no reserve", nothing, all_but_the_reserve, empty, told="beside a reserve of 1048576,"),
            Case("full in the middle of a file", filled_at("opened"), after=empty),
            Case("read-only folder", nothing, read_only, writable),
        ]
    return found + [case._replace(flags=(flag,)) for case in both for flag in ("--save-async", "--no-save-async")]


def problems(case: Case, folder: Path, stopped: Path, encoder: bytes) -> list[str]:
    """What is wrong with how a run in `folder`, a copy of the one in `stopped`, takes it."""
    shutil.copytree(stopped, folder)
    words: list[str | Path] = ["pretrain", stopped.with_suffix(".py"), "--folder", folder, *case.flags]

    def carry_out() -> None:
        case.within(folder)
        command(*words)

    case.before(folder)
    before = checkpoint.steps(folder / "checkpoints")
    log = stopped.with_name("log")
    code = exit_code(forked(carry_out, log))
    text = log.read_text()
    found, damage = checkpoint.load_newest(folder / "checkpoints")
    wrong = []
    if code != 2 or "Traceback" in text:
        wrong.append(f"ended with {code}: {text}")
    if (
        str(folder / "checkpoints") not in text
        or (case.bytes_named and "bytes needed" not in text)
        or case.told not in text
    ):
        wrong.append(f"does not tell what is wrong where: {text}")
    if found is None or damage or found.step < before[-1]:
        wrong.append(f"the checkpoint before is lost: {damage}")
    if any(name.endswith(".tmp") for name in os.listdir(folder / "checkpoints")):
        wrong.append("leaves half a checkpoint behind")
    case.after(folder)
    code = exit_code(forked(lambda: command(*words), log))
    if code or (folder / "encoder.safetensors").read_bytes() != encoder:
        wrong.append(f"does not go on to the same bits afterwards: {log.read_text()}")
    left = [name for name in os.listdir(folder / "checkpoints") if not name.startswith("step_")]
    if left:
        wrong.append(f"leaves {left}")
    shutil.rmtree(folder)
    return [f"{case.name} {' '.join(case.flags)}: {line}" for line in wrong]


def main(folder: Path, disk: bool) -> None:
    torch.set_num_threads(1)
    place = folder / "disk" if disk else folder
    if disk:
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)], check=True)
    stopped = place / "stopped"
    words: list[str | Path] = ["pretrain", recipe(stopped, 5, EVERY), "--max-steps", str(2 * EVERY)]
    whole: list[str | Path] = ["pretrain", stopped.with_suffix(".py"), "--folder", place / "whole"]
    for each in (words, whole):
        if exit_code(forked(lambda each=each: command(*each), place / "log")):  # type: ignore[misc]
            raise RuntimeError((place / "log").read_text())
    encoder = (place / "whole" / "encoder.safetensors").read_bytes()
    shutil.rmtree(place / "whole")
    tried = cases(disk)
    wrong = [line for case in tried for line in problems(case, place / "run", stopped, encoder)]
    print(json.dumps({"cases": [f"{case.name} {' '.join(case.flags)}".strip() for case in tried], "wrong": wrong}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--disk" in sys.argv)
