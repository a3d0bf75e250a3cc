"""What do sharded memories cost at 10^6 to 10^9 images? Works out docs/scale.md, and measures what that rests on.

    python -m tools.benchmarks.scale                  measures on this machine, writes docs/scale.md and docs/scale.json
    python -m tools.benchmarks.scale --only-measure   prints one JSON line: the constants, and model against measurement

Measured: how fast rows are read at random places, how fast a matrix product with the memory is, and how fast two
processes exchange numbers; then a whole step of both memories on two processes, whose bytes and time are compared with
the model. The times in the tables follow from the constants of a GPU's data sheet (given there), since what two cores
measure says nothing about one; `--constants FILE` takes others, such as those that this program measured on GPUs.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.multiprocessing import start_processes

from selfsup import distributed
from selfsup.memory import hybrid
from selfsup.memory.bank import ShardedBank
from selfsup.memory.hybrid import ShardedHybridMemory
from selfsup.output import print_figures, program
from selfsup.run_folder.environment import environment
from tools.checkout import ROOT

SCORES = hybrid._SCORES
COLLECTIVES = ("all_gather", "all_reduce", "reduce_scatter_tensor")


@dataclass(frozen=True)
class Constants:
    """How fast one process is."""

    name: str
    rows: float  # bytes per second, of memory rows read at random places
    product: float  # floating-point operations per second, of scores in float32
    exchange: float  # bytes per second and process, sent to and received from the others

    def seconds(self, cost: "Cost") -> float:
        return cost.read / self.rows + cost.operations / self.product + cost.sent / self.exchange


# Data sheet: 4.8 TB/s of memory, a quarter of which random rows of 256 bytes are taken to reach; 67 TFLOP/s in float32,
# half of it reached; 400 Gbit/s between machines for each GPU, three quarters of it reached.
GPU = Constants("H200 (data sheet)", rows=1.2e12, product=33e12, exchange=37e9)


@dataclass(frozen=True)
class Cost:
    """Of one step, for one process."""

    held: float  # bytes of memory that stay
    alive: float  # bytes of scores that are alive at once, on top
    read: float  # bytes of memory rows read at random places
    operations: float  # of products with all own rows
    sent: float  # bytes that leave the process


def ring(processes: int, size: float) -> float:
    """Bytes that a process sends where `size` bytes are gathered, or summed and scattered, around a ring."""
    return size * (processes - 1) / processes


def instdisc(images: int, processes: int, batch: int, dim: int, negatives: int, bytes_each: int) -> Cost:
    """InstDisc with K sampled negatives: what `ShardedBank` does in a step of `batch` images, of all processes."""
    numbers, scores = 4.0 * batch * dim, 4.0 * batch * (1 + negatives)
    sent = ring(processes, 2 * scores)  # the rows asked for, in int64
    sent += ring(processes, scores) * 2  # scores, and their gradient on the way back
    sent += ring(processes, numbers) * 3  # features for the scores, rows fetched, features for the update
    sent += 2 * ring(processes, numbers)  # the features' gradient, summed everywhere
    sent += ring(processes, 8.0 * batch) * 2  # the images' numbers
    own = batch * (1 + negatives) / processes
    return Cost(
        held=images * dim * bytes_each / processes,
        alive=4 * scores,
        read=2 * own * dim * bytes_each,  # forward and backward
        operations=0.0,
        sent=sent,
    )


def spcl(images: int, processes: int, batch: int, dim: int, bytes_each: int = 4) -> Cost:
    """SpCL: what `ShardedHybridMemory` does in a step; every image is scored against every row."""
    numbers, rows = 4.0 * batch * dim, images / processes
    sent = ring(processes, numbers) * 3 + 2 * ring(processes, numbers)  # embeddings, rows fetched, the update; gradient
    sent += ring(processes, 8.0 * batch) * 3  # the rows' numbers
    sent += ring(processes, 4.0 * batch) * (2 + 2) + 2 * 2 * ring(processes, 4.0 * batch)  # two sums, two maxima
    return Cost(
        held=rows * dim * bytes_each + images * 16.0,  # and two numbers of each row, in every process
        alive=4 * 4.0 * min(batch * rows, SCORES),
        read=0.0,
        operations=3 * 2.0 * batch * rows * dim,  # forward, again, backward
        sent=sent,
    )


def fastest(work: Callable[[], Any], repeats: int = 7) -> float:
    """Median seconds of one call."""
    work()
    taken = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def constants() -> dict[str, float]:
    """Of this process, in a group of two; see Constants."""
    memory = torch.randn(400_000, 128)
    rows = torch.randint(len(memory), (100_000,), generator=torch.Generator().manual_seed(0))
    queries, block = torch.randn(256, 128), torch.randn(10_000_000 // 128, 128)
    sent = torch.randn(2, 1_000_000)
    own = torch.empty(1_000_000)
    return {
        "rows": len(rows) * 512 / fastest(lambda: memory[rows]),
        "product": 2 * 256 * block.numel() / fastest(lambda: queries @ block.T),
        "exchange": ring(2, sent.numel() * 4) / fastest(lambda: dist.reduce_scatter_tensor(own, sent.flatten())),
    }


class Counted:
    """Bytes that leave this process in the collectives of selfsup.distributed, around a ring."""

    def __enter__(self) -> "Counted":
        self.sent = 0.0
        self.originals = {name: getattr(dist, name) for name in COLLECTIVES}
        for name, original in self.originals.items():
            setattr(dist, name, self.counting(name, original))
        return self

    def __exit__(self, *exception: object) -> None:
        for name, original in self.originals.items():
            setattr(dist, name, original)

    def counting(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(first: Any, *rest: Any, **options: Any) -> Any:
            whole = first if name == "all_reduce" else rest[0]
            size = whole.numel() * whole.element_size() * (distributed.world_size() if name == "all_gather" else 1)
            self.sent += ring(distributed.world_size(), size) * (2 if name == "all_reduce" else 1)
            return original(first, *rest, **options)

        return counted


def steps() -> dict[str, float]:
    """Bytes and seconds of a step of either memory, as they are, in a group of two."""
    torch.manual_seed(0)
    batch, dim, negatives = 64, 128, 1024
    local = batch // distributed.world_size()
    indices = torch.randperm(200_000)[: 2 * local].chunk(2)[distributed.rank()]
    noise = torch.randint(200_000, (local, 1 + negatives))
    bank, hybrid = ShardedBank(200_000, dim, seed=0), ShardedHybridMemory(20_000, dim)
    hybrid.initialise(F.normalize(torch.randn(20_000, dim)), torch.arange(20_000))
    hybrid.relabel(torch.arange(20_000) // 2)
    features = F.normalize(torch.randn(local, dim)).requires_grad_()

    def of_bank() -> None:
        bank.rows(indices)
        bank.scores(features, noise).sum().backward()
        bank.update(distributed.gather(indices), distributed.gather(features.detach()), 0.5)

    def of_hybrid() -> None:
        rows = indices % 20_000
        hybrid.fetch(rows)
        hybrid.loss(features, rows, 0.05)[0].mean().backward()
        hybrid.update(distributed.gather(features.detach()), distributed.gather(rows), 0.2, 2)

    found: dict[str, float] = {}
    for name, step in (("instdisc", of_bank), ("spcl", of_hybrid)):
        with Counted() as counted:
            step()
        found |= {f"{name}_sent": counted.sent, f"{name}_seconds": fastest(step)}
    return found


def _member(rank: int, folder: str, work: Callable[[], dict[str, float]]) -> None:
    """One of the two processes of a group on this machine; its figures go to a file."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the name of this host may not resolve
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    (Path(folder) / f"{rank}.json").write_text(json.dumps(work()))
    dist.barrier()  # neither leaves while the other still talks
    dist.destroy_process_group()


