"""Runs on shards and tables, killed in the middle of an epoch and gone on with."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.support.containers import Sample, arrow_file, shard, table
from tests.support.killed_runs import whole, wrong
from tests.support.processes import run_processes
from tests.support.tiny import photographs, tiny_run

Write = Callable[[Path, list[bytes]], Path]


def webdataset(folder: Path, images: list[bytes]) -> Path:
    """Shards of 24 samples."""
    samples: list[Sample] = [(f"{n:04}", {"jpg": image, "cls": str(n % 5).encode()}) for n, image in enumerate(images)]
    for first in range(0, len(samples), 24):
        shard(folder / f"train-{first // 24:04}.tar", samples[first : first + 24])
    return folder


def hugging_face(folder: Path, images: list[bytes]) -> Path:
    """Arrow files of 40 rows."""
    rows = table(images, [number % 5 for number in range(len(images))], "abcde")
    for first in range(0, len(images), 40):
        arrow_file(folder / "train" / f"data-{first // 40:05}-of-00002.arrow", rows.slice(first, 40), rows=16)
    return folder


def goes_on(folder: Path, write: Write, world: int, workers: tuple[int, ...]) -> dict[int, str]:
    """What is wrong with a killed run, by its number of workers; "" where it ends with the bits of a whole one."""
    photos = sorted(photographs(folder / "photos").rglob("*.jpg"))
    root = write(folder / "data", [path.read_bytes() for path in photos])
    run = tiny_run(folder / "whole", "moco", str(root))
    run_processes(world, whole, run)
    cut = {count: replace(run, folder=str(folder / f"cut{count}"), workers=count) for count in workers}
    return {count: wrong(folder / "whole", run, world) for count, run in cut.items()}
