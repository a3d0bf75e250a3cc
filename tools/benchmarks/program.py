"""A whole program beside lightly's: `python -m tools.benchmarks.program --data DIR [--python PYTHON]`.

Both train the same network, started from the same weights, with the same optimizer and rates, batches of the same size
and as many of them, on the same JPEG files: ours by `pretrain` as the recipe simclr_cifar10_cpu has it, lightly's by a
plain loop over torchvision's ImageFolder, its transform, torch's DataLoader and its loss. Each is a process of its own,
and they take turns, each run from another seed. With --views-alone pairs of views are compared, at a size where they
are what takes longest.

DIR holds imagenette128_train.zip and imagenette128_val.zip; their photographs are written anew at the sides that are
asked for. PYTHON is an interpreter that has lightly as well as what selfsup needs. One JSON line for each program:
images a second of the last epoch, seconds of all of it, and kNN of what was learnt on test images.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import PIL.Image
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from selfsup.augment.presets import simclr
from selfsup.augment.views import Augment, Views
from selfsup.config.recipe_files import load_recipe
from selfsup.data.loader import Loader
from selfsup.data.settings import Data
from selfsup.data.sources import open_source
from selfsup.evaluation.encoder import load_encoder
from selfsup.evaluation.features import extract
from selfsup.evaluation.feed import Preprocessing
from selfsup.evaluation.knn import knn_accuracy
from selfsup.methods.simclr import SimCLR
from selfsup.models.encoder import Encoder
from selfsup.optim.schedules import Cosine
from selfsup.output import print_figures, program
from selfsup.pretraining import Run, pretrain
from tools.benchmarks.side_by_side import about, alternate, report, short
from tools.checkout import ROOT

_CPU = torch.device("cpu")
_PACKS = {"train": "imagenette128_train.zip", "val": "imagenette128_val.zip"}
_K = 20


@dataclass(frozen=True)
class Work:
    """What both programs do."""

    folder: Path  # train/CLASS/*.jpg and val/CLASS/*.jpg
    run: Path  # for what a program writes; is not there yet
    size: int  # of the views, in pixels
    side: int  # of the files
    batch: int
    epochs: int
    workers: int
    seed: int = 0  # of the first weights, the views and the order of the images


def recipe(work: Work) -> Run:
    """simclr_cifar10_cpu on these files, which are decoded once, without evaluations on the way."""
    found: Run = load_recipe("simclr_cifar10_cpu")
    view = replace(found.augment.views[0], size=work.size)
    return replace(
        found,
        folder=str(work.run),
        augment=replace(found.augment, views=(view, view)),
        data=Data(root=str(work.folder), canvas=work.side),
        epochs=work.epochs,
        batch_size=work.batch,
        evaluate_every=0,
        workers=work.workers,
        device="cpu",
        seed=work.seed,
    )


def ours(work: Work) -> dict[str, float]:
    run = recipe(work)
    rates: list[float] = []
    pretrain(run)
    for line in (work.run / "metrics.jsonl").read_text().splitlines():
        rates += [figures["images_per_second"]] if "images_per_second" in (figures := json.loads(line)) else []
    return {"images_per_second": rates[-1], "knn_top1": judged(load_encoder(work.run).encoder, run.feed, work)}


def lightlys(work: Work) -> dict[str, float]:
    """As lightly's own examples are written."""
    run = recipe(work)
    loader = loaded(work, lightlys_transform(work.size, run.augment.views[0].crop_scale[0]))
    spent: list[float] = []
    encoder = train_by_lightly(run, loader, lambda _, seconds: spent.append(seconds))
    return {
        "images_per_second": len(loader) * work.batch / spent[-1],
        "knn_top1": judged(encoder, lightlys_feed(run.feed), work),
    }


