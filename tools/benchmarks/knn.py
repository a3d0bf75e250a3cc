"""Time and memory of kNN at ImageNet's size: `python -m tools.benchmarks.knn`.

Prints one JSON line for each backend, measured in a fresh process: seconds, the peak of the whole process' resident
memory, sizes, versions. The features are random directions; what `selfsup knn` calls after it has computed features is
called on them.
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

import faiss
import torch
import torch.nn.functional as F

from selfsup.cluster.backends import Backend
from selfsup.evaluation.features import Features
from selfsup.evaluation.knn import USUAL_K, knn_accuracies
from selfsup.output import print_figures, program
from selfsup.stages.settings import KNN
from tools.benchmarks.side_by_side import peak_gb

_ROWS = 65_536  # made at a time
_CLASSES = 1000


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_281_167, help="in the bank (default %(default)s)")
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--backend", choices=["torch", "faiss"], help="one of them, in this very process")
    arguments = parser.parse_args()
    if arguments.backend is None:
        for backend in ("torch", "faiss"):
            command = [sys.executable, "-m", "tools.benchmarks.knn", *sys.argv[1:], "--backend", backend]
            subprocess.run(command, check=True)
        return
    torch.set_num_threads(arguments.threads)
    faiss.omp_set_num_threads(arguments.threads)
    print_figures(knn_memory(arguments.images, arguments.queries, arguments.dim, arguments.backend))


if __name__ == "__main__":
    with program():
        main()
