"""Gradient caching: a large batch in the memory of a small one, with the gradients of the large one.

Forward and backward of SimCLR on a ResNet-18 with the stem for ImageNet, single precision, one thread. Every
measurement is of a process of its own: the most that is resident during the step, less what was before it. Before it
are the weights, a step of a few images, and the views of the whole batch; so that what is counted are activations,
embeddings, scores, and gradients. The allocator is told to give back what is freed.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from selfsup.batch import Batch
from selfsup.methods.base import Method, RunContext
from selfsup.methods.simclr import SimCLR
from selfsup.models.resnet import ResNet
from selfsup.training.gradient_cache import GradientCache
from tests.reliability.figure import Figure, Measured

MB = 2**20
TOLERANCE = 1e-5  # of loss and gradients, relative to the largest gradient
# Batch norm. evaluation: by running statistics, so that all ways to take the step are equal.
Norm = Literal["batch", "chunk", "frozen", "evaluation"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One measurement: a step of `batch` images of `pixels`, at once or in chunks."""

    batch: int
    pixels: int
    chunk: int  # images; the batch: at once
    norm: Norm

    @property
    def name(self) -> str:
        return f"{self.batch}_{self.chunk}_{self.norm}"


class Sizes(NamedTuple):
    """Images of the large batch and of a chunk, and their size."""

    batch: int
    chunk: int
    pixels: int


def take(step: Step, folder: Path) -> None:
    """In a process of its own: take the step and write what it took and gave."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    context = RunContext(num_images=step.batch, batch_size=step.batch, seed=0)
    method = SimCLR.Config().build(ResNet.Config(depth=18).build(), context).to(memory_format=torch.channels_last)
    if step.norm == "evaluation":
        settle(method, step.pixels)
    forward_and_backward(method, step, 4)  # what libraries set up once
    method.zero_grad(set_to_none=True)
    views, batch = shown(step.batch, step.pixels)
    Path("/proc/self/clear_refs").write_text("5")  # the most that was ever resident is what is resident now
    before, begin = status("VmRSS"), time.process_time()
    loss = forward_and_backward(method, step, step.batch // step.chunk, views, batch)
    seconds, peak = time.process_time() - begin, status("VmHWM") - before
    gradients = {name: p.grad.contiguous() for name, p in method.named_parameters() if p.grad is not None}
    save_file(gradients, folder / f"{step.name}.safetensors")
    result = {"peak": peak, "seconds": seconds, "loss": loss, "gradients": sum(map(size_of, gradients.values()))}
    (folder / f"{step.name}.json").write_text(json.dumps(result))


def settle(method: nn.Module, pixels: int) -> None:
    """Give batch norm running statistics of some images, and keep them."""
    norms = [module for module in method.modules() if isinstance(module, _BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        method(*shown(32, pixels))
    for norm in norms:
        norm.eval()


def shown(count: int, pixels: int) -> tuple[list[Tensor], Batch]:
    """Two noisy views of `count` images, each of a colour and a pattern of its own."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, 4, 4, generator=generator)
    images = nn.functional.interpolate(images, pixels, mode="bilinear")
    views = [images + 0.3 * torch.randn(images.shape, generator=generator) for _ in range(2)]
    return views, Batch((), torch.full((count,), -1), torch.arange(count))


def forward_and_backward(
    method: Method, step: Step, chunks: int, views: list[Tensor] | None = None, batch: Batch | None = None
) -> float:
    if views is None or batch is None:
        views, batch = shown(2 * chunks, step.pixels)
    if step.chunk == step.batch:
        loss = method(views, batch).loss
        loss.backward()
        return loss.item()
    norm: Literal["chunk", "frozen"] = "frozen" if step.norm == "frozen" else "chunk"
    return GradientCache(method, chunks, norm, Accelerator(cpu=True)).step(views, batch, number=0).loss.item()