def in_group(work: Callable[[], dict[str, float]]) -> dict[str, float]:
    """The mean of what each of two processes found by `work`, a module's function."""
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_member, args=(folder, work), nprocs=2, start_method="forkserver")
        parts = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(2)]
    return {name: sum(part[name] for part in parts) / 2 for name in parts[0]}


def measured() -> dict[str, float]:
    """The constants of this machine, and model against measurement."""
    known, found = in_group(constants), in_group(steps)
    here = Constants("this machine", **known)
    models = {
        "instdisc": instdisc(200_000, 2, 64, 128, 1024, 4),
        "spcl": spcl(20_000, 2, 64, 128),
    }
    for name, cost in models.items():
        known |= {
            f"{name}_bytes_sent": found[f"{name}_sent"],
            f"{name}_bytes_of_model": cost.sent,
            f"{name}_milliseconds": 1e3 * found[f"{name}_seconds"],
            f"{name}_milliseconds_of_model": 1e3 * here.seconds(cost),
        }
    return {name: float(f"{value:.4g}") for name, value in known.items()}


def number(value: float) -> str:
    """With a unit of a thousand."""
    if value < 1:
        return f"{1000 * value:.3g} m"
    for unit in (" ", " k", " M", " G", " T"):
        if abs(value) < 1000 or unit == " T":
            return f"{value:.3g}{unit}"
        value /= 1000
    raise AssertionError("the last unit takes any value")


