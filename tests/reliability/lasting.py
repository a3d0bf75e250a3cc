"""R12, R14 and R16: other processes in mid-run, the same seed again, and many steps."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from selfsup.augment.parameters import Jitter, View
from selfsup.augment.views import Augment
from selfsup.models.resnet import ResNet
from selfsup.pretraining import Run, pretrain
from tests.reliability import moving
from tests.reliability.figure import Figure, Measured
from tests.reliability.watched import told_of_views
from tests.support.processes import run_processes
from tests.support.tiny import METHODS, MOCO, QUICK, array_file, photographs, tiny_run

# R14: the same seed again


def _hash(folder: Path) -> str:
    return hashlib.sha256((folder / "encoder.safetensors").read_bytes()).hexdigest()


def hashes(runs: list[Run]) -> list[str]:
    """Of the encoder that each run exports."""
    for run in runs:
        pretrain(run)
    return [_hash(Path(run.folder)) for run in runs]


def measure_seeds(folder: Path, quick: bool) -> Measured:
    photos = photographs(folder / "photographs", 128)
    methods = QUICK[:2] if quick else tuple(METHODS)
    found: dict[str, set[str]] = {}

    def run(method: str, name: str, **changes: Any) -> Run:
        return tiny_run(folder / name, method, **({"epochs": 1} | changes))

    runs = 0
    for method in methods:
        found[f"{method}, 1 process"] = set(hashes([run(method, f"{method}_{n}") for n in range(2)]))
        runs += 2
    for method in ("simclr",) if quick else ("simclr", "moco", "spcl"):
        for world in (1, 2):
            again = [
                run(method, f"{method}_{world}_{workers}_{n}", root=str(photos), workers=workers)
                for workers in (0, 2, 4)
                for n in range(2)
            ]
            parts = [hashes(again)] if world == 1 else run_processes(world, hashes, again)
            runs += len(again)
            found[f"{method}, {world} process(es), photographs, 0, 2 and 4 workers"] = set().union(*parts)
    other = hashes([run(methods[0], "other_seed", seed=1)])[0]
    told = other not in found[f"{methods[0]}, 1 process"]
    unlike = [name for name, values in found.items() if len(values) > 1]
    return Measured(
        figure=f"{len(unlike)} of {len(found)} configurations with more than one encoder hash, in {runs} runs; another "
        f"seed gives {'another' if told else 'the same'} one",
        good=not unlike and told,
        reason="; ".join(unlike),
        details={name: sorted(values) for name, values in found.items()},
    )


# R16: many steps

STEPS, PERIOD = 20_000, 100  # and steps between readings
WARM_UP = 0.3  # of the steps, while pools and caches fill
# A scalar tensor that is kept at every step costs about 500 KB in 1,000 steps, a view of this run's 12 MB. What is
# below is the allocator's, and would be 64 MB in a run of a million steps.
KB_PER_1000_STEPS = 64.0
EPOCHS_OF_WORKERS = 40


class Reading(NamedTuple):
    """Of this process, at a step."""

    step: int
    kilobytes: float  # resident
    handles: int  # open files, sockets and pipes


def soak(run: Run, period: int) -> list[Reading]:
    """`pretrain`, with a reading every `period` steps."""
    process, readings, steps = psutil.Process(), [], 0

    def read(*_: object) -> None:
        nonlocal steps
        if steps % period == 0:
            readings.append(Reading(steps, process.memory_info().rss / 1024, process.num_fds()))
        steps += 1

    with told_of_views(read):
        pretrain(run)
    return readings


def slope(steps: list[int], values: list[float]) -> float:
    """Growth per 1,000 steps: the median, over fifths of the readings, of the median slope of their pairs (Sen 1968).

    A cache that is filled late, all at once, does not move it; a leak moves it by what is leaked.
    """
    slopes = []
    for x, y in zip(np.array_split(np.array(steps, float), 5), np.array_split(np.array(values, float), 5), strict=True):
        i, j = np.triu_indices(len(x), k=1)
        slopes.append(np.median((y[j] - y[i]) / (x[j] - x[i])))
    return float(np.median(slopes)) * 1000


def after_warm_up(readings: list[Reading]) -> list[Reading]:
    return readings[round(WARM_UP * len(readings)) :]


def long_run(folder: Path, steps: int) -> Run:
    """MoCo with a net and views of hardly anything; 400 steps an epoch, evaluated and saved again and again."""
    source = array_file(folder / "shapes.npz", 6400)
    view = View(size=8, crop="shifted", shift=1, jitter=Jitter(probability=0.0))  # the cheapest that differ
    run = tiny_run(
        folder / "long",
        "moco",
        root=str(source),
        encoder=ResNet.Config(depth="small", stem="small", width=1 / 16),
        augment=Augment(views=(view, view)),
        epochs=max(1, steps // 400),
        max_steps=steps,
        evaluate_every=1,
        knn_bank=200,
        knn_k=20,
        save_steps=100,
        log_every=20,
    )
    return replace(run, method=replace(MOCO, batch_norm="plain"))


def measure_soak(folder: Path, quick: bool) -> Measured:
    steps = 1000 if quick else STEPS
    read = soak(long_run(folder, steps), 20 if quick else PERIOD)
    photos = photographs(folder / "photographs", 64)
    epochs = 10 if quick else EPOCHS_OF_WORKERS
    forked = soak(tiny_run(folder / "forked", "simclr", root=str(photos), workers=2, epochs=epochs), 4)
    return judged_soak(steps, read, epochs, forked, KB_PER_1000_STEPS * (8 if quick else 1))


def judged_soak(steps: int, read: list[Reading], epochs: int, forked: list[Reading], allowed: float) -> Measured:
    later = after_warm_up(read)
    growth = slope([item.step for item in later], [item.kilobytes for item in later])
    handles = [more_handles(readings) for readings in (read, forked)]
    return Measured(
        figure=f"{growth:+.0f} KB of memory per 1,000 steps (at most {allowed:.0f}) and {handles[0]:+d} file handles "
        f"in {steps} steps, the warm-up apart; {handles[1]:+d} handles over {epochs} epochs of 2 workers each",
        good=growth <= allowed and max(handles) <= 0,
        details={
            "kilobytes_per_1000_steps": growth,
            "readings": [list(item) for item in read],
            "with_workers": [list(item) for item in forked],
        },
    )


def more_handles(readings: list[Reading]) -> int:
    """File handles in the last third of the readings over those in the second half of the warm-up.

    The lowest of each count: a batch on its way from a worker holds files for a moment, more often on a busy machine,
    and a handle that leaks is held at every reading.
    """
    warm = len(readings) - len(after_warm_up(readings))
    earlier, later = readings[warm // 2 : warm], readings[-len(readings) // 3 :]
    return min(item.handles for item in later) - min(item.handles for item in earlier)


FIGURES = (
    moving.FIGURE,
    Figure(
        name="R14",
        goal="the same seed twice: the same encoder, in 1 and 2 processes with 0, 2 and 4 workers",
        minutes=3,
        measure=measure_seeds,
    ),
    Figure(
        name="R16",
        goal="20,000 steps: memory and file handles flat",
        minutes=8,
        measure=measure_soak,
    ),
)
