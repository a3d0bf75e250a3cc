"""All figures of the record, and how one of them is measured."""

import json
import shutil
import time
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import torch

from tests.reliability.figure import Figure

# In the order of the record.
MODULES: tuple[str, ...] = (
    "equivalence",
    "recipes",
    "resume",
    "chained",
    "exchanged",
    "shards",
    "crash",
    "hostile",
    "finite",
    "elastic",
    "outliving",
    "lasting",
    "caching",
    "content",
)


def figures() -> list[Figure]:
    return [figure for module in MODULES for figure in import_module(f"tests.reliability.{module}").FIGURES]


def measure(figure: Figure, runs: Path, quick: bool) -> None:
    """Measure one and write runs/NAME.json, as a whole or not at all."""
    folder = runs / figure.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.set_num_threads(1)
    begin = time.monotonic()
    measured = asdict(figure.measure(folder, quick))
    measured |= {"seconds": round(time.monotonic() - begin, 1), "date": time.strftime("%Y-%m-%d"), "quick": quick}
    temporary = runs / f"{figure.name}.partial"
    temporary.write_text(json.dumps(measured, indent=1) + "\n")
    temporary.replace(runs / f"{figure.name}.json")
    shutil.rmtree(folder, ignore_errors=True)
