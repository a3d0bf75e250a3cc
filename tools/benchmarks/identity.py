"""How long it takes to know data by their content: `python -m tools.benchmarks.identity --folder EMPTY`.

Prints one JSON line for each look, made in a fresh process: a million files of 2 kB that were never looked at, the same
again, the same with every file read anew (`--data.verify full`), and an array, beside the time it takes to read its
bytes. What it writes is removed at the end. The files have just been written, so they lie in the machine's memory.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time

import numpy as np

from selfsup.output import print_figures, program

_CLASSES = 1000
_BYTES = 2048  # of a file


def files(folder: Path, count: int) -> None:
    """Files in class folders, every one with other bytes; they need not be images, for none is decoded."""
    same = os.urandom(_BYTES - 16)
    for number in range(_CLASSES):
        place = folder / f"class_{number:04}"
        place.mkdir(parents=True)
        for index in range(number, count, _CLASSES):
            (place / f"image_{index:07}.jpg").write_bytes(b"%016d" % index + same)


def array(path: Path, gigabytes: float) -> None:
    rows = max(1, int(gigabytes * 1e9 / 3072))
    written = np.lib.format.open_memmap(path, "w+", np.uint8, (rows, 32, 32, 3))
    for start in range(0, rows, 50_000):
        part = written[start : start + 50_000]
        part[:] = np.random.default_rng(start).integers(0, 256, part.shape, dtype=np.uint8)
    written.flush()


def look(name: str, root: str, full: bool) -> dict[str, object]:
    """One look in this process: seconds to list or read the data, and to know them."""
    from selfsup.data.identity import manifest_of
    from selfsup.data.sources import open_source

    start = time.perf_counter()
    source = open_source(root)
    opened = time.perf_counter()
    found = manifest_of(source, full)
    return {
        "name": name,
        "images": len(source),
        "open_seconds": round(opened - start, 1),
        "look_seconds": round(time.perf_counter() - opened, 1),
        "digest": found.digest[:12],
        "cores": len(os.sched_getaffinity(0)),
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
    }


def read(path: Path) -> dict[str, object]:
    """How long it takes to read a file's bytes alone."""
    start = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        block = bytearray(1 << 24)
        while file.readinto(block):
            pass
    return {"name": "array/read", "bytes": path.stat().st_size, "seconds": round(time.perf_counter() - start, 1)}


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="made for this; some 10 GB at the full size")
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--gigabytes", type=float, default=5.0, help="of the array")
    parser.add_argument("--look", nargs=3, metavar=("NAME", "ROOT", "FULL"), help=argparse.SUPPRESS)
    asked = parser.parse_args(words)
    if asked.look:
        name, root, full = asked.look
        print_figures(look(name, root, full == "full"))
        return 0
    asked.folder.mkdir(parents=True)
    try:
        files(asked.folder / "files", asked.files)
        for name, full in (("first", "auto"), ("again", "auto"), ("full", "full")):
            _apart(asked.folder, f"files/{name}", asked.folder / "files", full)
        array(asked.folder / "array.npy", asked.gigabytes)
        print_figures(read(asked.folder / "array.npy"))
        _apart(asked.folder, "array/first", asked.folder / "array.npy", "auto")
    finally:
        shutil.rmtree(asked.folder)
    return 0


def _apart(folder: Path, name: str, root: Path, full: str) -> None:
    """A look in a process of its own, with the list of files that were looked at kept in `folder`."""
    command = [
        sys.executable,
        "-m",
        "tools.benchmarks.identity",
        "--folder",
        str(folder),
        "--look",
        name,
        str(root),
        full,
    ]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    print_figures(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    with program():
        sys.exit(main(sys.argv[1:]))
