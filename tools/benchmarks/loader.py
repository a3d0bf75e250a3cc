"""Measure how fast images come from a disk: `python -m tools.benchmarks.loader --data DIR`.

DIR holds imagenette128_train.zip and imagenette128_val.zip, JPEG files of 128 pixels. Three comparisons, each of
contestants that take turns in one run, with one JSON line for each: bringing images (decoding and squeezing, a pack,
numpy's memory map), crops at full resolution (ours, torch's DataLoader with Pillow and torchvision's transforms, and
NVIDIA DALI on the CPU where it is installed, with and without workers), and decoders of JPEG files alone. All are
measured on these files and on pictures of 500 x 375 pixels, each made of four of them. Images are brought, and views
made of them, on all cores. Times are by the wall, for workers are processes of their own: on shared CPUs only ratios
mean something. Without workers crops are measured on one thread, in seconds of the processor.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import importlib.util
import io
import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import PIL
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from selfsup.augment.parameters import View
from selfsup.augment.presets import moco_v2, simclr
from selfsup.augment.views import Augment, Views
from selfsup.batch import Batch
from selfsup.data.content import file_content
from selfsup.data.decode import decode_held
from selfsup.data.files import FileSource
from selfsup.data.loader import Loader
from selfsup.data.packed import Packed
from selfsup.data.parts import open_data
from selfsup.data.settings import Data
from selfsup.data.sources import Source
from selfsup.data.squeezed import squeeze
from selfsup.output import message, print_figures, program
from selfsup.stages.packing import run_pack
from selfsup.stages.settings import Packing
from tools.benchmarks.side_by_side import about, alternate, report

_CPU = torch.device("cpu")
_PACKS = ("imagenette128_train.zip", "imagenette128_val.zip")
_VIEW = 96  # of crops of the small files
_SIZES = ((128, 96), (40, 32))  # side of a pack's squares, and of the views that are made of them
_SMALL, _LARGE = "Imagenette, 128 px", "four of Imagenette's, 500 x 375 px"


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Two crops of each file, as most programs make them: Pillow, then torchvision's transforms."""

    def __init__(self, source: Source, view: View) -> None:
        self.source = source
        mode = v2.InterpolationMode(view.interpolation.removesuffix("_aliased"))
        crop = v2.RandomResizedCrop(view.shape, scale=view.crop_scale, ratio=view.crop_ratio, interpolation=mode)
        self.crop = v2.Compose([crop, v2.PILToTensor()])

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        picture = PIL.Image.open(io.BytesIO(file_content(self.source, index))).convert("RGB")
        return self.crop(picture), self.crop(picture)


def dali_crops(some: Source, view: View, batch: int, workers: int) -> Callable[[], None] | None:
    """A pass of the same crops by NVIDIA DALI's operators for CPUs; None where it is not installed."""
    try:
        dali = importlib.import_module("nvidia.dali")
    except ImportError:
        return None
    steps = len(some) // batch

    def contents() -> Iterator[list[NDArray[np.uint8]]]:
        while True:
            for rows in torch.randperm(len(some))[: steps * batch].split(batch):
                yield [np.frombuffer(file_content(some, int(row)), np.uint8) for row in rows]

    ahead = {"exec_async": workers > 0, "exec_pipelined": workers > 0, "prefetch_queue_depth": 2 if workers else 1}
    pipeline = dali.Pipeline(batch, num_threads=max(1, workers), device_id=None, seed=0, **ahead)
    with pipeline:
        encoded = dali.fn.external_source(source=contents(), dtype=dali.types.UINT8, ndim=1)
        pictures = dali.fn.decoders.image(encoded, device="cpu", output_type=dali.types.RGB)
        boxes = {"random_area": view.crop_scale, "random_aspect_ratio": view.crop_ratio, "size": view.shape}
        linear = view.interpolation == "bilinear"
        how = {"interp_type": dali.types.INTERP_LINEAR if linear else dali.types.INTERP_CUBIC}
        how |= {"antialias": not view.interpolation.endswith("aliased")}
        pipeline.set_outputs(*(dali.fn.random_resized_crop(pictures, **boxes, **how) for _ in range(2)))
    pipeline.build()
    return lambda: _pass(pipeline.run() for _ in range(steps))


