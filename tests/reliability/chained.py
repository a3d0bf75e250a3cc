"""R19: five resumes in a row, each in a new process, end with the bits of an uninterrupted run; the state never grows.

R1 resumes after every step, in one process. Here nothing but the run folder passes from one process to the next, and
what is saved is weighed at each stop: a state that takes something along from resume to resume would grow.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from selfsup.pretraining import pretrain
from selfsup.storage import checkpoint
from tests.reliability import resume_stages
from tests.reliability.figure import Figure, Measured
from tests.reliability.resume import STEPS
from tests.reliability.watched import differing
from tests.support.processes import run_alone, run_processes
from tests.support.tiny import METHODS, QUICK, tiny_run

RESUMES = 5
Launch = Callable[[Path, dict[str, Any]], None]  # trains in a folder, with these settings changed, in new processes


def stops(steps: int) -> list[int]:
    """Five different steps of a run, in its middle and near both ends."""
    return sorted({max(1, round(steps * part / (RESUMES + 1))) for part in range(1, RESUMES + 1)})


def saved(folder: Path) -> dict[str, Any]:
    """What the newest checkpoint of a run consists of: its files and their bytes, and the places of its state."""
    newest = folder / "checkpoints" / f"step_{checkpoint.steps(folder / 'checkpoints')[-1]:08d}"
    held = checkpoint.load(newest)
    sizes = {path.name: path.stat().st_size for path in sorted(newest.glob("*.safetensors"))}
    beside = sorted(path.name for path in newest.parent.iterdir() if not path.name.startswith("step_"))
    files = sorted(path.name for path in newest.iterdir())
    return {"bytes": sizes, "state": _places(held.state), "files": files, "left behind": beside}


def _places(state: Any) -> Any:
    """The outline of a state: names of its parts and numbers of their members, without the values."""
    if isinstance(state, dict):
        return {name: _places(part) for name, part in state.items()}
    return len(state) if isinstance(state, list) else type(state).__name__


def chain(place: Path, launch: Launch) -> list[str]:
    """What is wrong with a run that is stopped and resumed five times."""
    whole, cut = place / "whole", place / "cut"
    launch(whole, {"save_steps": 1})
    found, steps = [], checkpoint.steps(whole / "checkpoints")[-1]
    boundaries = stops(steps)
    first: dict[str, Any] = {}
    for stop in [*boundaries, None]:
        launch(cut, {"max_steps": stop})
        now = saved(cut)
        first = first or now
        found += [f"{name} changed by step {stop or steps}" for name in first if now[name] != first[name]]
    if len(boundaries) < RESUMES:
        found.append(f"{len(boundaries)} resumes only")
    return found + [f"step {step}: {', '.join(names)}" for step, names in differing(whole, cut).items()]


def pretrained(method: str, world: int, folder: Path, changes: dict[str, Any]) -> None:
    run = replace(tiny_run(folder, method, log_every=1, keep_last=STEPS), **changes)
    if world == 1:
        run_alone(_pretrain, run)
    else:
        run_processes(world, _pretrain, run)


def _pretrain(run: Any) -> None:
    pretrain(run)


def staged(part: resume_stages.Part, folder: Path, changes: dict[str, Any]) -> None:
    run_alone(_stage, part, replace(part.settings, folder=str(folder), epochs=4, **changes))


def _stage(part: resume_stages.Part, settings: Any) -> None:
    part.run(part.of, settings)


def measure(folder: Path, quick: bool) -> Measured:
    methods = QUICK[:2] if quick else tuple(METHODS)
    launches: dict[str, Launch] = {method: partial(pretrained, method, 1) for method in methods}
    if not quick:
        launches |= {f"{method}, 2 processes": partial(pretrained, method, 2) for method in QUICK}
    stages = resume_stages.parts(folder, ("finetune sgd",) if quick else ())
    launches |= {part.name: partial(staged, part) for part in stages}
    wrong = {}
    for number, (name, launch) in enumerate(launches.items()):
        place = folder / f"chain_{number}"
        place.mkdir()
        if found := chain(place, launch):
            wrong[name] = found
    return Measured(
        figure=f"{RESUMES} resumes in a row, each in a new process, of {len(launches)} methods and stages: "
        f"{len(wrong)} end with other bits or a state of another size",
        good=not wrong,
        reason="; ".join(f"{name}: {', '.join(found)}" for name, found in wrong.items())[:300],
        details={"chains": list(launches), "wrong": wrong},
    )


FIGURES = (
    Figure("R19", "five resumes in a row of every method and stage: same bits, a state of constant size", 4, measure),
)
