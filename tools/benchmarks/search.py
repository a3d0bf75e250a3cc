"""Search and near duplicates, measured: `python -m tools.benchmarks.search`.

Prints a JSON line for each figure, each measured in a fresh process: recall@10 of the indexes against exact search and
what they take to build and to ask; seconds and memory of all pairs above a cosine, with the pairs of some rows counted
again by a plain product in double precision; seconds of a diverse subset.

The features are made: `clustered` has directions around 2000 centres in a space of 64 dimensions, with noise in all, as
features of an encoder have few directions that count; `isotropic` has the same in all directions, the worst case of
the bound by which pairs are ruled out. 5 in 100 rows are near duplicates of others.
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
from torch import Tensor

from selfsup.output import print_figures, program
from selfsup.search.diverse import diverse_subset
from selfsup.search.duplicates import near_duplicates
from selfsup.search.index import Index
from tools.benchmarks.side_by_side import peak_gb, short

_ROWS = 65_536  # made at a time
_CENTRES, _RANK = 2000, 64
_QUERIES = 1000
_CHECKED = 200  # rows whose pairs are counted again
_SIMILARITY = 0.95
KINDS = ("clustered", "isotropic")


def made(kind: str, count: int, dimension: int, seed: int = 0) -> Tensor:
    """(count, dimension) float32; every twentieth row is near the one ten before it, by cosines of 0.9 to 1."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.empty(count, dimension)
    axes = torch.randn(_RANK, dimension, generator=generator) / _RANK**0.5
    centres = torch.randn(_CENTRES, _RANK, generator=generator)
    for part in rows.split(_ROWS):
        noise = torch.randn(part.shape, generator=generator)
        if kind == "clustered":
            own = centres[torch.randint(_CENTRES, (len(part),), generator=generator)]
            spread = torch.randn(own.shape, generator=generator)
            noise = (own + 0.7 * spread) @ axes + 0.2 * noise
        part.copy_(noise)
    twins = torch.arange(19, count, 20)
    shift = F.normalize(torch.randn(len(twins), dimension, generator=generator))
    length = rows[twins - 10].norm(dim=1, keepdim=True) * 0.5 * torch.rand(len(twins), 1, generator=generator)
    rows[twins] = rows[twins - 10] + shift * length
    return rows


def index_figures(kind: str, count: int, dimension: int, data: str) -> dict[str, object]:
    """Recall@10 on queries that the index has not seen, and times."""
    rows = made(data, count + _QUERIES, dimension)
    rows, queries = rows[:count], rows[count:].clone()
    exact = Index(rows).search(queries, 10)[0]
    began = time.perf_counter()
    index = Index.build(rows, kind)  # type: ignore[arg-type]  # a word of the command line, which has checked it
    built = time.perf_counter() - began
    began = time.perf_counter()
    found = index.search(queries, 10)[0]
    asked = time.perf_counter() - began
    began = time.perf_counter()
    for number in range(100):
        index.search(queries[number : number + 1], 10)
    one = (time.perf_counter() - began) / 100
    recall = float((found >= exact[:, -1:] - 1e-9).double().mean())
    return {
        "recall_at_10": round(recall, 4),
        "stated_recall_at_10": round(index.recall, 4),
        "seconds_to_build": short(built),
        "ms_a_query_of_1000": short(asked / _QUERIES * 1e3),
        "ms_a_query_alone": short(one * 1e3),
    }


def pair_figures(count: int, dimension: int, data: str) -> dict[str, object]:
    """All pairs, and how many of those of some rows a plain product in double precision finds."""
    rows = made(data, count, dimension)
    before = peak_gb()
    began, computed = time.perf_counter(), time.process_time()
    pairs = near_duplicates(rows, _SIMILARITY)
    seconds, processors = time.perf_counter() - began, time.process_time() - computed
    peak = peak_gb()
    some = torch.arange(19, count, max(1, count // _CHECKED))[:_CHECKED]
    expected = set()
    unit = F.normalize(rows[some].double())
    for start in range(0, count, _ROWS):
        near = unit @ F.normalize(rows[start : start + _ROWS].double()).T >= _SIMILARITY
        for one, other in zip(*(part.tolist() for part in near.nonzero(as_tuple=True)), strict=True):
            first, second = int(some[one]), other + start
            if first != second:
                expected.add((min(first, second), max(first, second)))
    chosen = torch.isin(pairs.first, some) | torch.isin(pairs.second, some)
    found = set(zip(pairs.first[chosen].tolist(), pairs.second[chosen].tolist(), strict=True))
    return {
        "similarity": _SIMILARITY,
        "pairs": len(pairs.first),
        "pairs_of_some_rows": len(expected),
        "of_these_found": len(found & expected),
        "found_and_not_expected": len(found - expected),
        "seconds": short(seconds),
        "processor_seconds": short(processors),
        "peak_gb": peak,
        "peak_gb_with_features_only": before,
    }


def subset_figures(count: int, dimension: int, data: str, wanted: int) -> dict[str, object]:
    """A diverse subset."""
    rows = made(data, count, dimension)
    began = time.perf_counter()
    found = diverse_subset(rows, wanted)
    return {"subset": wanted, "covered": short(found.covered), "seconds": short(time.perf_counter() - began)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="(default: 100,000 for indexes, 200,000 for pairs)")
    parser.add_argument("--dim", type=int, help="(default: 128 for indexes, 512 for pairs)")
    parser.add_argument("--subset", type=int, default=1000, help="rows of the diverse subset (default %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--data", choices=KINDS, help="one kind of features (default: each)")
    parser.add_argument("--what", choices=["flat", "ivf", "hnsw", "pairs", "subset"], help="one, in this very process")
    arguments = parser.parse_args()
    if arguments.what is None:
        for data in [arguments.data] if arguments.data else KINDS:
            for what in ("flat", "ivf", "hnsw", "pairs", "subset"):
                words = [*sys.argv[1:], "--data", data, "--what", what]
                subprocess.run([sys.executable, "-m", "tools.benchmarks.search", *words], check=True)
        return
    torch.set_num_threads(arguments.threads)
    faiss.omp_set_num_threads(arguments.threads)
    of_pairs, data = arguments.what == "pairs", arguments.data or KINDS[0]
    count = arguments.rows or (200_000 if of_pairs else 100_000)
    dimension = arguments.dim or (512 if of_pairs else 128)
    if of_pairs:
        figures = pair_figures(count, dimension, data)
    elif arguments.what == "subset":
        figures = subset_figures(count, dimension, data, arguments.subset)
    else:
        figures = index_figures(arguments.what, count, dimension, data)
    versions = {"python": platform.python_version(), "torch": torch.__version__, "faiss": faiss.__version__}
    about = {"rows": count, "dim": dimension, "data": data, "device": platform.machine()}
    threads = {"threads": arguments.threads, "versions": versions}
    print_figures({"name": f"search/{arguments.what}", **about, **figures, **threads})


if __name__ == "__main__":
    with program():
        main()