def size_of(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def status(name: str) -> int:
    """Bytes, of this process, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def measured(step: Step, folder: Path) -> dict[str, Any]:
    """What `take` writes, from a new process."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": str(MB // 4),  # so that what is freed is given back
        "MALLOC_TRIM_THRESHOLD_": str(MB // 4),
    }
    words = [sys.executable, "-m", "tests.reliability.caching", json.dumps(asdict(step)), str(folder)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{step} ended with {done.returncode}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads((folder / f"{step.name}.json").read_text())
    return result | {"gradient": load_file(folder / f"{step.name}.safetensors")}


def cosine(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Of the angle between two gradients."""
    a, b = (torch.cat([part.flatten().double() for part in gradient.values()]) for gradient in (one, other))
    return float(nn.functional.cosine_similarity(a, b, dim=0))


def error(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float, float]:
    """Relative differences of the loss, and of the gradients by the largest of all."""
    largest = max(float(value.abs().max()) for value in theirs["gradient"].values())
    furthest = max(float((ours["gradient"][n] - value).abs().max()) for n, value in theirs["gradient"].items())
    return abs(ours["loss"] / theirs["loss"] - 1), furthest / largest


def fitting(batch: int, small: int, peak: int) -> int:
    """The batch, or half or a quarter of it: what a plain step has the memory for, where a `small` one took `peak`."""
    while batch > small and 1.2 * peak * batch / small + 2 * 2**30 > psutil.virtual_memory().available:
        batch //= 2
    return batch


def measure(folder: Path, quick: bool) -> Measured:
    if not Path("/proc/self/clear_refs").exists():
        return Measured("not measured", None, "the most that is resident is asked of Linux, and this is another system")
    sizes = Sizes(128, 16, 32) if quick else Sizes(1024, 64, 64)

    def of(batch: int, chunk: int, norm: Norm) -> dict[str, Any]:
        return measured(Step(batch=batch, pixels=sizes.pixels, chunk=chunk, norm=norm), folder)

    small = of(sizes.chunk, sizes.chunk, "batch")
    plain_batch = fitting(sizes.batch, sizes.chunk, small["peak"])
    chunks, frozen = (of(sizes.batch, sizes.chunk, norm) for norm in ("chunk", "frozen"))
    plain = of(plain_batch, plain_batch, "batch")
    equal = [of(plain_batch, chunk, "evaluation") for chunk in (sizes.chunk, plain_batch)]
    embeddings = 2 * 2 * sizes.batch * 128 * 4  # of two views, in single precision; and their gradients
    limit = small["peak"] + embeddings + small["gradients"]
    loss_error, gradient_error = error(*equal)
    figure = (
        f"batch {sizes.batch} in chunks of {sizes.chunk}: {chunks['peak'] / MB:.0f} MB (frozen batch norm: "
        f"{frozen['peak'] / MB:.0f} MB), at most {limit / MB:.0f} MB wanted; batch {plain_batch} at once: "
        f"{plain['peak'] / MB:.0f} MB; loss and gradients differ by {loss_error:.1e} and {gradient_error:.1e}; "
        f"{chunks['seconds'] / plain['seconds'] * plain_batch / sizes.batch:.2f} times the seconds of the step at once"
    )
    good = max(chunks["peak"], frozen["peak"]) <= limit and max(loss_error, gradient_error) <= TOLERANCE
    known = {"plain small": small, "chunks": chunks, "frozen": frozen, "plain": plain} | dict(
        zip(("equal in chunks", "equal at once"), equal, strict=True)
    )
    details: dict[str, Any] = {
        name: {key: value for key, value in found.items() if key != "gradient"} for name, found in known.items()
    }
    details |= {"sizes": sizes._asdict(), "plain_batch": plain_batch, "limit": limit}
    if plain_batch == sizes.batch:
        details["cosine"] = {name: cosine(known[name]["gradient"], plain["gradient"]) for name in ("chunks", "frozen")}
    return Measured(figure, good, details=details, table=table(details))


def table(details: dict[str, Any]) -> str:
    batch, chunk, pixels = (details["sizes"][name] for name in ("batch", "chunk", "pixels"))
    rows = {
        "plain small": f"batch {chunk}, at once",
        "plain": f"batch {details['plain_batch']}, at once",
        "chunks": f"batch {batch}, chunks of {chunk}, batch norm of each",
        "frozen": f"batch {batch}, chunks of {chunk}, batch norm frozen",
    }
    lines = [
        f"SimCLR, ResNet-18 (stem for ImageNet), {pixels} pixels, single precision, one thread. Resident memory of a "
        "step beyond weights and views; the goal is that of the small batch, its gradients once more, and the "
        f"embeddings of the large one with their gradients: {details['limit'] / MB:.0f} MB. Cosine: of the angle "
        "between the gradient and that of the step at once, whose batch norm is over the whole batch.",
        "",
        "| step | MB | seconds | cosine |",
        "|---|---|---|---|",
    ]
    for name, shown_as in rows.items():
        found, angles = details[name], details.get("cosine", {})
        angle = f"{angles[name]:.4f}" if name in angles else ""
        lines.append(f"| {shown_as} | {found['peak'] / MB:.0f} | {found['seconds']:.0f} | {angle} |")
    return "\n".join(lines)


FIGURES = (
    Figure(
        name="caching",
        goal="batch 1024 of a ResNet-18 at 64 px in the peak memory of batch 64 and the embeddings, loss and gradients "
        "to 1e-5",
        minutes=6,
        measure=measure,
    ),
)

if __name__ == "__main__":
    take(Step(**json.loads(sys.argv[1])), Path(sys.argv[2]))
