"""Draws what passes for photographs, for trying things and for pictures in the documents; nothing is downloaded.

    python -m tools.generated_photos FOLDER [--each 75] [--seed 0]

FOLDER, which must not be there yet, gets a folder for each kind of scene with that many JPEG files of 240 x 180 pixels.
Within a kind, colours, light, crops, places and shapes differ from file to file, and some are toned. The same seed
draws the same files.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from selfsup.output import print_figures, program
from tools.scenes import SCENES, H, W

WIDTH, HEIGHT = 240, 180
_GRAY = 0.12  # share of pictures without colour
_GRAIN = 3.0  # standard deviation of the noise over a picture, of 255


def photo(kind: str, number: int, seed: int = 0) -> Image.Image:
    """Picture `number` of a kind of scene, of `WIDTH` x `HEIGHT` pixels: a pure function of its arguments."""
    rng = np.random.default_rng([seed, sorted(SCENES).index(kind), number])
    drawn = SCENES[kind](rng)
    share = rng.uniform(0.62, 1.0)
    left, top = rng.uniform(0, 1 - share) * W, rng.uniform(0, 1 - share) * H
    box = (left, top, left + share * W, top + share * H)
    pixels: np.ndarray = np.asarray(drawn.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box)) / 1.0
    if rng.random() < _GRAY:
        pixels = pixels.mean(axis=2, keepdims=True) * rng.uniform(0.92, 1.08, 3)
    pixels = pixels * rng.uniform(0.72, 1.22, 3) * rng.uniform(0.75, 1.15) + rng.normal(0, _GRAIN, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def write_photos(folder: Path, each: int, seed: int = 0, quality: int = 90) -> None:
    """A folder of each kind of scene with `each` JPEG files."""
    for kind in SCENES:
        (folder / kind).mkdir(parents=True)
        for number in range(each):
            photo(kind, number, seed).save(folder / kind / f"{kind}_{number:03d}.jpg", quality=quality)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.generated_photos", description="Draw photographs.")
    parser.add_argument("folder", type=Path, help="for the files; must not be there yet")
    parser.add_argument("--each", type=int, default=75, help="files of each kind (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    asked = parser.parse_args()
    if asked.folder.exists():
        print(f"tools.generated_photos: {asked.folder} is there already; name a folder that is not", file=sys.stderr)
        return 2
    write_photos(asked.folder, asked.each, asked.seed)
    print_figures({"folder": str(asked.folder), "classes": len(SCENES), "images": len(SCENES) * asked.each})
    return 0


if __name__ == "__main__":
    with program():
        sys.exit(main())
