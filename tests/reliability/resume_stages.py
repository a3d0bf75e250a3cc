"""R1 of the stages that train something: fine-tuning, distillation and the probes on augmented images."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from selfsup.data.labelled import Labelled
from selfsup.data.settings import Data
from selfsup.evaluation.encoder import load_encoder
from selfsup.evaluation.logistic import FeatureProbe
from selfsup.optim.optimizers import SGD
from selfsup.pretraining import pretrain
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.base import Evaluated
from selfsup.stages.distill import run_distill
from selfsup.stages.distill_settings import distill_settings
from selfsup.stages.finetune import run_finetune
from selfsup.stages.finetune_settings import finetune_settings
from selfsup.stages.linear import run_linear
from selfsup.stages.probes import Probe, probe_settings
from selfsup.storage import checkpoint
from selfsup.training.settings import Training
from tests.reliability.figure import Figure, Measured
from tests.reliability.watched import Seen, differing, watched
from tests.support.places import ROOT
from tests.support.tiny import tiny_run

DATA = Data(root="shapes:96")
SMALL: dict[str, Any] = {"epochs": 2, "device": "cpu", "workers": 0, "log_every": 1, "keep_last": 99}
# What is interrupted between its parts or its chunks is tested where it lives.
TESTED = (
    "tests/stages/test_semi.py::test_interrupted_in_every_part",
    "tests/stages/test_embed_command.py::test_an_interrupted_file_ends_as_a_whole_one",
)


class Part(NamedTuple):
    """A stage to be interrupted."""

    name: str
    run: Callable[[Path, Any], Evaluated]
    of: Path
    settings: Training


def parts(folder: Path, names: tuple[str, ...]) -> list[Part]:
    """The stages on an encoder and a teacher that are trained here."""
    encoder, teacher = folder / "encoder", folder / "teacher"
    pretrain(tiny_run(encoder, epochs=1, data=DATA))
    few = Labelled(per_class=4)
    tune = replace(finetune_settings("sgd", DATA), labelled=few, batch_size=20, layer=1, train_after=1, **SMALL)
    run_finetune(encoder, replace(tune, folder=str(teacher)))
    config = load_encoder(teacher).config
    distil = [
        replace(distill_settings(name, DATA, config), batch_size=24, optimizer=SGD.Config(learning_rate=0.1), **SMALL)
        for name in ("self", "smaller", "features")
    ]
    found = [
        Part("finetune sgd", run_finetune, encoder, tune),
        Part("finetune simclr_v2", run_finetune, encoder, _lars(few)),
        *(Part(f"distill {settings.protocol}", run_distill, teacher, settings) for settings in distil),
        *(Part(f"linear {name}", run_linear, encoder, _probe(name)) for name in ("moco", "simclr", "supcon", "sweep")),
    ]
    return [part for part in found if not names or part.name in names]


def _lars(few: Labelled) -> Training:
    settings = replace(finetune_settings("simclr_v2", DATA), labelled=few, start="random", batch_size=20, **SMALL)
    return settings


def _probe(protocol: str) -> Probe:
    settings = probe_settings(protocol, DATA)
    assert not isinstance(settings, FeatureProbe)
    return replace(settings, batch_size=24, **SMALL)


def chain(part: Part, folder: Path) -> tuple[int, dict[str, list[str]]]:
    """Stop and resume a stage after every step; returns the number of resumes and what was inexact at which."""
    whole, cut = (replace(part.settings, folder=str(folder / name)) for name in ("whole", "cut"))
    expected, seen = _train(part, replace(whole, save_steps=1))
    steps = checkpoint.steps(folder / "whole" / "checkpoints")[-1]
    inexact: dict[str, list[str]] = {}
    for step in range(1, steps + 1):
        evaluated, looked = _train(part, replace(cut, max_steps=step))
        if looked != seen[step - 1 : step]:
            inexact[f"step {step}"] = ["views"]
    if [result.figures for result in evaluated.results] != [result.figures for result in expected.results]:
        inexact["results"] = ["figures"]
    for step, names in differing(folder / "whole", folder / "cut").items():
        inexact.setdefault(f"step {step}", []).extend(names)
    return steps - 1, inexact


def _train(part: Part, settings: Training) -> tuple[Evaluated, list[Seen]]:
    with watched() as seen:
        return part.run(part.of, settings), seen


def tested() -> list[str]:
    """Names of those of TESTED that fail."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    return [
        test
        for test in TESTED
        if subprocess.run([*command, test], cwd=ROOT, env=environment, capture_output=True).returncode
    ]


def measure(folder: Path, quick: bool) -> Measured:
    resumes, inexact = 0, {}
    for number, part in enumerate(parts(folder, ("finetune sgd",) if quick else ())):
        place = folder / str(number)
        count, wrong = chain(part, place)
        resumes += count
        inexact |= {part.name: wrong} if wrong else {}
        assert RunFolder(place / "cut").holds_run
    failed = [] if quick else tested()
    wrong = sum(len(what) for what in inexact.values())
    return Measured(
        figure=f"{wrong} of {resumes} resumes inexact; {len(failed)} of {len(TESTED)} tests of other stages failed",
        good=not inexact and not failed,
        reason="; ".join([f"{name}: {', '.join(what)}" for name, what in inexact.items()] + failed),
        details={"inexact": inexact, "tests": list(TESTED), "failed": failed},
    )


FIGURE = Figure(
    name="R1-stages",
    goal="fine-tuning, distillation and probes stopped after every step: 0 inexact resumes",
    minutes=3,
    measure=measure,
)