def train_by_lightly(run: Run, loader: DataLoader[Any], after_epoch: Callable[[Encoder, float], object]) -> Encoder:
    """SimCLR by a plain loop with lightly's loss: the run's network, first weights, optimizer and rates.

    Args:
        loader: of batches of the run's size: two views of each image, and anything.
        after_epoch: is called with the encoder, in evaluation mode, and the seconds of training in the epoch.

    Raises:
        ValueError: the run is not of SimCLR with a cosine schedule.
    """
    if not isinstance(run.method, SimCLR.Config) or not isinstance(run.schedule, Cosine):
        raise ValueError(f"{run.name} is not of SimCLR with a cosine schedule, which the loop beside it is")
    torch.manual_seed(run.seed)
    encoder = run.encoder.build()
    network = nn.Sequential(encoder, run.method.head.build(encoder.feature_dim))
    steps = run.epochs * len(loader)
    rate = run.optimizer.learning_rate * run.batch_size / 256
    optimizer = torch.optim.SGD(network.parameters(), rate, momentum=0.9, weight_decay=run.optimizer.weight_decay)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / len(loader), total_iters=len(loader))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - len(loader))
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [len(loader)])
    loss_of = importlib.import_module("lightly.loss").NTXentLoss(temperature=run.method.temperature)
    for _ in range(run.epochs):
        begin = time.perf_counter()
        network.train()
        for views, _ in loader:
            loss = loss_of(network(views[0]), network(views[1]))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        spent = time.perf_counter() - begin
        network.eval()
        after_epoch(encoder, spent)
    return encoder


def lightlys_feed(feed: Preprocessing) -> Preprocessing:
    """The test-time view with the mean and deviation that lightly's transforms scale by."""
    normalised = importlib.import_module("lightly.transforms.utils").IMAGENET_NORMALIZE
    return replace(feed, mean=tuple(normalised["mean"]), std=tuple(normalised["std"]))


def loaded(work: Work, transform: Callable[[PIL.Image.Image], Any]) -> DataLoader[Any]:
    return DataLoader(
        ImageFolder(str(work.folder / "train"), transform),
        work.batch,
        shuffle=True,
        drop_last=True,
        num_workers=work.workers,
        persistent_workers=work.workers > 0,
    )


def lightlys_transform(size: int, least_area: float, blur: float = 0.0) -> Callable[[PIL.Image.Image], Any]:
    transforms = importlib.import_module("lightly.transforms")
    made: Callable[[PIL.Image.Image], Any] = transforms.SimCLRTransform(
        input_size=size, cj_strength=0.5 if blur == 0 else 1.0, min_scale=least_area, gaussian_blur=blur
    )
    return made


def judged(encoder: Encoder, feed: Preprocessing, work: Work) -> float:
    """kNN of test images among training images, k = 20, T = 0.1."""
    encoder.eval()
    bank, queries = (
        extract(encoder, open_source(str(work.folder), split), feed.center(), _CPU) for split in ("train", "test")
    )
    return float(knn_accuracy(bank, queries, _K, 0.1)["top1"])


PROGRAMS: dict[str, Callable[[Work], dict[str, float]]] = {"ours": ours, "lightly": lightlys}


