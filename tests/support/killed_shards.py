"""Runs on shards and tables, killed in the middle of an epoch and gone on with."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp

from selfsup.pretraining import Run, pretrain
from selfsup.storage import checkpoint
from selfsup.training import trainer
from tests.support.containers import Sample, arrow_file, shard, table
from tests.support.launching import same_weights
from tests.support.processes import run_processes
from tests.support.tiny import photographs, tiny_run

SAVED, KILLED, STEPS = 5, 6, 8  # of steps, 4 an epoch

Write = Callable[[Path, list[bytes]], Path]


def webdataset(folder: Path, images: list[bytes]) -> Path:
    """Shards of 24 samples."""
    samples: list[Sample] = [(f"{n:04}", {"jpg": image, "cls": str(n % 5).encode()}) for n, image in enumerate(images)]
    for first in range(0, len(samples), 24):
        shard(folder / f"train-{first // 24:04}.tar", samples[first : first + 24])
    return folder


def hugging_face(folder: Path, images: list[bytes]) -> Path:
    """Arrow files of 40 rows."""
    whole = table(images, [number % 5 for number in range(len(images))], "abcde")
    for first in range(0, len(images), 40):
        arrow_file(folder / "train" / f"data-{first // 40:05}-of-00002.arrow", whole.slice(first, 40), rows=16)
    return folder


def _whole(run: Run) -> int:
    return int(pretrain(run)["step"])


def _killed(run: Run) -> int:
    """The process is killed as it begins a step in the middle of the second epoch."""
    plain = trainer.Trainer.step

    def step(self: trainer.Trainer, number: int, *rest: Any) -> Any:
        if number == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, number, *rest)

    trainer.Trainer.step = step  # type: ignore[assignment, method-assign]
    return _whole(run)


def goes_on(folder: Path, write: Write, world: int, workers: tuple[int, ...]) -> dict[int, str]:
    """What is wrong with a killed run, by its number of workers; "" where it ends with the bits of a whole one."""
    photos = sorted(photographs(folder / "photos").rglob("*.jpg"))
    root = write(folder / "data", [path.read_bytes() for path in photos])
    run = tiny_run(folder / "whole", "moco", str(root), save_steps=SAVED, save_async=False)
    if run_processes(world, _whole, run) != [STEPS] * world:
        return dict.fromkeys(workers, "the whole run did not end")
    return {count: _wrong(folder, replace(run, workers=count), world) for count in workers}


def _wrong(folder: Path, run: Run, world: int) -> str:
    cut = replace(run, folder=str(folder / f"cut{run.workers}"))
    try:
        run_processes(world, _killed, cut)
        return "it was not killed"
    except mp.ProcessExitedException:
        pass
    found, _ = checkpoint.load_newest(Path(cut.folder) / "checkpoints")
    if found is None or found.step != SAVED:
        return f"the newest checkpoint is of step {found.step if found else None}"
    if run_processes(world, _whole, cut) != [STEPS] * world:
        return "it did not end"
    return "" if same_weights(folder / "whole", Path(cut.folder)) else "other bits"
