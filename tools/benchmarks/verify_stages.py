"""What is pretraining worth where labels are few? On CIFAR-10, about 20 minutes on two CPU cores.

    python -m tools.prepare_data --from PACKS --to DATA cifar10
    python -m tools.benchmarks.verify_stages --data DATA [--runs runs/verify_stages] [--jobs 2]

Pretrains a small ResNet with SimCLR on the 50,000 training images without labels; fine-tunes it with 10 labels of each
class, with 1 % and with 10 % of the labels, beside the same network from scratch on the same labels for as many steps;
distils classifiers into a student of half the width and into one like the teacher. Judged on the 10,000 test images, at
the last epoch. The two smaller choices of labels are drawn three times, and
each teacher of 1 % of the labels has a student like it. What is finished is kept, what was interrupted
goes on. Results: docs/results/stages_cpu.json and stages_cpu.md (or _cuda).

The settings were chosen on 5,000 training images that were left out (`--choose` trains without them and judges there),
those from scratch as well as the others.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from selfsup.config.recipe_files import load_recipe
from selfsup.data.labelled import Labelled
from selfsup.data.settings import Data
from selfsup.evaluation.encoder import load_encoder
from selfsup.optim.optimizers import SGD
from selfsup.optim.schedules import Cosine
from selfsup.output import message, program
from selfsup.pretraining import Run, pretrain
from selfsup.run_folder.environment import environment
from selfsup.run_folder.folder import RunFolder
from selfsup.runtime.device import device_for
from selfsup.stages.base import Result, keep, read
from selfsup.stages.distill import run_distill
from selfsup.stages.distill_settings import Distill, distill_settings
from selfsup.stages.finetune import run_finetune
from selfsup.stages.finetune_settings import Finetune, finetune_settings
from tools.benchmarks.jobs import Job, work_off
from tools.benchmarks.worth import Figures, table, unmet
from tools.checkout import ROOT

HELD_OUT = 5_000  # training images, for choosing settings


@dataclass(frozen=True)
class Part:
    """Something that is trained, in a run folder of its own."""

    name: str  # and its folder
    stage: str
    carry_out: Callable[[Path], list[Result]]  # of the folder of all runs
    after: tuple[str, ...] = ()
    alone: bool = False


# epochs, batch, rate of the pretrained network and of the one from scratch
FEW: dict[str, tuple[Labelled, int, int, float, float]] = {
    "10_per_class": (Labelled(per_class=10), 100, 50, 0.01, 0.05),
    "1pct": (Labelled(fraction=0.01), 60, 50, 0.02, 0.05),
    "10pct": (Labelled(fraction=0.1), 30, 100, 0.03, 0.1),
}
DRAWS = {"10_per_class": 3, "1pct": 3, "10pct": 1}


def pretraining(data: Data) -> Run:
    recipe: Run = load_recipe("simclr_cifar10_cpu")
    return replace(recipe, data=data, epochs=14, precision="bf16", evaluate_every=0)


def finetuning(data: Data, choice: str, seed: int, start: str) -> Finetune:
    """One network, from the pretrained weights or from nothing: equal steps, each with the rate that suits it."""
    labelled, epochs, batch_size, rate, scratch_rate = FEW[choice]
    pretrained = start == "pretrained"
    return replace(
        finetune_settings("sgd", data),
        labelled=replace(labelled, seed=seed),
        start="pretrained" if pretrained else "random",
        epochs=epochs,
        batch_size=batch_size,
        optimizer=SGD.Config(
            learning_rate=rate if pretrained else scratch_rate,
            scaling="none",
            weight_decay=1e-4 if pretrained else 5e-4,
        ),
        schedule=Cosine(),
        layer=0,
        classifier_rate=10.0 if pretrained else 1.0,
        crop_scale=(0.2, 1.0),
        workers=0,
        precision="bf16",
    )


def distilling(data: Data, teacher: Path, pretrained: Path, protocol: str) -> Distill:
    """Self-distillation begins where its teacher began, and sees almost whole images."""
    like = protocol == "self"
    settings = distill_settings(protocol, data, load_encoder(teacher).config)
    return replace(
        settings,
        temperature=1.0,
        epochs=12 if like else 14,
        batch_size=250,
        optimizer=SGD.Config(learning_rate=0.1, scaling="none", weight_decay=5e-4),
        start=str(pretrained) if like else "random",
        crop_scale=(0.7 if like else 0.4, 1.0),
        crop_sampler="torchvision",
        workers=0,
        precision="bf16",
    )


def parts(data: Data) -> list[Part]:
    """Everything, in the order of the table."""

    def pretrained(runs: Path) -> list[Result]:
        outcome = pretrain(replace(pretraining(data), folder=str(runs / "pretrain")))
        about = {"encoder_sha256": outcome["encoder_sha256"], "seconds": outcome["seconds"]}
        return [Result(stage="pretrain", figures={}, protocol={}, about=about)]

    def tuned(choice: str, seed: int, start: str, name: str) -> Callable[[Path], list[Result]]:
        def carry_out(runs: Path) -> list[Result]:
            settings = replace(finetuning(data, choice, seed, start), folder=str(runs / name))
            return run_finetune(runs / "pretrain", settings).results

        return carry_out

    def distilled(teacher: str, protocol: str, name: str) -> Callable[[Path], list[Result]]:
        def carry_out(runs: Path) -> list[Result]:
            settings = distilling(data, runs / teacher, runs / "pretrain", protocol)
            return run_distill(runs / teacher, replace(settings, folder=str(runs / name))).results

        return carry_out

    found = [Part("pretrain", "pretrain", pretrained, alone=True)]
    for choice, draws in DRAWS.items():
        for seed in range(draws):
            for start, kind in (("pretrained", "finetune"), ("random", "supervised")):
                name = f"{kind}_{choice}" + (f"_seed{seed}" if seed else "")
                found.append(Part(name, kind, tuned(choice, seed, start, name), ("pretrain",)))
    students = [("smaller", "10pct"), ("smaller", "1pct")]
    students += [
        ("self", part.name.removeprefix("finetune_")) for part in found if part.name.startswith("finetune_1pct")
    ]
    for protocol, choice in students:
        name, teacher = f"distill_{protocol}_{choice}", f"finetune_{choice}"
        found.append(Part(name, "distill", distilled(teacher, protocol, name), (teacher, "pretrain")))
    return found


def results(runs: Path, part: Part) -> list[Result]:
    return read(RunFolder(runs / part.name), part.stage)


def job(part: Part, options: argparse.Namespace) -> Job:
    words = [
        sys.executable,
        "-m",
        "tools.benchmarks.verify_stages",
        "--data",
        str(options.data),
        "--runs",
        str(options.runs),
        "--one",
        part.name,
    ]
    words += ["--choose"] if options.choose else []
    log = options.runs / f"{part.name}.log"
    return Job(part.name, words, log, lambda: bool(results(options.runs, part)), part.after, part.alone)


def carry_out(part: Part, runs: Path) -> None:
    if not part.alone:
        torch.set_num_threads(max(1, torch.get_num_threads() // 2))
    keep(RunFolder(runs / part.name), part.carry_out(runs))


def held_out(data: Path, runs: Path) -> Path:
    """The training images in two parts, for choosing."""
    path = runs / "held_out.npz"
    if not path.is_file():
        arrays = np.load(data)
        parts = {f"{axis}_train": arrays[f"{axis}_train"][:-HELD_OUT] for axis in "xy"}
        parts |= {f"{axis}_test": arrays[f"{axis}_train"][-HELD_OUT:] for axis in "xy"}
        runs.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".partial"), "wb") as file:
            np.savez(file, classes=arrays["classes"], **parts)
        path.with_suffix(".partial").replace(path)
    return path


def write(found: list[Figures], out: Path) -> None:
    facts = environment(device_for("auto"))
    about: dict[str, Any] = {
        "command": "python -m tools.benchmarks.verify_stages",
        **{name: facts[name] for name in ("python", "packages", "device")},
    }
    out.mkdir(parents=True, exist_ok=True)
    name = f"stages_{device_for('auto').type}"
    (out / f"{name}.json").write_text(json.dumps(about | {"rows": found}, indent=1) + "\n")
    (out / f"{name}.md").write_text(table(found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that tools.prepare_data wrote")
    parser.add_argument("--runs", type=Path, default=Path("runs/verify_stages"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results", help="folder of the results")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--choose", action="store_true", help="judge on training images left out; writes to --runs")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        images = options.data / "cifar10.npz"
        data = Data(root=str(held_out(images, options.runs) if options.choose else images))
        wanted = parts(data)
        if options.one:
            carry_out(next(part for part in wanted if part.name == options.one), options.runs)
            return 0

        def told() -> None:
            found = [
                {"name": part.name, **result.__dict__} for part in wanted for result in results(options.runs, part)[:1]
            ]
            write(found, options.runs if options.choose else options.out)

        work_off([job(part, options) for part in wanted], options.jobs, told)
        told()
        named = {part.name: results(options.runs, part)[0].figures for part in wanted}
        for line in unmet(named):
            message(f"not as expected: {line}")
    except (ValueError, OSError) as error:
        print(f"verify_stages: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    with program():
        sys.exit(main())
