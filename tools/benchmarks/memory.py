"""The memory of a step as it is counted beforehand, beside what it takes: `python -m tools.benchmarks.memory`.

Each recipe in a process of its own, on generated images and the CPU, with a batch that a small machine holds. Counted
is what `selfsup pretrain` compares with the memory there is, less what is there before the first step: views, a step,
the optimizer's state. Measured is the most that the process has in use in two steps, less what it has before them. A
row of a Markdown table for each. On Linux alone, which tells a process's highest use from any moment on.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace

import psutil
import torch

from selfsup.config.recipe_files import load_recipe
from selfsup.data.settings import Data
from selfsup.output import program
from selfsup.pretraining import Run, prepared
from selfsup.runtime import arithmetic
from selfsup.stages.dry_run import two_steps
from selfsup.training.images import make_loader
from selfsup.training.step_memory import StepMemory

# Recipe and batch.
SETTINGS = (
    ("simclr_cifar10_cpu", 2048),
    ("moco_v2_cifar10", 512),
    ("instdisc_cifar10", 512),
    ("supcon_cifar10", 128),
    ("moco_v2_imagenet", 32),
    ("simclr_imagenet", 16),
    ("moco_v3_vit_imagenet", 32),
)
HEADER = "| recipe | batch | counted, GiB | measured, GiB | counted / measured |\n|---|---|---|---|---|"


def measure(name: str, batch: int) -> str:
    """A row of the table, of this process."""
    run: Run = load_recipe(name)
    with tempfile.TemporaryDirectory(prefix="selfsup_memory_") as folder:
        data = Data(root=f"shapes:{max(2 * batch, 256)}")
        run = replace(run, data=data, batch_size=batch, device="cpu", workers=0, folder=f"{folder}/run")
        ready = prepared(run)
        run, device = ready.run, ready.accelerator.device
        memory = StepMemory(ready.method, run, ready.shapes, device)
        counted = memory.optimizer + memory.views(batch) + memory.embedding(batch)
        loader = make_loader(run, run.data, ready.source, ready.views, ready.accelerator, run.sampling)
        with arithmetic.of_run(run.precision, run.deterministic, device):
            before = psutil.Process().memory_info().rss
            Path("/proc/self/clear_refs").write_text("5")  # the highest use counts from here on
            two_steps(run, ready, loader)
        measured = _highest() - before
    return f"| {name} | {batch} | {counted / 2**30:.2f} | {measured / 2**30:.2f} | {counted / measured:.2f} |"


def _highest() -> int:
    """The most memory that this process had in use, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=2, metavar=("RECIPE", "BATCH"), help="one recipe, in this process")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        print(measure(arguments.one[0], int(arguments.one[1])))
        return
    print(HEADER)
    for name, batch in SETTINGS:
        words = [sys.executable, "-m", "tools.benchmarks.memory", "--one", name, str(batch)]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        print(done.stdout.strip().splitlines()[-1], flush=True)


if __name__ == "__main__":
    with program():
        main()