def rows(cost_of: Callable[[int, int, int], Cost], by: Constants) -> list[str]:
    lines = [
        "| images | GPUs | batch | memory on each | with scores | sent by each per step | time per step |",
        "|---|---|---|---|---|---|---|",
    ]
    for images in (10**6, 10**8, 10**9):
        for processes in (8, 64, 512):
            batch = 64 * processes
            cost = cost_of(images, processes, batch)
            lines.append(
                f"| 10^{len(str(images)) - 1} | {processes} | {batch:,} | {number(cost.held)}B | "
                f"{number(cost.held + cost.alive)}B | {number(cost.sent)}B | {number(by.seconds(cost))}s |"
            )
    return lines


def document(by: Constants, found: dict[str, float], about: dict[str, Any]) -> str:
    def of_bank(images: int, processes: int, batch: int) -> Cost:
        return instdisc(images, processes, batch, 128, 4096, 2)

    def of_hybrid(images: int, processes: int, batch: int) -> Cost:
        return spcl(images, processes, batch, 128)

    compared = [
        f"| {title} | {found[f'{key}_bytes_sent']:,.0f} | {found[f'{key}_bytes_of_model']:,.0f} | "
        f"{found[f'{key}_milliseconds']:.3g} | {found[f'{key}_milliseconds_of_model']:.3g} |"
        for key, title in (("instdisc", "InstDisc, 200,000 images"), ("spcl", "SpCL, 20,000 images"))
    ]
    text = Path(__file__).with_name("scale_text.md").read_text()
    return text.format(
        constants=f"{by.name}: random rows {number(by.rows)}B/s, float32 products {number(by.product)}FLOP/s, "
        f"exchange {number(by.exchange)}B/s for each GPU",
        bank="\n".join(rows(of_bank, by)),
        hybrid="\n".join(rows(of_hybrid, by)),
        here=f"random rows {number(found['rows'])}B/s, products {number(found['product'])}FLOP/s, exchange "
        f"{number(found['exchange'])}B/s",
        compared="\n".join(compared),
        versions=f"Python {about['python']}, torch {about['packages']['torch']}; {about['device']}",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--constants", type=Path, help="JSON file: name, rows, product, exchange")
    parser.add_argument("--only-measure", action="store_true", help="write nothing")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of scale.md and scale.json")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        by = Constants(**json.loads(options.constants.read_text())) if options.constants else GPU
    except (OSError, ValueError, TypeError) as error:
        print(f"scale: {options.constants}: {error}", file=sys.stderr)
        return 2
    found = measured()
    print_figures(found)
    if not options.only_measure:
        facts = environment(torch.device("cpu"))
        about = {
            "command": "python -m tools.benchmarks.scale",
            **{name: facts[name] for name in ("time", "python", "packages", "device")},
        }
        (options.out / "scale.md").write_text(document(by, found, about))
        (options.out / "scale.json").write_text(
            json.dumps(about | {"constants": asdict(by), "measured": found}, indent=1) + "\n"
        )
    return 0


if __name__ == "__main__":
    with program():
        sys.exit(main())
