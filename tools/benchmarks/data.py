"""Measure how long `selfsup data` takes, and which copies it finds: `python -m tools.benchmarks.data`.

JPEG files are generated in a temporary folder, in class folders of a training and of a test part: blobs of colour with
noise, none like another but for planted ones, which are to be found: files that are equal, copies saved anew, and files
that are cut short. Then the command runs in a process of its own, as a user starts it. One JSON line says how long it
took by the wall, by the processors, and what it found. Times are of a machine that others may use, too.

With `--photographs PATH`, which is what --data.root takes, a line for each kind of copy of a few hundred of these
images says how many are found as alike to their original, and one how many of all images are alike to another.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import io
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import PIL
from PIL import Image, ImageEnhance

from selfsup.augment.bands import Picture
from selfsup.data.parts import open_data
from selfsup.data.settings import Data
from selfsup.output import message, print_figures, program
from selfsup.survey.alike import alike, sketch

_CLASSES = 100
_TESTED = 10  # one image in so many is of the test part
_PLANTED = 50  # of each kind


def generated(folder: Path, count: int, side: int) -> None:
    """`count` JPEG files of side x side pixels, with the planted ones among the test images."""
    random = np.random.default_rng(0)
    for number in range(count):
        part = "test" if number % _TESTED == 0 else "train"
        blobs = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((side, side))
        pixels = np.asarray(blobs, np.int16) + random.integers(-20, 21, (side, side, 3))
        place = folder / part / f"class_{number // _TESTED % _CLASSES:02}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(place / f"{number:06}.jpg", quality=90)
    tested = sorted((folder / "test").rglob("*.jpg"))
    trained = sorted((folder / "train").rglob("*.jpg"))
    for number in range(_PLANTED):
        shutil.copy(trained[number], tested[number])
        with Image.open(trained[_PLANTED + number]) as picture:
            picture.resize((side * 3 // 4, side * 3 // 4)).save(tested[_PLANTED + number], quality=75)
        broken = tested[2 * _PLANTED + number]
        broken.write_bytes(broken.read_bytes()[:500])


def measured(folder: Path, workers: int) -> dict[str, object]:
    """The command on a folder, and what it took."""
    command = [sys.executable, "-m", "selfsup", "data", str(folder), "--workers", str(workers)]
    begin = time.monotonic()
    done = subprocess.run(
        [*command, "--out", str(folder.with_suffix(".html"))], stdout=subprocess.PIPE, text=True, check=True
    )
    seconds = time.monotonic() - begin
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = json.loads(done.stdout.splitlines()[-1])
    names = ("images", "bytes", "unreadable_images", "equal_test_images_in_training", "alike_test_images_in_training")
    return {
        "name": "data",
        "seconds": round(seconds, 1),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "largest_process_mb": round(used.ru_maxrss / 1024),
        "workers": workers,
        "load_before": round(os.getloadavg()[0], 1),
        **{name: told[name] for name in names},
        "page_bytes": folder.with_suffix(".html").stat().st_size,
        "machine": platform.machine(),
        "pillow": PIL.__version__,
    }


def _again(picture: Image.Image, quality: int) -> Image.Image:
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=quality)
    return Image.open(content).convert("RGB")


def _resized(picture: Image.Image, factor: float) -> Image.Image:
    return picture.resize((max(1, round(picture.width * factor)), max(1, round(picture.height * factor))))


def _cropped(picture: Image.Image, share: float) -> Image.Image:
    across, down = round(picture.width * share), round(picture.height * share)
    return picture.crop((across, down, picture.width - across, picture.height - down))


_COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 75": lambda picture: _again(picture, 75),
    "JPEG of quality 30": lambda picture: _again(picture, 30),
    "half the size": lambda picture: _resized(picture, 1 / 2),
    "a third of the size": lambda picture: _resized(picture, 1 / 3),
    "twice the size": lambda picture: _resized(picture, 2),
    "brighter by a fifth": lambda picture: ImageEnhance.Brightness(picture).enhance(1.2),
    "contrast of 0.7": lambda picture: ImageEnhance.Contrast(picture).enhance(0.7),
    "gray": lambda picture: picture.convert("L").convert("RGB"),
    "2 % cropped from each side": lambda picture: _cropped(picture, 0.02),
    "5 % cropped from each side": lambda picture: _cropped(picture, 0.05),
    "mirrored": lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def copies_found(root: str, count: int) -> None:
    """One line for each kind of copy, and one for the images themselves."""
    source = open_data(Data(root=root), "train")
    sketches = np.stack([sketch(source.load(row)) for row in range(len(source))])
    chosen = [number * len(source) // count for number in range(count)]
    for kind, copied in _COPIES.items():
        known = sum(_alike(sketches[row], sketch(copied(_rgb(source.load(row))))) for row in chosen)
        print_figures({"name": "data/copies", "copy": kind, "images": count, "found": known})
    begin = time.process_time()
    found = alike(sketches)
    seconds = time.process_time() - begin
    heads = int((found.heads != np.arange(len(sketches))).sum())
    told = {"images": len(source), "alike_to_another": heads + len(found.pairs), "processor_seconds": round(seconds, 2)}
    print_figures({"name": "data/alike", **told})


def _rgb(picture: Picture) -> Image.Image:
    if not isinstance(picture, Image.Image):
        raise TypeError("images are read as red, green and blue")
    return picture


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    found = alike(np.stack([one, other]))
    return bool(found.heads[1] == 0) or len(found.pairs) > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=100, help="of the files, in pixels")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="an empty or absent folder for the files, which then stay there")
    parser.add_argument("--photographs", help="images of which copies are made, in place of the above")
    parser.add_argument("--copied", type=int, default=300, help="of them, so many")
    arguments = parser.parse_args()
    if arguments.photographs:
        copies_found(arguments.photographs, arguments.copied)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary) / "images"
        if not folder.exists():
            message(f"generating {arguments.images:,} files")
            generated(folder, arguments.images, arguments.side)
        print_figures(measured(folder, arguments.workers) | {"side": arguments.side})


if __name__ == "__main__":
    with program():
        main()
