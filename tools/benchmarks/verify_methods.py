"""Does every method learn, on real images? Trains each one small, judges it on test images, writes the table.

    python -m tools.prepare_data --from PACKS --to DATA
    python -m tools.benchmarks.verify_methods --data DATA [--runs runs/verify] [--jobs 2] [NAMES]

Rows: the contrastive methods on CIFAR-10 by kNN, the pair losses on cars of unseen models by Recall@1, SpCL on
characters and animals of unseen identity by mAP and Recall@1; raw pixels and the untrained encoder beside them. Every
row has a fixed seed, the budget of its suite, and the figures of its last epoch; nothing was chosen by test images. A
row is a run folder: what is finished is kept, what was interrupted goes on. Results: docs/results/methods_cpu.json
and methods_cpu.md (or _cuda). With `--jobs 2` two rows are trained at a time, each by half of the threads.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import cast

import torch
from torch import nn

from selfsup.config.recipe_files import load_recipe
from selfsup.config.settings import dump, result_relevant
from selfsup.data.parts import open_data
from selfsup.data.settings import Data
from selfsup.data.sources import open_test
from selfsup.evaluation.features import Features, extract
from selfsup.evaluation.knn import USUAL_K, knn_accuracy
from selfsup.evaluation.retrieval import retrieval_figures
from selfsup.methods import pair_losses as losses
from selfsup.methods.metric import Metric
from selfsup.methods.pair_loss import PairLoss
from selfsup.methods.spcl import SpCL
from selfsup.output import message, program
from selfsup.pretraining import Run, pretrain
from selfsup.run_folder.environment import environment
from selfsup.runtime.device import device_for
from selfsup.stages.knn import run_knn
from selfsup.stages.retrieval import run_retrieval
from selfsup.stages.settings import KNN, Retrieval
from tools.benchmarks.jobs import Job, work_off
from tools.benchmarks.verified import ONCE, START, Figures, table, unmet
from tools.checkout import ROOT

JUDGED = ("recall_at_1", "map", "map_at_r")


@dataclass(frozen=True)
class Row:
    """One line of the table: a run, or without one what is judged before any training."""

    suite: str
    name: str
    run: Run
    trained: bool = True
    pixels: bool = False  # of what is not trained: the pixels themselves, not the untrained encoder
    after: str = ""  # the row whose encoder this one starts from


def cifar10(data: Path) -> list[Row]:
    """Every contrastive method from its CPU recipe, at one budget of views: twice the epochs where one view is seen."""
    recipes = {
        "InstDisc": "instdisc_cifar10_cpu",
        "MoCo v1": "moco_v1_cifar10_cpu",
        "MoCo v2": "moco_v2_cifar10_cpu",
        "SimCLR": "simclr_cifar10_cpu",
        "SimCLRv2 with memory": "simclr_v2_cifar10_cpu",
        "MoCHi": "mochi_cifar10_cpu",
        "SupCon": "supcon_cifar10_cpu",
        "SupCon with queue": "supmoco_cifar10_cpu",
    }
    images = Data(root=str(data / "cifar10.npz"), limit=15_000)
    first = load_recipe("simclr_cifar10_cpu")
    rows = [
        Row("cifar10", "raw pixels", replace(first, data=images), trained=False, pixels=True),
        Row("cifar10", "untrained encoder", replace(first, data=images), trained=False),
    ]
    for name, recipe in recipes.items():
        run = load_recipe(recipe)
        rows.append(Row("cifar10", name, replace(run, data=images, epochs=20 // len(run.augment.views))))
    return rows


PAIR_LOSSES: dict[str, PairLoss.Config] = {
    "contrastive (Hadsell)": losses.Contrastive.Config(),
    "contrastive (XBM)": losses.SimilarityContrastive.Config(),
    "triplet, semi-hard": losses.Triplet.Config(),
    "triplet, batch-hard": losses.Triplet.Config(mining="hard"),
    "N-pair": losses.NPair.Config(),
    "lifted structure": losses.Lifted.Config(),
    "lifted, generalized": losses.Lifted.Config(generalized=True),
    "circle": losses.Circle.Config(),
    "margin": losses.Margin.Config(),
    "multi-similarity": losses.MultiSimilarity.Config(),
}


def cars(data: Path) -> list[Row]:
    """Every pair loss over small batches, alone and with the memory, from one start that has seen no label."""
    plain, memory, start = (load_recipe(name) for name in ("metric_cars_cpu", "xbm_cars_cpu", "simclr_cars_cpu"))

    # A loss that is a sum over the memory, and not a mean, is brought near that over the batch.
    lighter = replace(memory, method=replace(memory.method, memory_weight=0.1))

    def run(recipe: Run, loss: PairLoss.Config) -> Run:
        images = replace(recipe.data, root=str(data / "cars"))
        return replace(recipe, data=images, method=replace(cast(Metric.Config, recipe.method), loss=loss))

    first = run(plain, losses.MultiSimilarity.Config())
    rows = [
        Row("cars", "raw pixels", first, trained=False, pixels=True),
        Row("cars", "untrained encoder", first, trained=False),
        Row("cars", START, replace(start, data=replace(start.data, root=str(data / "cars")))),
        Row("cars", "proxy-anchor", run(plain, losses.Proxy.Config()), after=START),
    ]
    for name, loss in PAIR_LOSSES.items():
        rows.append(Row("cars", name, run(plain, loss), after=START))
        summed = isinstance(loss, losses.SimilarityContrastive.Config)
        rows.append(Row("cars", f"{name} + XBM", run(lighter if summed else memory, loss), after=START))
    return rows


def omniglot(data: Path) -> list[Row]:
    """Characters without labels."""
    images = Data(root=str(data / "omniglot.npz"), labels="none")
    return spcl("omniglot", load_recipe("simclr_omniglot_cpu"), load_recipe("spcl_omniglot_cpu"), images)


def wildlife(data: Path) -> list[Row]:
    """Lions with identities, nyalas without."""
    images = Data(root=str(data / "wildlife/nyala"), labelled_root=str(data / "wildlife/lion"))
    return spcl("wildlife", load_recipe("simclr_wildlife_cpu"), load_recipe("spcl_wildlife_uda_cpu"), images)


def spcl(suite: str, start: Run, run: Run, images: Data) -> list[Row]:
    """Self-paced clustering against clustering once, from the same start."""
    start = replace(start, data=replace(start.data, root=images.root))
    run = replace(run, data=replace(run.data, root=images.root, labelled_root=images.labelled_root))
    once = replace(cast(SpCL.Config, run.method), self_paced=False, recluster=False)
    return [
        Row(suite, "raw pixels", run, trained=False, pixels=True),
        Row(suite, "untrained encoder", run, trained=False),
        Row(suite, START, start),
        Row(suite, "SpCL", run, after=START),
        Row(suite, ONCE, replace(run, method=once), after=START),
    ]


SUITES: dict[str, Callable[[Path], list[Row]]] = {
    "cifar10": cifar10,
    "cars": cars,
    "omniglot": omniglot,
    "wildlife": wildlife,
}


def placed(row: Row, runs: Path) -> Row:
    """The row with its run in its folder, started from the encoder it is to start from."""
    start = str(runs / row.suite / slug(row.after)) if row.after else ""
    folder = str(runs / row.suite / slug(row.name))
    return replace(row, run=replace(row.run, folder=folder, start=start, evaluate_every=0, workers=0, precision="bf16"))


def slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name).strip("_").lower()


def judge(row: Row, device: torch.device) -> Figures:
    """Train where that is asked for, and judge on test images."""
    begin = time.monotonic()
    figures: Figures = {}
    if row.trained:
        outcome = pretrain(row.run)
        if outcome["reason"] != "finished":
            raise ValueError(f"{row.name} stopped at step {outcome['step']}; the same command goes on from there")
        figures["steps"] = outcome["step"]
    figures |= by_knn(row, device) if row.suite == "cifar10" else by_retrieval(row, device)
    return figures | {"seconds": round(time.monotonic() - begin)}


def untrained(row: Row) -> nn.Module:
    torch.manual_seed(row.run.seed)
    return nn.Flatten() if row.pixels else row.run.encoder.build()


def read(row: Row, data: Data, device: torch.device) -> Features:
    """Features of the test images by what is not trained."""
    test = open_test(data.place)
    assert test is not None
    return extract(untrained(row), test, row.run.feed.center(), device, canvas=data.canvas)


def by_knn(row: Row, device: torch.device) -> Figures:
    settings, data = KNN(data=row.run.data, k=(USUAL_K,)), row.run.data
    if row.trained:
        return run_knn(Path(row.run.folder), settings).results[0].flat()
    bank = extract(untrained(row), open_data(data, "train"), row.run.feed.center(), device)
    queries = read(row, data, device)
    k, temperature = settings.k[0], settings.temperature[0]
    figures = knn_accuracy(bank, queries, k, temperature, device=device)
    return {
        "knn_top1": figures["top1"],
        "k": k,
        "temperature": temperature,
        "bank_images": len(bank.labels),
        "query_images": len(queries.labels),
    }


def by_retrieval(row: Row, device: torch.device) -> Figures:
    data = replace(row.run.data, labelled_root="", labels="auto")
    if row.trained:
        # Metric learning and re-identification judge what the loss is about, an encoder alone has its features.
        settings = Retrieval(data=data, mode="leave_one_out", layer="backbone")
        features = run_retrieval(Path(row.run.folder), settings).results[0].flat()
        if row.name == START:
            return features
        found = run_retrieval(Path(row.run.folder), replace(settings, layer="embedding")).results[0].flat()
        return found | {f"backbone_{name}": features[name] for name in JUDGED} | clusters(row)
    return {**retrieval_figures(read(row, data, device), None, device=device), "split": "leave one out"}


def clusters(row: Row) -> Figures:
    """Clusters and images in them, epoch by epoch, from the log of the run."""
    lines = [json.loads(line) for line in (Path(row.run.folder) / "metrics.jsonl").read_text().splitlines()]
    found = [(line["clusters"], line["clustered_images"]) for line in lines if "clusters" in line]
    return {"clusters": [c for c, _ in found], "clustered_images": [n for _, n in found]} if found else {}


def record(row: Row, figures: Figures) -> Figures:
    """A row of the JSON: figures, seed, budget, protocol."""
    run = row.run
    about: Figures = {"suite": row.suite, "name": row.name}
    if row.trained:
        batch, steps = run.batch_size, figures.pop("steps")
        about |= {
            "method": dump(run.method),
            "encoder": dump(run.encoder),
            "seed": run.seed,
            "budget": {
                "steps": steps,
                "batch_size": batch,
                "images_seen": steps * batch,
                "views": len(run.augment.views),
                "epochs": run.epochs,
            },
            "start": row.after,
        }
    return about | {"run": mark(row), "figures": figures}


def mark(row: Row) -> str:
    """What tells whether a row was made by the settings of today: its run and how it is judged."""
    settings = [
        result_relevant(row.run),
        row.trained,
        row.pixels,
        asdict(KNN(k=(USUAL_K,))),
        asdict(Retrieval()),
        JUDGED,
    ]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def verified(row: Row) -> Figures | None:
    """The record of a row, if it is there and of today's settings."""
    path = Path(row.run.folder) / "verified.json"
    found: Figures | None = json.loads(path.read_text()) if path.is_file() else None
    return found if found and found.get("run") == mark(row) else None