def draw(packs: Path, folder: Path, side: int, images: int) -> None:
    """Write at most so many training photographs, and all test photographs, as JPEG files of a side."""
    for part, pack in _PACKS.items():
        source = open_source(str(packs / pack), "train" if part == "train" else "test")
        every = max(1, len(source) // images) if part == "train" else 1
        for index in range(0, len(source), every):
            place = folder / part / source.class_name(int(source.labels[index]))
            place.mkdir(parents=True, exist_ok=True)
            picture = source.load(index)
            if not isinstance(picture, PIL.Image.Image):
                raise TypeError("photographs are pictures")
            picture.resize((side, side), PIL.Image.Resampling.BICUBIC).save(place / f"{index:05}.jpg", quality=90)


def in_turn(arguments: argparse.Namespace, folder: Path) -> None:
    """Both programs, `--runs` times, from seed after seed."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in PROGRAMS}
    for number in range(arguments.runs):
        for name in PROGRAMS:
            words = [f"--{flag}={getattr(arguments, flag)}" for flag in ("size", "side", "batch", "epochs", "workers")]
            command = [arguments.python, "-m", "tools.benchmarks.program", "--program", name, *words]
            begin = time.perf_counter()
            places = ["--files", str(folder), "--run", str(folder.parent / f"{name}_{number}"), "--seed", str(number)]
            done = subprocess.run([*command, *places], cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ValueError(f"{name} ended with {done.returncode}:\n{done.stderr[-2000:]}")
            figures = json.loads(done.stdout.splitlines()[-1])
            found[name].append(figures | {"seconds": time.perf_counter() - begin})
    facts = {flag: getattr(arguments, flag) for flag in ("size", "side", "batch", "epochs", "workers", "runs")}
    for name, runs in found.items():
        line: dict[str, object] = {"name": f"program/{name}", **facts, "k": _K}
        for figure in ("images_per_second", "seconds", "knn_top1"):
            values = [run[figure] for run in runs]
            line[figure] = [short(value) for value in (statistics.median(values), min(values), max(values))]
        middle = [statistics.median(run["images_per_second"] for run in found[one]) for one in ("ours", name)]
        print_figures(line | {"ours_over_it": short(middle[0] / middle[1])})


def views_alone(work: Work, runs: int) -> None:
    """Pairs of views from files, full colour chain and blur, no network."""
    source = open_source(str(work.folder), "train")
    augment = Augment(views=simclr(work.size).views)
    views = Views(augment, seed=0)
    loader = Loader(source, batch_size=work.batch, seed=0, device=_CPU, workers=work.workers, crop=views.crop)
    theirs = loaded(work, lightlys_transform(work.size, 0.08, blur=0.5))

    def ours() -> None:
        for batch in loader.epoch(0):
            views(batch, 0, _CPU)

    contestants: dict[str, Callable[[], object]] = {"ours": ours, "lightly": partial(exhaust, theirs)}
    seconds = alternate(contestants, runs, _CPU, by_the_wall=True)
    amounts = dict.fromkeys(contestants, loader.steps_per_epoch * work.batch)
    facts = {"size": work.size, "side": work.side, "workers": work.workers}
    report("pairs", amounts, seconds, "ours", "pairs/s", **facts, **about(_CPU, "lightly", "pillow"))


def exhaust(batches: Iterable[tuple[Sequence[Tensor], Tensor]]) -> None:
    for _ in batches:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the two archives")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has lightly, too")
    parser.add_argument("--images", type=int, default=9_469, help="training photographs, at most")
    parser.add_argument("--size", type=int, default=32, help="of the views")
    parser.add_argument("--side", type=int, default=64, help="of the files")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--views-alone", action="store_true", help="no training: pairs of views a second")
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)  # of the processes that this one starts
    for name in ("program", "files", "run"):
        parser.add_argument(f"--{name}", default="", help=argparse.SUPPRESS)  # of the processes that this one starts
    arguments = parser.parse_args()
    facts: dict[Literal["size", "side", "batch", "epochs", "workers"], int] = {
        "size": arguments.size,
        "side": arguments.side,
        "batch": arguments.batch,
        "epochs": arguments.epochs,
        "workers": arguments.workers,
    }
    if arguments.program:
        work = Work(Path(arguments.files), Path(arguments.run), seed=arguments.seed, **facts)
        print_figures(PROGRAMS[arguments.program](work))
        return
    missing = [name for name in _PACKS.values() if arguments.data is None or not (arguments.data / name).is_file()]
    if missing:
        print_figures({"name": "program", "skipped": f"{arguments.data} lacks {' and '.join(missing)}"})
        return
    if arguments.views_alone and arguments.python not in ("", sys.executable):  # both are measured in one process
        here = ("--data", str(arguments.data.absolute()), "--python", "")
        command = [arguments.python, "-m", "tools.benchmarks.program", *sys.argv[1:], *here]
        raise SystemExit(subprocess.run(command, cwd=ROOT, check=False).returncode)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "files"
        draw(arguments.data, files, arguments.side, arguments.images)
        if arguments.views_alone:
            views_alone(Work(files, Path(folder) / "run", **facts), arguments.runs)
        else:
            in_turn(arguments, files)


if __name__ == "__main__":
    with program():
        main()
