"""Does a vision transformer learn, on real images? Trains it by MoCo v3 and by SimCLR from several seeds.

    python -m tools.prepare_data --from PACKS --to DATA
    python -m tools.benchmarks.verify_transformers --data DATA [--runs runs/transformers] [--seeds 3] [--jobs 2]

The recipes moco_v3_cifar10_cpu and simclr_vit_cifar10_cpu as they are shipped, judged after the last epoch by kNN
(k = 200, T = 0.1) on the 10,000 test images of CIFAR-10, beside the same encoder before training. A finished run is
kept, an interrupted one goes on. Results: docs/results/transformers_cpu.json and .md.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import json
import sys
from dataclasses import replace
from typing import Any

import torch

from selfsup.config.recipe_files import load_recipe
from selfsup.config.settings import result_relevant
from selfsup.data.parts import open_data
from selfsup.data.sources import open_test
from selfsup.evaluation.features import extract
from selfsup.evaluation.knn import USUAL_K, knn_accuracy
from selfsup.output import program
from selfsup.pretraining import Run, pretrain
from selfsup.run_folder.environment import environment
from selfsup.stages.knn import run_knn
from selfsup.stages.settings import KNN
from tools.benchmarks.jobs import Job, work_off
from tools.checkout import ROOT

RECIPES = {"MoCo v3": "moco_v3_cifar10_cpu", "SimCLR": "simclr_vit_cifar10_cpu"}
GAIN = 0.05  # that each run must have over its untrained encoder
CPU = torch.device("cpu")


def run_of(name: str, seed: int, data: Path, runs: Path) -> Run:
    recipe: Run = load_recipe(RECIPES[name])
    images = replace(recipe.data, root=str(data / "cifar10.npz"))
    folder = runs / f"{RECIPES[name]}_{seed}"
    return replace(recipe, data=images, seed=seed, folder=str(folder), evaluate_every=0, device="cpu")


def untrained(run: Run) -> float:
    """kNN accuracy of the encoder that the run starts from."""
    torch.manual_seed(run.seed)
    encoder, center = run.encoder.build(), run.feed.center()
    test = open_test(run.data.place)
    assert test is not None
    bank = extract(encoder, open_data(run.data, "train"), center, CPU)
    return knn_accuracy(bank, extract(encoder, test, center, CPU), USUAL_K, KNN().temperature[0], device=CPU)["top1"]


def verify(name: str, seed: int, data: Path, runs: Path) -> None:
    run = run_of(name, seed, data, runs)
    outcome = pretrain(run)
    if outcome["reason"] != "finished":
        raise ValueError(f"{run.name} stopped at step {outcome['step']}; the same command goes on from there")
    found = run_knn(Path(run.folder), KNN(data=run.data, k=(USUAL_K,))).results[0].flat()
    record = {
        "name": name,
        "seed": seed,
        "untrained": untrained(run),
        "settings": result_relevant(run),
        "steps": outcome["step"],
        "figures": found,
    }
    (Path(run.folder) / "verified.json").write_text(json.dumps(record, indent=1) + "\n")


def records(runs: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(runs.glob("*/verified.json"))]


def table(found: list[dict[str, Any]]) -> str:
    lines = [
        "# Vision transformers on CIFAR-10",
        "",
        "Written by `python -m tools.benchmarks.verify_transformers`. The recipes moco_v3_cifar10_cpu and",
        "simclr_vit_cifar10_cpu as they are shipped (0.8 M parameters, 6 epochs of 15,000 training images), after",
        "the last epoch. kNN with k = 200 and T = 0.1 on the 10,000 test images, which nothing was chosen by.",
        "Untrained: the same first weights.",
        "",
        "| | seed | untrained | trained | gain |",
        "|---|---|---|---|---|",
    ]
    for row in found:
        before, after = row["untrained"], row["figures"]["knn_top1"]
        lines.append(f"| {row['name']} | {row['seed']} | {before:.4f} | {after:.4f} | {after - before:+.4f} |")
    return "\n".join(lines) + "\n"


def write(options: argparse.Namespace) -> list[dict[str, Any]]:
    found = records(options.runs)
    facts = environment(CPU)
    about = {
        "command": "python -m tools.benchmarks.verify_transformers",
        **{name: facts[name] for name in ("python", "packages")},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "transformers_cpu.json").write_text(json.dumps(about | {"rows": found}, indent=1) + "\n")
    (options.out / "transformers_cpu.md").write_text(table(found))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that tools.prepare_data wrote")
    parser.add_argument("--runs", type=Path, default=Path("runs/transformers"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results", help="folder of the results")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each recipe")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        torch.set_num_threads(max(1, torch.get_num_threads() // options.jobs))
        verify(options.one[0], int(options.one[1]), options.data, options.runs)
        return 0
    jobs = []
    for seed in range(options.seeds):
        for name, recipe in RECIPES.items():
            folder = options.runs / f"{recipe}_{seed}"
            words = [
                sys.executable,
                "-m",
                "tools.benchmarks.verify_transformers",
                "--data",
                str(options.data),
                "--runs",
                str(options.runs),
            ]
            words += ["--jobs", str(options.jobs), "--one", name, str(seed)]
            log = options.runs / f"{recipe}_{seed}.log"
            jobs.append(Job(folder.name, words, log, (folder / "verified.json").is_file))
    work_off(jobs, options.jobs, lambda: write(options))
    low = [row for row in write(options) if row["figures"]["knn_top1"] - row["untrained"] < GAIN]
    for row in low:
        print(f"{row['name']}, seed {row['seed']}: gains less than {GAIN}", file=sys.stderr)
    return 1 if low else 0


if __name__ == "__main__":
    with program():
        sys.exit(main())
