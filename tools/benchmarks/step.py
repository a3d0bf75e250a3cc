"""A whole training step beside the bare one, and the share of each part: `python -m tools.benchmarks.step`.

Bare is forward, backward and optimizer of the same network and loss on views that are there already. Whole is what the
trainer does: the batch, two views of each image, the guard, forward and backward, the optimizer, the memory. One JSON
line for each, and for the parts by themselves: views, which grow with the images; the loss, forward and backward, of
embeddings that are there; guard, optimizer and memory. `ratio_of_ours` of a part is its share of the whole step. The
last line has all shares, and as that of the network what is left. With --heap only the whole step on a CPU, with memory
that is freed kept for the next step, as the trainer does, and handed back.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping

import torch

from selfsup.config.recipe_files import load_recipe
from selfsup.models.resnet import ResNet
from selfsup.monitor.observer import Taken
from selfsup.output import print_figures, program
from selfsup.pretraining import Run
from selfsup.runtime import heap
from selfsup.runtime.device import device_for
from tools.benchmarks.side_by_side import about, alternate, peak_gb, report, short
from tools.checkout import ROOT
from tools.gpu.rates import SETTINGS, SMALL, Setting, Steps


def shipped(name: str) -> Setting:
    """The step of a recipe for CPUs, such as the one that the quickstart takes."""
    recipe: Run = load_recipe(name)
    if not isinstance(recipe.encoder, ResNet.Config):
        raise TypeError("the recipe has a ResNet")
    return Setting(recipe.name, recipe.encoder, recipe.augment, recipe.batch_size, 32, name)


PARTS = ("views", "loss", "guard", "optimizer", "memory")  # of a step, beside the network


class Parts(Steps):
    """Steps, and what they are made of: each part by itself, on what one step has left."""

    def __init__(self, setting: Setting, folder: Path) -> None:
        super().__init__(setting, folder)
        self.out, self.handed = self._forward_and_backward(self.made, self.cached)
        loss, update = self.out.loss.detach(), self.out.update
        self.taken = Taken(step=0, views=self.made, batch=self.handed, loss=loss, update=update, norm=None)
        self.gradients = {parameter: parameter.grad for parameter in self.method.parameters()}
        with torch.no_grad():
            self.embedded = self.method.embedded(self.method.embed, self.method.queries(self.made))

    def loss(self) -> None:
        """Forward and backward from embeddings on; what is embedded without gradient, such as keys, is there too."""
        rows = [part.detach().requires_grad_() for part in self.embedded]
        self.method.in_chunks = lambda embed, views: [part.detach() for part in self.embedded][: len(views)]
        try:
            self.method.objective(rows, self.made, self.handed).loss.backward()
        finally:
            self.method.in_chunks = None

    def guard_alone(self) -> None:
        self._with_gradients()
        self.guard.before_step(0, self.made)
        self.guard.allows(self.taken)
        self.guard.written(self.taken)
        self.guard.left_out(everything=False)

    def optimize(self) -> None:
        self._with_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def memory(self) -> None:
        """Whatever the method writes after a step."""
        self.method.after_step(self.out.update, 0.0)

    def _with_gradients(self) -> None:
        for parameter, gradient in self.gradients.items():
            parameter.grad = gradient


def measure(setting: Setting, runs: int) -> None:
    """Print the lines of a setting."""
    with tempfile.TemporaryDirectory(prefix="selfsup_step_") as folder:
        steps = Parts(setting, Path(folder))
        parts = {
            "whole": steps.whole,
            "with_guard": steps.guarded,
            "bare": steps.bare,
            "views": steps.make_views,
            "loss": steps.loss,
            "guard": steps.guard_alone,
            "optimizer": steps.optimize,
            "memory": steps.memory,
        }
        with heap.reused(steps.device):  # as the trainer does
            seconds = alternate(parts, runs, steps.device)
    amounts = dict.fromkeys(parts, setting.batch_size)
    facts = {"encoder": setting.name, "size": setting.size, "precision": steps.accelerator.mixed_precision}
    facts |= about(steps.device, "accelerate")
    report("step", amounts, seconds, "whole", "images/s", **facts)
    print_figures({"name": "step_share", **facts, "batch": setting.batch_size, "shares": shares(seconds)})


def beside_heap(setting: Setting, runs: int) -> None:
    """Print the lines of the whole step with freed memory kept, and handed back, each time in a process of its own."""
    seconds: dict[str, list[float]] = {"kept": [], "handed_back": []}
    peaks: dict[str, list[float]] = {"kept": [], "handed_back": []}
    for _ in range(runs):
        for way in seconds:
            words = ["--setting", setting.name, "--threads", str(torch.get_num_threads()), "--way", way]
            command = [sys.executable, "-m", "tools.benchmarks.step", *words]
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            seconds[way].append(found["seconds"])
            peaks[way].append(found["peak_gb"])
    facts = {"encoder": setting.name, "size": setting.size} | about(torch.device("cpu"))
    facts |= {"peak_gb": {way: statistics.median(found) for way, found in peaks.items()}}
    report("heap", dict.fromkeys(seconds, setting.batch_size), seconds, "kept", "images/s", **facts)


def one_way(setting: Setting, way: str) -> None:
    """Print the median seconds of nine whole steps, after three that do not count, and the peak of the process."""
    kept = heap.reused(torch.device("cpu")) if way == "kept" else contextlib.nullcontext()
    with tempfile.TemporaryDirectory(prefix="selfsup_step_") as folder, kept:
        steps = Steps(setting, Path(folder))
        for _ in range(2):
            steps.whole()
        taken = alternate({"whole": steps.whole}, 9, steps.device)["whole"]
    print_figures({"seconds": statistics.median(taken), "peak_gb": peak_gb()})


def shares(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Of the whole step's median, what each part takes, and the network the rest."""
    whole = statistics.median(seconds["whole"])
    found = {part: statistics.median(seconds[part]) / whole for part in PARTS}
    return {part: short(share) for part, share in (found | {"network": 1 - sum(found.values())}).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; 1 gives figures per core")
    parser.add_argument("--runs", type=int, default=9)
    cpu = (*SMALL, *map(shipped, ("simclr_cifar10_cpu", "moco_v2_cifar10_cpu")))
    parser.add_argument(
        "--setting",
        choices=[one.name for one in (*cpu, *SETTINGS)],
        help="default: those of simclr_cifar10_cpu and moco_v2_cifar10_cpu on a CPU, ResNet-18 and ResNet-50 on a GPU",
    )
    parser.add_argument("--way", default="", help=argparse.SUPPRESS)  # of the processes that --heap starts
    parser.add_argument("--heap", action="store_true", help="only with freed memory kept, and handed back")
    arguments = parser.parse_args()
    if arguments.heap and device_for("auto").type != "cpu":
        parser.error("--heap is about memory on a CPU, and the step would be taken on a GPU; hide it from torch")
    torch.set_num_threads(arguments.threads)
    usual = SETTINGS if device_for("auto").type == "cuda" else cpu[1:]
    wanted = [one for one in (*cpu, *SETTINGS) if one.name == arguments.setting] or usual
    for setting in wanted:
        if arguments.way:
            one_way(setting, arguments.way)
        else:
            (beside_heap if arguments.heap else measure)(setting, arguments.runs)


if __name__ == "__main__":
    with program():
        main()