def results(rows: list[Row]) -> list[Figures]:
    """What is there of the rows, in their order."""
    return [found for row in rows if (found := verified(row)) is not None]


def verify(row: Row) -> None:
    device = device_for("auto")
    figures = judge(row, device)
    folder = Path(row.run.folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "verified.json").write_text(json.dumps(record(row, figures), indent=1) + "\n")


def job(row: Row, options: argparse.Namespace) -> Job:
    """The row as a process of its own."""
    name = f"{row.suite}/{slug(row.name)}"
    words = [
        sys.executable,
        "-m",
        "tools.benchmarks.verify_methods",
        "--data",
        str(options.data),
        "--runs",
        str(options.runs),
        "--one",
        name,
    ]
    after = (f"{row.suite}/{slug(row.after)}",) if row.after else ()
    log = Path(row.run.folder).parent / f"{slug(row.name)}.log"
    return Job(name, words, log, lambda: verified(row) is not None, after)


def write(options: argparse.Namespace, rows: list[Row]) -> None:
    """The JSON and the table, of all suites that have been run."""
    found = results(rows)
    facts = environment(device_for("auto"))
    about = {
        "command": "python -m tools.benchmarks.verify_methods",
        **{name: facts[name] for name in ("python", "packages", "device")},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    name = f"methods_{device_for('auto').type}"
    (options.out / f"{name}.json").write_text(json.dumps(about | {"rows": found}, indent=1) + "\n")
    (options.out / f"{name}.md").write_text(table(found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that tools.prepare_data wrote")
    parser.add_argument("--runs", type=Path, default=Path("runs/verify"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results", help="folder of the results")
    parser.add_argument("--jobs", type=int, default=2, help="rows at a time")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", metavar="NAMES", help=f"of {', '.join(SUITES)}; default: all")
    options = parser.parse_args()
    try:
        rows = [placed(row, options.runs) for make in SUITES.values() for row in make(options.data)]
        if options.one:
            torch.set_num_threads(max(1, torch.get_num_threads() // 2))
            verify(next(row for row in rows if f"{row.suite}/{slug(row.name)}" == options.one))
            return 0
        unknown = set(options.names) - set(SUITES)
        if unknown:
            raise ValueError(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
        jobs = [job(row, options) for row in rows if not options.names or row.suite in options.names]
        work_off(jobs, options.jobs, lambda: write(options, rows))
        write(options, rows)
        for line in unmet(results(rows)):
            message(f"not as expected: {line}")
    except (ValueError, OSError) as error:
        print(f"verify_methods: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    with program():
        sys.exit(main())
