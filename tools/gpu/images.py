"""Where `tools.gpu_check` finds CIFAR-10: nothing is downloaded."""

from collections.abc import Sequence
from pathlib import Path

ARRAY = "cifar10.npz"
PACKS = ("cifar10_a.zip", "cifar10_b.zip")


def found_cifar10(folders: Sequence[Path]) -> list[Path]:
    """The file `cifar10.npz`, or both packs, from these folders (or files) and the cache; empty where there is none."""
    from tools.cifar10 import cache_folder  # brings torch, which the answer to --needs must not wait for

    files = [path for folder in [*folders, cache_folder()] for path in _candidates(folder)]
    arrays = [path for path in files if path.name not in PACKS]
    packs = [next((path for path in files if path.name == name), None) for name in PACKS]
    return arrays[:1] or [path for path in packs if path is not None and None not in packs]


def _candidates(place: Path) -> list[Path]:
    named = [place / name for name in (ARRAY, *PACKS)] if not place.suffix else [place]
    return [path for path in named if path.is_file()]


def as_array(files: Sequence[Path], out: Path) -> Path:
    """`cifar10.npz`, made of the packs in `out` where it is not there yet.

    Raises:
        ValueError: the packs do not hold the images of CIFAR-10.
    """
    from selfsup.data.arrays import write_npz
    from selfsup.data.cifar import CIFAR10_SHA256, cifar_digest
    from tools.cifar10 import read_cifar10_packs

    if len(files) == 1:
        return files[0]
    made = out / ARRAY
    if not made.is_file():
        arrays = read_cifar10_packs(*(path.parent for path in files))
        if (digest := cifar_digest(arrays)) != CIFAR10_SHA256:
            raise ValueError(f"the packs hold other images than CIFAR-10: SHA-256 {digest[:16]}...; fetch them again")
        write_npz(made, arrays)
    return made
