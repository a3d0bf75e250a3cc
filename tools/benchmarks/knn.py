"""kNN beside plain searches, and its memory at ImageNet's size: `python -m tools.benchmarks.knn`.

Prints one JSON line for each figure. Memory: of each backend in a fresh process, seconds and the peak of the whole
process' resident memory, of what `selfsup knn` calls after it has computed features. Rates: the exact search by faiss
and by torch beside faiss's own `knn` and a plain loop of torch, both in single precision, which take turns; `agreement`
is the share of neighbours that are the same at the same place as those of the exact search. With --growth only how
these grow with the bank and with k. The features are random directions.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.cluster.backends import Backend
from selfsup.cluster.neighbours import nearest_neighbours
from selfsup.evaluation.features import Features
from selfsup.evaluation.knn import USUAL_K, knn_accuracies
from selfsup.output import print_figures, program
from selfsup.stages.settings import KNN
from tools.benchmarks.growth import measure_growth
from tools.benchmarks.side_by_side import about, alternate, peak_gb, report, short

_ROWS = 65_536  # made at a time
_CLASSES = 1000
_SCORES = 2**24  # that the plain loop has in memory at a time
BANKS = (6_250, 12_500, 25_000, 50_000)  # of --growth
KS = (25, 50, 100, 200, 400)
_CPU = torch.device("cpu")
_PACKAGES = ("faiss-gpu", "faiss-cpu")


def unit_features(count: int, dim: int, seed: int) -> Features:
    """Random directions with random classes, made in chunks."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.empty(count, dim)
    for part in rows.split(_ROWS):
        part.copy_(F.normalize(torch.randn(part.shape, generator=generator)))
    return Features(rows, torch.randint(_CLASSES, (count,), generator=generator), torch.arange(count))


def knn_memory(images: int, queries: int, dim: int, backend: Backend) -> dict[str, object]:
    """kNN with its default settings in this process: seconds of it, and the most memory that the process ever had."""
    settings = KNN(k=(USUAL_K,))
    bank, asked = unit_features(images, dim, 0), unit_features(queries, dim, 1)
    before = peak_gb()
    start = time.perf_counter()
    found = knn_accuracies(bank, asked, settings.k, settings.temperature, backend)
    seconds = time.perf_counter() - start
    return {
        "name": f"knn_memory/{backend}",
        "peak_gb": peak_gb(),
        "peak_gb_with_features_only": before,
        "seconds": round(seconds, 2),
        "images": images,
        "queries": queries,
        "dim": dim,
        "k": settings.k,
        "top1": found[settings.k[0], settings.temperature[0]]["top1"],
        "device": platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "faiss": faiss.__version__},
    }


def plain_faiss(queries: Tensor, bank: Tensor, k: int) -> Tensor:
    """faiss's own search in single precision: (Q, k) numbers."""
    found: np.ndarray = faiss.knn(queries.numpy(), bank.numpy(), k, metric=faiss.METRIC_INNER_PRODUCT)[1]
    return torch.from_numpy(found)


def plain_torch(queries: Tensor, bank: Tensor, k: int) -> Tensor:
    """The loop that most evaluations have: products with the whole bank and `topk`, some queries at a time."""
    rows = max(1, _SCORES // len(bank))
    return torch.cat([(part @ bank.T).topk(k, dim=1).indices for part in queries.split(rows)])


def searches(queries: Tensor, bank: Tensor, k: int) -> dict[str, Callable[[], Tensor]]:
    """All of them find the k nearest by cosine; rows have unit length, which plain searches rely on."""

    def exact(backend: Backend) -> Tensor:
        return nearest_neighbours(queries, bank, k, backend, cosine=True)[1]

    return {
        "faiss": partial(exact, "faiss"),
        "torch": partial(exact, "torch"),
        "plain_faiss": partial(plain_faiss, queries, bank, k),
        "plain_torch": partial(plain_torch, queries, bank, k),
    }


def compare(images: int, queries: int, dim: int, runs: int) -> None:
    """Queries a second of each search. Of several threads by the wall: not all of the work is done by all of them."""
    bank, asked = (unit_features(count, dim, seed).features for seed, count in enumerate((images, queries)))
    k, found = min(USUAL_K, images), dict[str, Tensor]()

    def kept(name: str, search: Callable[[], Tensor]) -> None:
        found[name] = search()

    contestants = {name: partial(kept, name, search) for name, search in searches(asked, bank, k).items()}
    by_the_wall = torch.get_num_threads() > 1
    seconds = alternate(contestants, runs, _CPU, by_the_wall)
    agreement = {name: short(float((rows == found["faiss"]).float().mean())) for name, rows in found.items()}
    facts: dict[str, object] = {"images": images, "dim": dim, "k": k, "clock": "wall" if by_the_wall else "processor"}
    facts |= {"agreement": agreement} | about(_CPU, *_PACKAGES)
    report("knn", dict.fromkeys(seconds, queries), seconds, "faiss", "queries/s", **facts)


def growth(queries: int, dim: int, runs: int, banks: Sequence[int] = BANKS, ks: Sequence[int] = KS) -> None:
    """Seconds of the processor with the size of the bank, at most 200 neighbours, and with k in the largest bank."""
    asked, bank = unit_features(queries, dim, 1).features, unit_features(max(banks), dim, 0).features
    facts = {"queries": queries, "dim": dim}
    k = min(USUAL_K, *banks)
    measure_growth("knn", "images", banks, lambda size: searches(asked, bank[:size], k), runs, _PACKAGES, k=k, **facts)
    number = len(bank)
    measure_growth("knn", "k", ks, lambda k: searches(asked, bank, k), runs, _PACKAGES, images=number, **facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_281_167, help="in the bank (default %(default)s)")
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--runs", type=int, default=3, help="of each search; 0: memory alone")
    parser.add_argument("--no-memory", action="store_true", help="rates alone")
    parser.add_argument("--growth", action="store_true", help="only how seconds grow: with the bank, and with k")
    parser.add_argument("--backend", choices=["torch", "faiss"], help="one of them, in this very process")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    faiss.omp_set_num_threads(arguments.threads)
    sizes = arguments.images, arguments.queries, arguments.dim
    if arguments.backend:
        print_figures(knn_memory(*sizes, arguments.backend))
    elif arguments.growth:
        growth(arguments.queries, arguments.dim, max(1, arguments.runs))
    else:
        for backend in () if arguments.no_memory else ("torch", "faiss"):
            command = [sys.executable, "-m", "tools.benchmarks.knn", *sys.argv[1:], "--backend", backend]
            subprocess.run(command, check=True)
        if arguments.runs:
            compare(*sizes, arguments.runs)


if __name__ == "__main__":
    with program():
        main()
