"""R1: stopped and resumed at every step boundary, every method ends with the bits of an uninterrupted run."""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from selfsup import distributed
from selfsup.pretraining import Run, pretrain
from tests.reliability import omitted, resume_stages
from tests.reliability.figure import Figure, Measured
from tests.reliability.watched import Seen, differing, watched
from tests.support.processes import run_processes
from tests.support.tiny import METHODS, QUICK, array_file, photographs, tiny_run

STEPS = 16  # of a tiny run, in 2 epochs
SOME = (5, 8, 11)  # in mid-epoch, and between the epochs
CPU = torch.device("cpu")


class Trial(NamedTuple):
    """One configuration that is interrupted."""

    name: str
    method: str
    workers: int = 0  # 0: images of an array; else photographs that so many processes decode
    alone: tuple[int, ...] = ()  # boundaries that are also resumed from on their own
    changes: tuple[tuple[str, Any], ...] = ()  # other fields of the run

    def run(self, folder: Path, images: Path) -> Run:
        root = images / ("photographs" if self.workers else "shapes.npz")
        run = tiny_run(folder, self.method, root=str(root), workers=self.workers, log_every=1, keep_last=STEPS)
        return replace(run, **dict(self.changes))


def trials(methods: tuple[str, ...], workers: int, alone: tuple[int, ...]) -> list[Trial]:
    return [
        Trial(f"{method}, {'photographs, 2 workers' if workers else 'array'}", method, workers, alone)
        for method in methods
    ]


def special() -> list[Trial]:
    """Settings that let a step take another way."""
    cached, frozen = ("grad_cache_chunk", 4), ("grad_cache_batch_norm", "frozen")
    found = [Trial(f"{method}, gradient caching", method, changes=(cached,)) for method in METHODS]
    found.append(Trial("simclr, gradient caching, frozen batch norm", "simclr", changes=(cached, frozen)))
    return [*found, Trial("moco, bf16", "moco", alone=SOME, changes=(("precision", "bf16"),))]


Inexact = dict[str, dict[str, Any]]  # by trial: how many resumes, and what was inexact at which


def interrupted(trials: list[Trial], folder: str) -> Inexact:
    """Interrupt each of the trials at every step; in this process, or in each of a group that exists.

    The images lie in `folder`, as photographs and as shapes.npz.

    Returns:
        by trial, "resumes" and "inexact": what differed after which resume, as this process sees it.
    """
    found: Inexact = {}
    for trial in trials:
        place = _shared_folder(folder)
        try:
            run = trial.run(place / "whole", Path(folder))
            expected = _train(replace(run, save_steps=1))
            inexact = _chain(run, expected, place)
            inexact |= {f"alone at {step}": what for step, what in _alone(run, expected, place, trial.alone)}
            found[trial.name] = {"resumes": STEPS - 1 + len(trial.alone), "inexact": inexact}
        finally:
            distributed.barrier()
            if distributed.rank() == 0:
                shutil.rmtree(place)
    return found


def _shared_folder(folder: str) -> Path:
    """A new folder that all processes know."""
    own = tempfile.mkdtemp(dir=folder) if distributed.rank() == 0 else ""
    return Path(distributed.gather_json(own, CPU)[0])


def _train(run: Run) -> list[Seen]:
    with watched() as seen:
        pretrain(run)
    return seen


def _chain(run: Run, expected: list[Seen], place: Path) -> dict[str, list[str]]:
    """Stopped after every step: resumed from a run that was resumed from a run, and so on."""
    cut, inexact = replace(run, folder=str(place / "cut")), {}
    for step in range(1, STEPS + 1):
        seen = _train(replace(cut, max_steps=step))
        if seen != expected[step - 1 : step]:
            inexact[f"step {step}"] = ["views"]
    if distributed.rank() == 0:
        for at, names in differing(place / "whole", place / "cut").items():
            inexact[f"step {at}"] = inexact.get(f"step {at}", []) + names
    return inexact


def _alone(run: Run, expected: list[Seen], place: Path, boundaries: tuple[int, ...]) -> Iterator[tuple[int, list[str]]]:
    """Resumed once, from what the uninterrupted run had saved at a boundary."""
    for step in boundaries:
        folder = place / f"from_{step}"
        if distributed.rank() == 0:
            copy_at(place / "whole", folder, step)
        distributed.barrier()
        seen = _train(replace(run, folder=str(folder)))
        wrong = [] if seen == expected[step:] else ["views"]
        if distributed.rank() == 0:
            wrong += sorted({name for names in differing(place / "whole", folder).values() for name in names})
        if wrong:
            yield step, wrong


def copy_at(whole: Path, folder: Path, step: int) -> None:
    """A run folder as it was when the checkpoint of `step` was the newest."""
    folder.mkdir()
    shutil.copy(whole / "config.json", folder)
    name = f"step_{step:08d}"
    shutil.copytree(whole / "checkpoints" / name, folder / "checkpoints" / name)


def over_processes(parts: list[Inexact]) -> Inexact:
    """What any process saw."""
    merged = parts[0]
    for part in parts[1:]:
        for name, found in part.items():
            for at, names in found["inexact"].items():
                merged[name]["inexact"].setdefault(at, []).extend(names)
    return merged


def measure(folder: Path, quick: bool) -> Measured:
    photographs(folder / "photographs", 128)
    array_file(folder / "shapes.npz", 128)
    methods = QUICK[1:3] if quick else tuple(METHODS)
    every = SOME if quick else tuple(range(1, STEPS))
    in_one = [*trials(methods, 0, every), *trials(methods, 2, SOME), *special()]
    divided = (("shard_encoder", True),)
    parts = [Trial(f"{method}, sharded encoder", method, changes=divided) for method in (*QUICK, "simclr_v2")]
    in_two = [*trials(methods, 0, SOME), *trials(methods, 2, ()), *parts]
    if quick:
        in_one, in_two = in_one[:3], in_two[:1]
    place = str(folder)
    found = {
        1: interrupted(in_one, place),
        2: over_processes(run_processes(2, interrupted, in_two, place)),
    }
    return judged(found)


def judged(found: dict[int, Inexact]) -> Measured:
    by_name = {f"{name}, world {world}": row for world in found for name, row in found[world].items()}
    resumes = sum(row["resumes"] for row in by_name.values())
    inexact = sum(len(row["inexact"]) for row in by_name.values())
    wrong = [f"{name}: {', '.join(row['inexact'])}" for name, row in by_name.items() if row["inexact"]]
    return Measured(
        figure=f"{inexact} of {resumes} resumes inexact, in {len(by_name)} configurations",
        good=not inexact and resumes > 0,
        reason="; ".join(wrong[:5]),
        details={"configurations": by_name},
    )


FIGURES = (
    Figure(
        name="R1",
        goal="every method x every step boundary x 1 and 2 processes x 0 and 2 workers: 0 inexact resumes",
        minutes=9,
        measure=measure,
    ),
    resume_stages.FIGURE,
    omitted.FIGURE,
)