def photographs(files: Source, count: int, folder: Path) -> Source:
    """JPEG files of 500 x 375 pixels, each of four of `files` enlarged, of quality 90 and about 53 KB."""
    names = [f"{number:05d}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        whole = PIL.Image.new("RGB", (500, 375))
        for corner, (left, top) in enumerate(((0, 0), (250, 0), (0, 188), (250, 188))):
            part = files.load((number * 37 + corner) % len(files)).resize((250, 188))
            whole.paste(PIL.Image.fromarray(np.asarray(part)), (left, top))
        whole.save(folder / name, quality=90)
    return FileSource(folder, names, torch.zeros(count, dtype=torch.int64), ("photograph",))


def bringing(files: Source, data: Data, canvas: int, view: int, arguments: argparse.Namespace, kind: str) -> None:
    """Squares of a canvas, alone and with two views made of them."""
    count, batch = arguments.images, arguments.batch
    with tempfile.TemporaryDirectory() as folder:
        pack = Path(folder) / "pack"
        start = time.perf_counter()
        run_pack(pack, Packing(data=replace(data, canvas=canvas)))
        taken = time.perf_counter() - start
        packed = open_data(Data(root=str(pack)), "train")
        if not isinstance(packed, Packed):
            raise TypeError("a pack is opened as one")
        views = Views(Augment(views=simclr(view).views), seed=0)
        loader = Loader(packed, batch_size=batch, seed=0, device=_CPU)
        keys = [loader.sampler.key(0, number) for number in range(min(count // batch, loader.steps_per_epoch))]
        plain = np.load(packed.folder / "train" / "images.npy", mmap_mode="r")

        def decoded() -> Iterable[Batch]:
            for _, rows, _ in keys:
                images, sizes, _ = squeeze(files, rows, canvas)
                yield Batch(images, files.labels[rows], rows, sizes)

        def from_pack() -> Iterable[Batch]:
            return loader.data.batches(keys)

        def viewed(batches: Callable[[], Iterable[Batch]]) -> None:
            for found in batches():
                views(found, 0, _CPU)

        contestants: dict[str, Callable[[], None]] = {
            "pack": lambda: _pass(from_pack()),
            "decoding": lambda: _pass(decoded()),
            "numpy_memmap": lambda: _pass(torch.from_numpy(plain[rows.numpy()]) for _, rows, _ in keys),
            "pack_with_views": lambda: viewed(from_pack),
            "decoding_with_views": lambda: viewed(decoded),
        }
        seconds = alternate(contestants, arguments.runs, _CPU, by_the_wall=True)
    amounts = dict.fromkeys(contestants, len(keys) * batch)
    alone = [name for name in contestants if not name.endswith("views")]
    number = len(packed)
    facts = _facts(kind) | {"canvas": canvas, "packed_images": number, "packed_in_s": round(taken, 1)}
    _told("loader", alone, amounts, seconds, facts)
    _told("loader", [name for name in contestants if name not in alone], amounts, seconds, facts | {"view": view})


def crops(some: Source, augment: Augment, arguments: argparse.Namespace, kind: str) -> None:
    """Two crops of each file at full resolution, without colour; workers stay from one pass to the next."""
    batch, view = arguments.batch, augment.views[0]
    for workers in (0, 2):
        ours = Loader(some, batch_size=batch, seed=0, device=_CPU, workers=workers, crop=Views(augment, seed=0).crop)
        theirs = DataLoader(
            Crops(some, view), batch, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0
        )
        epochs = itertools.count()
        contestants: dict[str, Callable[[], None]] = {
            "streaming": partial(_next_epoch, ours, epochs),
            "torch_dataloader": partial(_pass, theirs),
        }
        if (dali := dali_crops(some, view, batch, workers)) is not None:
            contestants["dali"] = dali
        seconds = alternate(contestants, arguments.runs, _CPU, by_the_wall=workers > 0)
        ours.close()
        amounts = dict.fromkeys(contestants, len(some) // batch * batch)
        asked = {"workers": workers, "view": view.size, "views": 2, "interpolation": view.interpolation}
        _told("crops", list(contestants), amounts, seconds, _facts(kind) | asked)


def _next_epoch(loader: Loader, epochs: Iterator[int]) -> None:
    _pass(loader.epoch(next(epochs)))


def decoders(some: Source, arguments: argparse.Namespace, kind: str) -> None:
    """JPEG files in memory to RGB pixels, on one thread."""
    contents = [file_content(some, index) for index in range(len(some))]
    buffers = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
    side = some.load(0).width // 2

    def pillow(side: int | None) -> None:
        for content in contents:
            image = PIL.Image.open(io.BytesIO(content))
            if side is not None:
                image.draft("RGB", (side, side))
            np.asarray(image.convert("RGB"))

    contestants: dict[str, Callable[[], None]] = {
        "ours": lambda: _pass(np.asarray(decode_held(io.BytesIO(content), "")) for content in contents),
        "pillow": lambda: pillow(None),
        "pillow_draft_half": lambda: pillow(side),
        "torchvision": lambda: _pass(decode_jpeg(buffer, ImageReadMode.RGB) for buffer in buffers),
    }
    if importlib.util.find_spec("simplejpeg"):
        simplejpeg = importlib.import_module("simplejpeg")
        contestants["simplejpeg"] = lambda: _pass(simplejpeg.decode_jpeg(content) for content in contents)
    if importlib.util.find_spec("turbojpeg"):
        turbo = importlib.import_module("turbojpeg").TurboJPEG()
        contestants["turbojpeg"] = lambda: _pass(turbo.decode(content, pixel_format=0) for content in contents)
    seconds = alternate(contestants, arguments.runs, _CPU)
    _told("decoders", list(contestants), dict.fromkeys(contestants, len(contents)), seconds, _facts(kind))


def _told(
    name: str,
    contestants: list[str],
    amounts: dict[str, int],
    seconds: dict[str, list[float]],
    facts: dict[str, object],
) -> None:
    """Each of some contestants beside the first of them."""
    chosen = {contestant: seconds[contestant] for contestant in contestants}
    report(name, amounts, chosen, contestants[0], "images/s", **facts)


def _facts(files: str) -> dict[str, object]:
    return {
        "files": files,
        **about(_CPU, "torchvision", "pillow", "numpy", "numba", "simplejpeg", "nvidia-dali-cuda130"),
    }


def _pass(results: Iterable[object]) -> None:
    """Results are only made."""
    for _ in results:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the two archives")
    parser.add_argument("--packed", type=int, default=10_000, help="images in a pack, at most")
    parser.add_argument("--images", type=int, default=2_048, help="of a pack, or small files, taken in a turn")
    parser.add_argument("--photographs", type=int, default=1_024, help="cropped in a turn")
    parts = ("bringing", "crops", "decoders")
    parser.add_argument("--what", nargs="+", choices=parts, default=parts)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    missing = [name for name in _PACKS if not (arguments.data / name).is_file()]
    if missing:
        print_figures({"name": "loader", "skipped": f"{arguments.data} lacks {' and '.join(missing)}"})
        return
    root, test_root = (str(arguments.data / name) for name in _PACKS)
    small = Data(root=root, test_root=test_root, limit=arguments.packed)
    files = open_data(small, "train")
    some = files.select(torch.arange(len(files))[:: max(1, len(files) // arguments.images)][: arguments.images])
    with tempfile.TemporaryDirectory() as folder:
        count = arguments.packed if "bringing" in arguments.what else arguments.photographs
        large = photographs(files, count, Path(folder))
        message(f"{len(large):,} photographs made")
        if "bringing" in arguments.what:
            kinds = ((large, Data(root=folder), _LARGE), (files, small, _SMALL))
            for images, data, kind in kinds:
                for canvas, view in _SIZES:
                    bringing(images, data, canvas, view, arguments, kind)
        torch.set_num_threads(1)
        few = large.select(torch.arange(min(len(large), arguments.photographs)))
        if "crops" in arguments.what:
            crops(few, moco_v2(224), arguments, _LARGE)
            crops(few, simclr(224), arguments, _LARGE)
            crops(some, simclr(_VIEW), arguments, _SMALL)
        if "decoders" in arguments.what:
            decoders(few, arguments, _LARGE)
            decoders(some, arguments, _SMALL)


if __name__ == "__main__":
    with program():
        main()
