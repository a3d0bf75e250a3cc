"""Measure the toolkit against others, side by side: `python -m tools.benchmarks.augment --size 32 224`.

Prints one JSON line for each figure: what was measured, sizes, device, versions, the median of alternating runs with
minimum and maximum, and the ratio to each comparison of the same run. Absolute figures mean something on a named GPU;
on shared CPUs only the ratios do. With --growth only how the seconds of a batch grow with its images and with their
size, on the CPU.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import kornia.augmentation as K
import PIL
import PIL.Image
import PIL.ImageFilter
import torch
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import v2

from selfsup.augment.parameters import View
from selfsup.augment.presets import simclr, simclr_cifar
from selfsup.augment.views import Augment, Views
from selfsup.batch import Batch
from selfsup.output import program
from tools.benchmarks.growth import measure_growth
from tools.benchmarks.side_by_side import about, alternate, report

_CPU = torch.device("cpu")
_PACKAGES = ("torchvision", "kornia", "pillow", "numpy", "numba")
_FEW = 64  # images, while their sides grow


def augment(arguments: argparse.Namespace) -> None:
    """SimCLR views a second: ours, the kornia reference, kornia's own pipeline, torchvision on tensors and on PIL."""
    devices = [_CPU, *([torch.device("cuda")] if torch.cuda.is_available() else [])]
    for size in arguments.size:
        for device in devices:
            _augment_at(size, device, arguments)


def _augment_at(size: int, device: torch.device, arguments: argparse.Namespace) -> None:
    view = (simclr_cifar(size) if size < 64 else simclr(size)).views[0]
    source = size if size < 64 else size * 256 // 224
    large = arguments.batch or (512 if size < 64 else 32)
    if device.type == "cuda":
        large *= 16
    few = min(large, 32)  # images for those that take them one by one
    images = drawn(large, source).to(device)
    pictures = [PIL.Image.fromarray(image) for image in images[:few].permute(0, 2, 3, 1).cpu().numpy()]
    pipeline, pil = _kornia_pipeline(view), _pil_pipeline(view)

    tensors = _torchvision_pipeline(view)
    contestants = {
        "fused": _views(view, "fused", images),
        "kornia_pipeline": lambda: _drop(pipeline(images.float() / 255)),
        "kornia_reference": _views(view, "kornia", images[:few]),
        "torchvision_v2": lambda: _drop(torch.stack([tensors(image) for image in images[:few]])),
    }
    amounts = dict.fromkeys((*contestants, "kornia_compiled", "pil"), few) | {"fused": large, "kornia_pipeline": large}
    if arguments.compiled:
        compiled = torch.compile(pipeline)
        contestants["kornia_compiled"] = lambda: _drop(compiled(images[:few].float() / 255))
    if device.type == "cpu":
        contestants["pil"] = lambda: _drop(torch.stack([pil(picture) for picture in pictures]))
    seconds = alternate(contestants, arguments.runs, device)
    facts = about(device, *_PACKAGES)
    report("augment", amounts, seconds, "fused", "views/s", size=size, source=source, **facts)


def drawn(count: int, side: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)


def _views(view: View, backend: Literal["fused", "kornia"], images: Tensor) -> Callable[[], None]:
    maker = Views(Augment(views=(view,), backend=backend), seed=0)
    batch = Batch(images, torch.zeros(len(images), dtype=torch.int64), torch.arange(len(images)))
    return lambda: _drop(maker(batch, 0, images.device))


def growth(
    runs: int, batches: Sequence[int] = (256, 512, 1024, 2048, 4096), sizes: Sequence[int] = (64, 96, 128, 160, 224)
) -> None:
    """Ours and kornia's batched pipeline: views of 32 px by their number, and 64 of them, with blur, by their side."""

    def batched(view: View, images: Tensor) -> dict[str, Callable[[], None]]:
        pipeline = _kornia_pipeline(view)
        return {
            "fused": _views(view, "fused", images),
            "kornia_pipeline": lambda: _drop(pipeline(images.float() / 255)),
        }

    by_number = partial(batched, simclr_cifar(32).views[0])
    measure_growth("augment", "batch", batches, lambda count: by_number(drawn(count, 32)), runs, _PACKAGES, size=32)
    by_side = lambda side: batched(simclr(side).views[0], drawn(_FEW, side * 256 // 224))  # noqa: E731
    measure_growth("augment", "size", sizes, by_side, runs, _PACKAGES, batch=_FEW)


def _kornia_pipeline(view: View) -> Callable[[Tensor], Tensor]:
    """kornia's own batched operators for the same transform. Its crop is not antialiased, and no more is ours."""
    jitter = view.jitter
    steps = [
        K.RandomResizedCrop(view.shape, scale=view.crop_scale, ratio=view.crop_ratio, resample="BICUBIC"),
        K.RandomHorizontalFlip(p=view.flip),
        K.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue, p=jitter.probability),
        K.RandomGrayscale(p=view.grayscale),
    ]
    if view.blur.probability:
        taps = (view.blur.kernel_size, view.blur.kernel_size)
        steps.append(K.RandomGaussianBlur(taps, view.blur.sigma, p=view.blur.probability))
    return K.AugmentationSequential(*steps, data_keys=["input"])


def _torchvision_pipeline(view: View) -> Callable[[Tensor], Tensor]:
    """torchvision's transforms of version 2 on tensors of bytes, which its documents recommend for speed."""
    jitter = view.jitter
    color = v2.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    steps = [
        v2.RandomResizedCrop(
            view.shape, view.crop_scale, view.crop_ratio, v2.InterpolationMode.BICUBIC, antialias=True
        ),
        v2.RandomHorizontalFlip(view.flip),
        v2.RandomApply([color], jitter.probability),
        v2.RandomGrayscale(view.grayscale),
    ]
    if view.blur.probability:
        blur = v2.GaussianBlur(view.blur.kernel_size, view.blur.sigma)
        steps.append(v2.RandomApply([blur], view.blur.probability))
    made: Callable[[Tensor], Tensor] = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True)])
    return made


def _pil_pipeline(view: View) -> Callable[[PIL.Image.Image], Tensor]:
    """torchvision's transforms as PyTorch reproductions of SimCLR use them; with PIL's own blur, their cheapest."""
    jitter = view.jitter
    color = transforms.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    steps = [
        transforms.RandomResizedCrop(
            view.shape, view.crop_scale, view.crop_ratio, transforms.InterpolationMode.BICUBIC
        ),
        transforms.RandomHorizontalFlip(view.flip),
        transforms.RandomApply([color], jitter.probability),
        transforms.RandomGrayscale(view.grayscale),
    ]
    if view.blur.probability:
        steps.append(transforms.RandomApply([transforms.Lambda(_pil_blur)], view.blur.probability))
    made: Callable[[PIL.Image.Image], Tensor] = transforms.Compose([*steps, transforms.ToTensor()])
    return made


def _pil_blur(picture: PIL.Image.Image) -> PIL.Image.Image:
    return picture.filter(PIL.ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def _drop(result: object) -> None:
    """A contestant's result is only made."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[32, 224], help="side of a view in pixels")
    parser.add_argument("--batch", type=int, help="images; by default 512 small or 32 large ones, 16 times on a GPU")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; 1 gives figures per core")
    parser.add_argument(
        "--compiled", action="store_true", help="kornia's pipeline by torch.compile too: minutes on a CPU"
    )
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--growth", action="store_true", help="only how seconds grow: with the batch, and with size")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.growth:
        growth(arguments.runs)
    else:
        augment(arguments)


if __name__ == "__main__":
    with program():
        main()
