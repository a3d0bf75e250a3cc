"""How long until a kNN accuracy is reached: `python -m tools.benchmarks.time_to_accuracy --data PATH --thresholds 0.4`.

Trains a recipe from several seeds with a kNN after every epoch, as `selfsup pretrain` does it, and in turn with it the
same network, first weights, optimizer and rates by a plain loop with lightly's transform and loss over torch's
DataLoader, where the interpreter has lightly. Each training is a process of its own. One JSON line for each: accuracy,
seconds of training (without evaluations) and of the whole process, after every epoch. Then one for each program and
threshold: seconds of both kinds and epochs until it was first reached, as mean, minimum and maximum over the seeds that
reached it.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import PIL.Image
import torch
from torch.utils.data import DataLoader, Dataset

from selfsup.config.recipe_files import load_recipe
from selfsup.data.opening import open_test_part, open_training
from selfsup.data.sources import Source
from selfsup.evaluation.online import online_evaluation
from selfsup.models.encoder import Encoder
from selfsup.optim.schedules import Horizon
from selfsup.output import print_figures, program
from selfsup.pretraining import Run, pretrain
from tools.benchmarks.epochs import Epoch, epochs_of, first_to_reach
from tools.benchmarks.program import lightlys_feed, lightlys_transform, train_by_lightly
from tools.benchmarks.side_by_side import about, short
from tools.checkout import ROOT

_CPU = torch.device("cpu")
_PACKAGES = ("lightly", "numba", "accelerate")


@dataclass(frozen=True)
class Learnt:
    """The epochs of one training, and when its process began, in seconds since 1970."""

    seed: int
    begin: float
    epochs: list[Epoch]


def ours(run: Run, workers: int) -> list[Epoch]:
    count = len(open_training(run.data))
    pretrain(run)
    steps = Horizon(count, run.batch_size, 1).steps_per_epoch
    return epochs_of(Path(run.folder) / "metrics.jsonl", steps, run.batch_size)


def lightlys(run: Run, workers: int) -> list[Epoch]:
    """With the same kNN of the same images."""
    source = open_training(run.data)
    if not isinstance(run.feed.size, int):
        raise ValueError(f"the views of {run.name} are not square, as those of the loop beside it are")
    transform = lightlys_transform(run.feed.size, run.augment.views[0].crop_scale[0])
    loader = DataLoader(
        Transformed(source, transform),
        run.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    online = replace(run.online, center=lightlys_feed(run.feed).center())
    epochs: list[Epoch] = []

    def judge(encoder: Encoder, seconds: float) -> None:
        evaluate = online_evaluation(online, source, lambda: open_test_part(run.data), encoder, _CPU)
        if evaluate is None:
            raise ValueError(f"{run.data.place} has no labels of two classes or more, which kNN needs")
        total = seconds + (epochs[-1].training_seconds if epochs else 0.0)
        epochs.append(Epoch(len(epochs) + 1, seconds, total, evaluate()["knn_top1"], time.time()))

    train_by_lightly(run, loader, judge)
    return epochs


class Transformed(Dataset[Any]):
    """The pictures of a source, transformed, each with its label."""

    def __init__(self, source: Source, transform: Callable[[PIL.Image.Image], Any]) -> None:
        self.source, self.transform = source, transform

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        picture = self.source.load(index)
        if not isinstance(picture, PIL.Image.Image):
            raise ValueError("lightly's transform takes pictures of three channels")
        return self.transform(picture), int(self.source.labels[index])


PROGRAMS: dict[str, Callable[[Run, int], list[Epoch]]] = {"ours": ours, "lightly": lightlys}


def summary(name: str, threshold: float, trainings: Sequence[Learnt], own: Sequence[Learnt]) -> dict[str, object]:
    """The line of a program and a threshold; what no seed reached is null.

    `over_ours` is how many times the mean seconds of `own` it took, where all seeds of both got there.
    """
    reached, by_own = (reaching(threshold, given) for given in (trainings, own))
    seconds, own_seconds = ([epoch.time - one.begin for one, epoch in given] for given in (reached, by_own))
    line: dict[str, object] = {"name": f"time_to_accuracy/{name}", "threshold": threshold}
    line |= {"seeds": [one.seed for one in trainings], "reached_by": [one.seed for one, _ in reached]}
    line |= {"training_seconds": _spread([epoch.training_seconds for _, epoch in reached])}
    line |= {"seconds": _spread(seconds), "epochs": _spread([epoch.epoch for _, epoch in reached])}
    if len(reached) == len(trainings) > 0 and len(by_own) == len(own) > 0:
        line["over_ours"] = short(statistics.fmean(seconds) / statistics.fmean(own_seconds))
    return line


def reaching(threshold: float, trainings: Sequence[Learnt]) -> list[tuple[Learnt, Epoch]]:
    """Those that reach it, each with the first epoch that does."""
    return [(one, epoch) for one in trainings if (epoch := first_to_reach(one.epochs, threshold))]


def _spread(values: Sequence[float]) -> list[float] | None:
    """Mean, minimum and maximum."""
    return [short(value) for value in (statistics.fmean(values), min(values), max(values))] if values else None


def settings(arguments: argparse.Namespace, seed: int, folder: Path) -> Run:
    """The recipe as is asked for: rates are logged at the ends of epochs alone, and are then those of the epochs."""
    recipe: Run = load_recipe(arguments.recipe)
    return replace(
        recipe,
        seed=seed,
        folder=str(folder),
        data=replace(recipe.data, root=arguments.data, limit=arguments.images or recipe.data.limit),
        epochs=arguments.epochs or recipe.epochs,
        batch_size=arguments.batch or recipe.batch_size,
        evaluate_every=1,
        probe_l2=None,
        log_every=1_000_000,
        report=False,
        device="cpu",
    )


def train(arguments: argparse.Namespace, folder: Path) -> dict[str, list[Learnt]]:
    """All trainings, in turn; one that fails is told, and its program has no more."""
    found: dict[str, list[Learnt]] = {name: [] for name in PROGRAMS}
    if importlib.util.find_spec("lightly") is None:
        found.pop("lightly")
        print_figures({"name": "time_to_accuracy/lightly", "skipped": "lightly is not installed here"})
    for seed in arguments.seeds:
        for name in list(found):
            words = [*sys.argv[1:], "--program", name, "--seeds", str(seed), "--run", str(folder / f"{name}_{seed}")]
            begin = time.time()
            command = [sys.executable, "-m", "tools.benchmarks.time_to_accuracy", *words]
            environment = os.environ | {"GOMP_SPINCOUNT": "1000"}  # as `selfsup` sets it
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                said = done.stderr.strip().rpartition("\n")[2]
                print_figures({"name": f"learning/{name}", "seed": seed, "failed": said})
                found.pop(name)
                continue
            epochs = [Epoch(*one) for one in json.loads(done.stdout.splitlines()[-1])["epochs"]]
            found[name].append(Learnt(seed, begin, epochs))
            print_figures(curve(name, found[name][-1]) | _facts(arguments))
    return found


def curve(name: str, one: Learnt) -> dict[str, object]:
    """The line of a training."""
    return {
        "name": f"learning/{name}",
        "seed": one.seed,
        "knn_top1": [short(epoch.knn_top1) for epoch in one.epochs],
        "training_seconds": [short(epoch.training_seconds) for epoch in one.epochs],
        "seconds": [short(epoch.time - one.begin) for epoch in one.epochs],
    }


def _facts(arguments: argparse.Namespace) -> dict[str, object]:
    run = settings(arguments, 0, Path())
    facts = {"recipe": arguments.recipe, "data": Path(arguments.data).name, "images": run.data.limit}
    facts |= {"batch": run.batch_size, "workers": arguments.workers}
    return facts | about(_CPU, *_PACKAGES)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="simclr_cifar10_cpu")
    parser.add_argument("--data", default="shapes", help="whatever --data.root takes (default: generated shapes)")
    parser.add_argument("--images", type=int, help="training images, at most (default: the recipe's)")
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--batch", type=int, help="default: the recipe's")
    parser.add_argument(
        "--thresholds", type=float, nargs="+", help="of kNN (default: 0.3 0.4 0.5; of shapes 0.12 0.14)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, help="of the CPU (default: torch's)")
    parser.add_argument("--workers", type=int, default=2, help="processes that make lightly's views")
    parser.add_argument("--program", choices=PROGRAMS, help=argparse.SUPPRESS)  # of the processes that this one starts
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    usual = [0.12, 0.14] if arguments.data.startswith("shapes") else [0.3, 0.4, 0.5]  # shapes are hard for this network
    arguments.thresholds = arguments.thresholds or usual
    if not all(0 < threshold <= 1 for threshold in arguments.thresholds):
        parser.error(f"--thresholds {arguments.thresholds}: accuracies are above 0 and at most 1, such as 0.4")
    if len(set(arguments.seeds)) < len(arguments.seeds):
        parser.error(f"--seeds {arguments.seeds}: give each once")
    return arguments


def main() -> int:
    arguments = parsed()
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    if arguments.program:
        run = settings(arguments, arguments.seeds[0], arguments.run)
        print_figures({"epochs": PROGRAMS[arguments.program](run, arguments.workers)})
        return 0
    with tempfile.TemporaryDirectory(prefix="selfsup_learning_") as folder:
        found = train(arguments, Path(folder))
    for threshold in arguments.thresholds:
        for name, trainings in found.items():
            print_figures(summary(name, threshold, trainings, found.get("ours", [])) | _facts(arguments))
    return 0 if "ours" in found else 1


if __name__ == "__main__":
    with program():
        sys.exit(main())
