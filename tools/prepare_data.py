"""Turn the packs of a data folder into standard layouts that `--data` finds.

    python -m tools.prepare_data --from ../shared/data --to DIR [NAMES]

writes below DIR, for each pack that is there (or that is named): cifar10.npz; imagenette/{train,val}/<class>/;
cars/{train,test}/<class>/ with index.csv; omniglot.npz as images; wildlife/{nyala,lion}/{train,test}/<animal>/ with
index.csv; and tiny/, small parts of them for tests. What is there already is kept. Each item is counted before it gets
its name, so an item is whole or not there. One JSON line per item goes to standard output.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parent / "checkout.py"))["again_as_module"](__file__)

import argparse
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from selfsup.data.arrays import write_npz
from selfsup.data.cifar import CIFAR10_SHA256, cifar_digest
from selfsup.data.listing import list_folder
from selfsup.output import print_figures, program
from tools.cifar10 import read_cifar10_packs

OMNIGLOT_SIDE = 105


@dataclass(frozen=True)
class Item:
    """One data set: what it is made from, what it becomes, and how many images each part must have."""

    packs: tuple[str, ...]
    target: str
    counts: dict[str, int]
    build: Callable[["Item", Path, Path], None]  # (item, packs' folder, target)


def build_cifar10(item: Item, packs: Path, target: Path) -> None:
    arrays = read_cifar10_packs(packs)
    if cifar_digest(arrays) != CIFAR10_SHA256:
        raise ValueError(f"{packs}: the CIFAR-10 packs are damaged, their SHA-256 is not the known one")
    write_npz(target, arrays)


def build_omniglot(item: Item, packs: Path, target: Path) -> None:
    write_omniglot(packs / item.packs[0], target, item.counts)


def build_folder(item: Item, packs: Path, target: Path) -> None:
    """Extract archives into a folder; the bit-packed array among the tiny data becomes images, too."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as made:
        folder = Path(made) / target.name
        for name in item.packs:
            with zipfile.ZipFile(packs / name) as archive:
                check_disk(packs / name, archive, target.parent)
                archive.extractall(folder)  # drops `..` and leading slashes from names
        for part, count in item.counts.items():
            check_count(f"{target.name}/{part}", len(list_folder(folder / part).images), count)
        if (small := folder / "omniglot_mini.npz").is_file():
            write_omniglot(small, small, {})
        os.rename(folder, target)


def write_omniglot(source: Path, target: Path, counts: dict[str, int]) -> None:
    """Unpack bits (classes, 20, bytes) to images (N, 105, 105) uint8, ink black on white, with the class as label."""
    arrays: dict[str, np.ndarray] = {}
    with np.load(source, allow_pickle=False) as file:
        for split in ("train", "test"):
            bits = np.unpackbits(file[split], axis=-1)[..., : OMNIGLOT_SIDE**2]
            classes, drawings = bits.shape[:2]
            check_count(f"omniglot {split}", classes * drawings, counts.get(split, classes * drawings))
            arrays[f"x_{split}"] = bits.reshape(-1, OMNIGLOT_SIDE, OMNIGLOT_SIDE) * np.uint8(255)
            arrays[f"y_{split}"] = np.repeat(np.arange(classes), drawings)
    write_npz(target, arrays, compress=True)


def check_disk(pack: Path, archive: zipfile.ZipFile, folder: Path) -> None:
    needed, free = sum(entry.file_size for entry in archive.infolist()), shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(f"{pack} unpacks to {needed:,} bytes, and {folder} has {free:,} free")


def check_count(what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise ValueError(f"{what} has {found} images, wanted {wanted}; the pack is incomplete, fetch it again")


ITEMS = {
    "tiny": Item(
        ("tiny.zip",),
        "tiny",
        {"imagenette_mini/train": 160, "imagenette_mini/val": 40, "reid_mini/nyala": 40, "reid_mini/lion": 40},
        build_folder,
    ),
    "cifar10": Item(
        ("cifar10_a.zip", "cifar10_b.zip"), "cifar10.npz", {"train": 50_000, "test": 10_000}, build_cifar10
    ),
    "imagenette": Item(
        ("imagenette128_train.zip", "imagenette128_val.zip"),
        "imagenette",
        {"train": 9_469, "val": 3_925},
        build_folder,
    ),
    "cars": Item(("cars196_96.zip",), "cars", {"train": 4_052, "test": 4_092}, build_folder),
    "omniglot": Item(("omniglot.npz",), "omniglot.npz", {"train": 19_280, "test": 13_180}, build_omniglot),
    "wildlife": Item(
        ("wildlife_reid_128.zip",),
        "wildlife",
        {"nyala/train": 1_205, "nyala/test": 729, "lion/train": 594, "lion/test": 146},
        build_folder,
    ),
}


def prepare(name: str, packs: Path, folder: Path) -> dict[str, object]:
    """Make one item; what there is to say of it."""
    item = ITEMS[name]
    target = folder / item.target
    kept = target.exists()
    if not kept:
        item.build(item, packs, target)
    return {"name": name, "path": str(target), "images": item.counts, "status": "kept" if kept else "written"}


def choose(names: Sequence[str], packs: Path) -> list[str]:
    """The named items, or all whose packs are there. Raises ValueError where a pack is missing."""
    for name in names:
        if name not in ITEMS:
            raise ValueError(f"no data set {name!r}; there are {', '.join(ITEMS)}")
        missing = [pack for pack in ITEMS[name].packs if not (packs / pack).is_file()]
        if missing:
            raise ValueError(f"{name} needs {', '.join(missing)}, not found in {packs}")
    chosen = list(names) or [
        name for name, item in ITEMS.items() if all((packs / pack).is_file() for pack in item.packs)
    ]
    if not chosen:
        raise ValueError(f"no pack in {packs}; wanted any of {', '.join(p for i in ITEMS.values() for p in i.packs)}")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="packs", type=Path, required=True, help="folder with the packs")
    parser.add_argument("--to", dest="folder", type=Path, required=True, help="folder to write to")
    parser.add_argument("names", nargs="*", metavar="NAMES", help=f"of {', '.join(ITEMS)}; default: all that are there")
    options = parser.parse_args(arguments)
    try:
        names = choose(options.names, options.packs)
        options.folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            print(f"{name} ...", file=sys.stderr)
            print_figures(prepare(name, options.packs, options.folder))
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        print(f"prepare_data: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    with program():
        sys.exit(main())
