"""Time and memory of contrastive losses against dense ones: `python -m tools.benchmarks.loss`.

Prints one JSON line for each figure, forward and backward together: seconds of the processor (of all its threads, so
that work beside it shows least) as the median of alternating runs with minimum and maximum, the ratio to each
comparison of the same run, the most bytes of tensors alive at once beyond inputs and their gradients, and for the
losses over a batch the exponents by which both grow with it. `--out FILE` writes them to a file, too.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from pytorch_metric_learning.losses import NTXentLoss  # type: ignore[import-untyped]  # has no types
from torch import Tensor

from selfsup.losses.contrastive import info_nce, nt_xent
from selfsup.losses.nce import softmax_over_bank
from selfsup.losses.pairing import Same
from selfsup.losses.sup_con import class_pairs, sup_con
from selfsup.output import print_figures, program
from tools.benchmarks.growth import growth_line
from tools.benchmarks.live import LiveBytes
from tools.benchmarks.side_by_side import about, alternate, short

_T = 0.1
_DENSE = 2**26  # most scores that a dense loss is asked for
_CLASSES = 100
_FIXED = 1024  # images, while their embeddings grow
Loss = Callable[[Tensor], Tensor]  # of hidden rows
Figures = dict[str, dict[str, float]]  # of each loss, "seconds" and "bytes"


def ours(hidden: Tensor) -> Tensor:
    views = F.normalize(hidden).chunk(2)
    return nt_xent(views, views, 0, _T)[0]


def dense_nt_xent(hidden: Tensor) -> Tensor:
    """As it is mostly written: the cross-entropy of the matrix of scores without its diagonal, and the accuracy."""
    rows = torch.cat(F.normalize(hidden).chunk(2))  # a loss is given two views
    scores = rows @ rows.T / _T
    scores = scores.masked_fill(torch.eye(len(rows), dtype=torch.bool), -torch.inf)
    partners = torch.arange(len(rows)).roll(len(rows) // 2)
    (scores.argmax(dim=1) == partners).float().mean()
    return F.cross_entropy(scores, partners)


def metric_learning_nt_xent(hidden: Tensor) -> Tensor:
    loss: Tensor = NTXentLoss(temperature=_T)(hidden, torch.arange(len(hidden) // 2).repeat(2))
    return loss


def nt_xents(images: int) -> dict[str, Loss]:
    return {"tiles": ours, "dense": dense_nt_xent} if (2 * images) ** 2 <= _DENSE else {"tiles": ours}


def beside_metric_learning(images: int) -> dict[str, Loss]:
    """By themselves: its masks, 1.7 GB at 256 images, empty the caches of whoever comes after it."""
    return {"tiles": ours, "pytorch_metric_learning": metric_learning_nt_xent}


def queues(batch: int, size: int, dim: int) -> dict[str, Loss]:
    """InfoNCE against a queue: one view's rows are queries, the other's keys."""
    queue, numbers = F.normalize(torch.randn(size, dim)), torch.arange(size)
    own = numbers[:batch]

    def tiles(hidden: Tensor) -> Tensor:
        queries, keys = F.normalize(hidden).chunk(2)
        return info_nce(queries, keys.detach(), queue, _T, Same(own, numbers))[0]

    def dense(hidden: Tensor) -> Tensor:
        queries, keys = F.normalize(hidden).chunk(2)
        positive = (queries * keys.detach()).sum(dim=1, keepdim=True)
        negative = (queries @ queue.T).masked_fill(own[:, None] == numbers, -torch.inf)
        return F.cross_entropy(torch.cat([positive, negative], dim=1) / _T, torch.zeros(batch, dtype=torch.int64))

    return {"tiles": tiles, "dense": dense}


def classes(images: int) -> dict[str, Loss]:
    """SupCon over two views of images of 100 classes."""
    labels = torch.arange(images) % _CLASSES

    def tiles(hidden: Tensor) -> Tensor:
        rows = F.normalize(hidden)
        positive, own = class_pairs(labels, labels, 0, 2, 2)
        return sup_con(rows, rows, positive, None, _T, own=own)[0]

    def dense(hidden: Tensor) -> Tensor:
        rows, both = F.normalize(hidden), labels.repeat(2)
        scores, itself = rows @ rows.T / _T, torch.eye(len(rows), dtype=torch.bool)
        chances = scores.masked_fill(itself, -torch.inf).log_softmax(dim=1)
        positive = (both[:, None] == both) & ~itself
        means = torch.where(positive, chances, 0).sum(dim=1) / positive.sum(dim=1).clamp(min=1)
        return -(_T / 0.07) * means.mean()

    return {"tiles": tiles, "dense": dense} if (2 * images) ** 2 <= _DENSE else {"tiles": tiles}


def banks(batch: int, size: int, dim: int) -> dict[str, Loss]:
    """The softmax over a bank of all images."""
    bank, targets = F.normalize(torch.randn(size, dim)), torch.arange(2 * batch)
    dense: Loss = lambda hidden: F.cross_entropy(F.normalize(hidden) @ bank.T / _T, targets)  # noqa: E731
    tiles: Loss = lambda hidden: softmax_over_bank(F.normalize(hidden) / _T, bank, targets)[0]  # noqa: E731
    return {"tiles": tiles, "dense": dense} if 2 * batch * size <= _DENSE else {"tiles": tiles}


def step(loss: Loss, hidden: Tensor) -> None:
    hidden.grad = None
    loss(hidden).backward()


def measure(name: str, losses: dict[str, Loss], rows: int, dim: int, runs: int, **facts: object) -> Figures:
    """Print a line for each of the losses of (rows, dim) numbers; gives seconds and bytes of each."""
    torch.manual_seed(0)
    hidden = torch.randn(rows, dim, requires_grad=True)
    alive = {}
    for contestant, loss in losses.items():
        with LiveBytes() as live:
            step(loss, hidden)
        alive[contestant] = live.peak - hidden.nbytes  # the gradient
    steps = {contestant: partial(step, loss, hidden) for contestant, loss in losses.items()}
    seconds = alternate(steps, runs, torch.device("cpu"))
    medians = {contestant: statistics.median(times) for contestant, times in seconds.items()}
    for contestant, times in seconds.items():
        line = {"name": f"{name}/{contestant}", "unit": "s of CPU", "dim": dim, **facts, "runs": runs}
        line |= {"median": short(medians[contestant]), "min": short(min(times)), "max": short(max(times))}
        line |= {"ours_over_it": short(medians["tiles"] / medians[contestant])}
        record(line | {"extra_mb": short(alive[contestant] / 1e6)})
    return {one: {"seconds": medians[one], "bytes": alive[one]} for one in losses}


def grown(name: str, over: str, found: dict[int, Figures], **facts: object) -> None:
    """A line for each of the losses that was measured at two sizes or more: the exponents of its growth."""
    for one in next(iter(found.values()), {}):
        sizes = [size for size, figures in found.items() if one in figures]
        if len(sizes) > 1:
            figures = {what: [found[size][one][what] for size in sizes] for what in ("seconds", "bytes")}
            record(growth_line(f"{name}_growth/{one}", over, sizes, figures) | facts)


_lines: list[dict[str, object]] = []
_files: list[Path] = []  # where lines go, too


def record(line: dict[str, object]) -> None:
    keep(line | about(torch.device("cpu"), "pytorch-metric-learning"))


def keep(line: dict[str, object]) -> None:
    """Print a line; files are written anew with each, so that one that is broken off holds what there was."""
    _lines.append(line)
    print_figures(line)
    for file in _files:
        file.write_text("".join(json.dumps(one) + "\n" for one in _lines))


def resident(images: int, dim: int) -> None:
    """The most memory of this process in one step of NT-Xent beyond what it had before."""
    hidden = torch.randn(2 * images, dim, requires_grad=True)
    small = torch.randn(4, dim, requires_grad=True)
    step(ours, small)  # libraries are there
    hidden.grad = torch.zeros_like(hidden)
    _forget_peak()
    before = _resident("VmRSS")
    start = time.process_time()
    ours(hidden).backward()
    extra = short(_resident("VmHWM") - before)
    line = {"name": "nt_xent_resident/tiles", "images": images, "dim": dim, "extra_mb": extra}
    record(line | {"seconds_of_cpu": short(time.process_time() - start)})


def _resident(which: str) -> float:
    """10^6 bytes of this process in memory: VmRSS, or VmHWM, the most since `_forget_peak`; on Linux."""
    found = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which))
    return int(found.split()[1]) * 1024 / 1e6


def _forget_peak() -> None:
    """What importing took for a moment is no part of a step."""
    Path("/proc/self/clear_refs").write_text("5")


def in_fresh_process(images: int, arguments: argparse.Namespace) -> float:
    """The line of `resident`; returns its seconds."""
    command = [sys.executable, "-m", "tools.benchmarks.loss", "--resident", str(images), "--dim", str(arguments.dim)]
    done = subprocess.run([*command, "--threads", str(arguments.threads)], check=True, capture_output=True, text=True)
    line = json.loads(done.stdout.splitlines()[-1])
    keep(line)
    return float(line["seconds_of_cpu"])


def over_batches(name: str, make: Callable[[int], dict[str, Loss]], arguments: argparse.Namespace, end: float) -> None:
    found: dict[int, Figures] = {}
    last = 0.0
    for images in arguments.images:
        # Of the largest, four times as long as the one before, ten steps and more would be waited for.
        runs = max(3, min(arguments.runs, round(30 / max(last, 1e-3))))
        if time.monotonic() + 8 * last * len(make(images)) > end:
            print(f"no time is left for {name} at {images} images and more", file=sys.stderr)
            break
        found[images] = measure(name, make(images), 2 * images, arguments.dim, runs, images=images)
        last = 4 * found[images]["tiles"]["seconds"]
    # Of few images, what does not depend on their number shows.
    grown(name, "images", {size: one for size, one in found.items() if size >= 1024}, dim=arguments.dim)


def over_dims(images: int, arguments: argparse.Namespace) -> None:
    """NT-Xent of so many images by the length of their embeddings."""
    found = {
        dim: measure("nt_xent_dim", nt_xents(images), 2 * images, dim, min(arguments.runs, 7), images=images)
        for dim in arguments.dims
    }
    grown("nt_xent", "dim", found, images=images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128, 256, 512, 1024], help="of --growth")
    parser.add_argument("--growth", action="store_true", help="only how NT-Xent grows: with the images, and with dims")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; 1 gives figures per core")
    parser.add_argument("--runs", type=int, default=101, help="at most; fewer of what takes long, but 3")
    parser.add_argument("--minutes", type=float, default=8.0, help="what would begin later is left out, and said")
    parser.add_argument("--out", type=Path, help="a file for the lines, too")
    parser.add_argument("--resident", type=int, help="only the peak memory of NT-Xent at so many images, right here")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.resident:
        resident(arguments.resident, arguments.dim)
        return
    if arguments.out:
        _files.append(arguments.out)
    end = time.monotonic() + 60 * arguments.minutes
    if arguments.growth:
        over_dims(_FIXED, arguments)
        over_batches("nt_xent", nt_xents, arguments, end)
        return
    for batch, size in ((256, 4096), (256, 65_536)):
        measure("info_nce", queues(batch, size, arguments.dim), 2 * batch, arguments.dim, 7, batch=batch, queue=size)
    measure("softmax_over_bank", banks(64, 400_000, arguments.dim), 128, arguments.dim, 3, batch=128, bank=400_000)
    seconds = in_fresh_process(16_384, arguments)
    over_batches("nt_xent", nt_xents, arguments, end)
    over_batches("sup_con", classes, arguments, end)
    for images in arguments.images:
        if images <= 128:
            contestants = beside_metric_learning(images)
            measure("nt_xent_metric_learning", contestants, 2 * images, arguments.dim, 7, images=images)
    if time.monotonic() + 16 * seconds < end:
        in_fresh_process(65_536, arguments)
    else:
        print("no time is left for nt_xent at 65,536 images", file=sys.stderr)


if __name__ == "__main__":
    with program():
        main()
