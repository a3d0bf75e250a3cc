"""The main job from nothing: find images, pretrain, judge. Started by tools/quickstart, which installs selfsup."""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn

from selfsup.config.recipe_files import load_recipe
from selfsup.data.parts import open_data
from selfsup.data.settings import Data
from selfsup.evaluation.features import extract
from selfsup.evaluation.knn import USUAL_K, knn_accuracy
from selfsup.evaluation.logistic import FeatureProbe
from selfsup.output import console, meant_for_user, message, print_figures, program
from selfsup.pretraining import Run, pretrain
from selfsup.run_folder.environment import device_name
from selfsup.run_folder.folder import RunFolder
from selfsup.runtime.device import device_for
from selfsup.stages.base import keep
from selfsup.stages.knn import run_knn
from selfsup.stages.linear import run_linear
from selfsup.stages.settings import KNN
from tools.cifar10 import cache_folder, fetch_cifar10

SETTINGS = KNN(k=(USUAL_K,), temperature=(0.1,))


def main() -> None:
    arguments = parsed()
    begin = time.monotonic()
    device = device_for("auto")
    try:
        result = quickstart(arguments, device)
    except (ValueError, OSError) as error:
        if not meant_for_user(error):
            raise
        print(f"tools/quickstart: {error}", file=sys.stderr)
        sys.exit(2)
    if "signal" in result:
        sys.exit(128 + result["signal"])
    print_figures(result | {"seconds": round(time.monotonic() - begin, 1), "device": device_name(device)})


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tools/quickstart", description="Pretrain a small ResNet and judge it.")
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10 in any usual layout; else it is downloaded")
    parser.add_argument("--folder", type=Path, default=Path("runs/quickstart"), help="run folder (default %(default)s)")
    parser.add_argument("--shapes", nargs="?", const=10_000, type=int, help="generated images instead (how many)")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's (10 on a CPU, 100 on a GPU)")
    return parser.parse_args()


def find_images(arguments: argparse.Namespace) -> str:
    """CIFAR-10 from the folder given, the cache or a download; else the generated data set."""
    if arguments.shapes:
        return f"shapes:{arguments.shapes}"
    if arguments.data is not None and not arguments.data.exists():
        raise ValueError(f"there is no folder {arguments.data}; give --data a folder with CIFAR-10, or leave it out")
    if arguments.data is not None and arguments.data.suffix == ".npz":
        return str(arguments.data)
    found = fetch_cifar10(cache_folder(), arguments.data, message)
    if found is None:
        message("CIFAR-10 cannot be had here: this run uses the generated data set `shapes` instead")
        return "shapes"
    message(f"images: {found}")
    return str(found)


def settings(root: str, arguments: argparse.Namespace, device: torch.device) -> Run:
    """The recipe for this device and these images."""
    run: Run = load_recipe("simclr_cifar10_cpu" if device.type == "cpu" else "simclr_cifar10")
    if device.type == "cuda":
        run = replace(run, epochs=100, precision="bf16", evaluate_every=5)
    limit = None if root.startswith("shapes") else run.data.limit
    run = replace(run, data=Data(root=root, limit=limit), folder=str(arguments.folder))
    return replace(run, epochs=arguments.epochs) if arguments.epochs else run


def quickstart(arguments: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    run = settings(find_images(arguments), arguments, device)
    pixels, untrained = baselines(run, device)
    message(f"by kNN, before training: raw pixels {pixels:.3f}, untrained encoder {untrained:.3f}")
    outcome = pretrain(run)
    if outcome["reason"] != "finished":
        message(f"stopped at step {outcome['step']}; the same command goes on from there")
        return {"signal": outcome["signal"]}
    folder = RunFolder(Path(run.folder))
    results = [
        *run_knn(folder.path, replace(SETTINGS, data=run.data)).results,
        *run_linear(folder.path, FeatureProbe(data=run.data)).results,
    ]
    keep(folder, results)
    knn, linear = (result.flat() for result in results)
    figures = {
        "pixels_knn_top1": round(pixels, 4),
        "untrained_knn_top1": round(untrained, 4),
        "knn_top1": round(knn["knn_top1"], 4),
        "linear_top1": round(linear["linear_top1"], 4),
    }
    show(figures, knn, run)
    return figures | {"data": run.data.place, "run": run.folder}


def baselines(run: Run, device: torch.device) -> tuple[float, float]:
    """kNN accuracy of the pixels themselves and of the encoder as it is before training."""
    torch.manual_seed(run.seed)
    data, center = run.data, run.feed.center()
    train = open_data(data, "train")
    test = open_data(data, "test")
    accuracies = []
    for encoder in (nn.Flatten(), run.encoder.build().to(device)):
        bank, queries = (extract(encoder, part, center, device) for part in (train, test))
        accuracies.append(knn_accuracy(bank, queries, SETTINGS.k[0], SETTINGS.temperature[0], device=device)["top1"])
    return accuracies[0], accuracies[1]


def show(figures: dict[str, float], knn: dict[str, Any], run: Run) -> None:
    """The table at the end."""
    table = Table(title=f"{knn['query_images']} test images, {knn['bank_images']} for training")
    for column in ("features", "kNN (k=200, T=0.1)", "linear probe"):
        table.add_column(column)
    table.add_row("raw pixels", f"{figures['pixels_knn_top1']:.3f}", "")
    table.add_row("untrained encoder", f"{figures['untrained_knn_top1']:.3f}", "")
    table.add_row("pretrained encoder", f"{figures['knn_top1']:.3f}", f"{figures['linear_top1']:.3f}")
    console().print(table)
    message(f"run folder: {run.folder}  (weights: {run.folder}/encoder.safetensors)")


with program():
    main()
