"""Clustering beside what others offer: `python -m tools.benchmarks.cluster`.

Spherical k-means by faiss, as the commands take it, and by torch alone, in turn, with how much their clusters agree
(adjusted Rand index); and what SpCL does before an epoch, DBSCAN on Jaccard distances of k-reciprocal neighbours, which
an index finds or, with --exact, a comparison of all, with the peak of the process' memory. One JSON line for each. With
--growth only how both grow with the number of images.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.cluster.dbscan import dbscan
from selfsup.cluster.jaccard import jaccard_graph
from selfsup.cluster.kmeans import kmeans, spherical_kmeans
from selfsup.evaluation.clustering import adjusted_rand_index, contingency
from selfsup.output import print_figures, program
from selfsup.search.each_other import nearest_of_each
from tools.benchmarks.growth import measure_growth
from tools.benchmarks.side_by_side import about, alternate, peak_gb, report, short

_K1 = 30  # neighbours that Jaccard distances are made of
_EPS, _LEAST = 0.6, 4  # of DBSCAN: the distance of neighbours, and how many make a core
_PACKAGES = ("faiss-gpu", "faiss-cpu", "scipy")
SIZES = (4_000, 8_000, 16_000, 32_000)  # of --growth


def blobs(count: int, dim: int, clusters: int) -> tuple[Tensor, Tensor]:
    """Unit rows around as many directions, and which one each belongs to."""
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(clusters, dim, generator=generator))
    labels = torch.randint(clusters, (count,), generator=generator)
    noise = torch.randn(count, dim, generator=generator) / dim**0.5
    return F.normalize(centres[labels] + 0.8 * noise), labels


def compare_kmeans(count: int, dim: int, k: int, runs: int) -> None:
    rows, _ = blobs(count, dim, k)
    found: dict[str, Tensor] = {}

    def ours() -> None:
        found["faiss"] = spherical_kmeans(rows, k, 1, 25, 0)[0]

    def by_torch() -> None:
        found["torch"] = kmeans(rows, k, 25, 0)[0]

    seconds = alternate({"faiss": ours, "torch": by_torch}, runs, torch.device("cpu"))
    facts = {"dim": dim, "k": k, "ari": short(adjusted_rand_index(contingency(found["faiss"], found["torch"])))}
    report("kmeans", dict.fromkeys(seconds, count), seconds, "faiss", "images/s", **facts, **_about())


def time_dbscan(count: int, dim: int, exact: bool) -> None:
    """By an index, and, where that is asked for, by comparing all rows: how long, and how much the clusters agree."""
    rows, labels = blobs(count, dim, max(2, count // 20))
    found = dict[str, Tensor]()
    for way in ("approximate", *(["exact"] if exact else [])):
        start, cpu, before = time.perf_counter(), time.process_time(), peak_gb()
        nearest = nearest_of_each(rows, _K1) if way == "approximate" else None
        searched = time.perf_counter()
        graph = jaccard_graph(rows, _EPS, _K1, neighbours=None if nearest is None else nearest.numbers)
        graphed = time.perf_counter()
        found[way] = dbscan(graph, _EPS, _LEAST)
        end = time.perf_counter()
        line = {
            "name": f"dbscan/jaccard/{way}",
            "images": count,
            "dim": dim,
            "threads": torch.get_num_threads(),
            "seconds": short(end - start),
            "seconds_of_index_and_search": short(searched - start),
            "seconds_of_distances": short(graphed - searched),
            "seconds_of_clusters": short(end - graphed),
            "cpu_seconds": short(time.process_time() - cpu),
            "peak_gb": short(peak_gb()),
            "peak_gb_with_features_only": short(before),
            "recall": 1.0 if nearest is None else short(nearest.recall),
            "ari_with_the_truth": short(adjusted_rand_index(contingency(labels, found[way]))),
            "ari_with_approximate": short(adjusted_rand_index(contingency(found["approximate"], found[way]))),
        }
        print_figures(line | _about())


def cluster(rows: Tensor, exact: bool) -> Tensor:
    """What SpCL does before an epoch: the cluster of each row, -1 for none."""
    nearest = None if exact else nearest_of_each(rows, _K1).numbers
    return dbscan(jaccard_graph(rows, _EPS, _K1, neighbours=nearest), _EPS, _LEAST)


def growth(dim: int, runs: int, sizes: Sequence[int] = SIZES) -> None:
    """Seconds of the processor of k-means with 10 clusters, and of DBSCAN by an index and with all rows compared."""

    def by_kmeans(count: int) -> dict[str, Callable[[], object]]:
        rows, _ = blobs(count, dim, 10)
        return {
            "faiss": lambda: spherical_kmeans(rows, 10, 1, 25, 0),
            "torch": lambda: kmeans(rows, 10, 25, 0),
        }

    def by_dbscan(count: int) -> dict[str, Callable[[], object]]:
        rows, _ = blobs(count, dim, max(2, count // 20))
        return {"approximate": lambda: cluster(rows, exact=False), "exact": lambda: cluster(rows, exact=True)}

    measure_growth("kmeans", "images", sizes, by_kmeans, runs, _PACKAGES, dim=dim, k=10)
    measure_growth("dbscan", "images", sizes, by_dbscan, runs, _PACKAGES, dim=dim)


def _about() -> dict[str, object]:
    return about(torch.device("cpu"), *_PACKAGES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--dim", type=int, nargs=2, default=(512, 2048), help="of k-means, and of DBSCAN")
    parser.add_argument("--runs", type=int, default=3, help="of k-means; 0: none")
    parser.add_argument("--exact", action="store_true", help="compare all rows, too, and say how much clusters agree")
    parser.add_argument("--growth", action="store_true", help="only how seconds grow with the images")
    arguments = parser.parse_args()
    if arguments.growth:
        growth(arguments.dim[0], max(1, arguments.runs))
        return
    if arguments.runs:
        compare_kmeans(arguments.images, arguments.dim[0], 10, arguments.runs)
    time_dbscan(arguments.images, arguments.dim[1], arguments.exact)


if __name__ == "__main__":
    with program():
        main()
