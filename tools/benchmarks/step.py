"""A whole training step beside the bare one: `python -m tools.benchmarks.step`.

Bare is forward, backward and optimizer of the same network and loss on views that are there already. Whole is what the
trainer does: the batch, two views of each image, the guard, forward and backward, the optimizer, the memory. One JSON
line for each, with the ratio of the whole step to each part; views are the part that grows with the images.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import tempfile

import torch

from selfsup.config.recipe_files import load_recipe
from selfsup.models.resnet import ResNet
from selfsup.output import program
from selfsup.pretraining import Run
from selfsup.runtime.device import device_for
from tools.benchmarks.side_by_side import about, alternate, report
from tools.gpu.rates import SETTINGS, SMALL, Setting, Steps


def shipped() -> Setting:
    """The net, views and batch of the recipe for CPUs that the quickstart takes."""
    recipe: Run = load_recipe("simclr_cifar10_cpu")
    if not isinstance(recipe.encoder, ResNet.Config):
        raise TypeError("the recipe has a ResNet")
    return Setting(recipe.name, recipe.encoder, recipe.augment, recipe.batch_size, 32)


def measure(setting: Setting, runs: int) -> None:
    """Print the lines of a setting."""
    with tempfile.TemporaryDirectory(prefix="selfsup_step_") as folder:
        steps = Steps(setting, Path(folder))
        parts = {
            "whole": steps.whole,
            "with_guard": steps.guarded,
            "bare": steps.bare,
            "views": steps.make_views,
        }
        seconds = alternate(parts, runs, steps.device)
    amounts = dict.fromkeys(parts, setting.batch_size)
    facts = {"encoder": setting.name, "size": setting.size, "precision": steps.accelerator.mixed_precision}
    report("step", amounts, seconds, "whole", "images/s", **facts, **about(steps.device, "accelerate"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU; 1 gives figures per core")
    parser.add_argument("--runs", type=int, default=9)
    cpu = (*SMALL, shipped())
    parser.add_argument(
        "--setting",
        choices=[one.name for one in (*cpu, *SETTINGS)],
        help="default: that of the recipe simclr_cifar10_cpu on a CPU, ResNet-18 and ResNet-50 on a GPU",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    usual = SETTINGS if device_for("auto").type == "cuda" else cpu[1:]
    wanted = [one for one in (*cpu, *SETTINGS) if one.name == arguments.setting] or usual
    for setting in wanted:
        measure(setting, arguments.runs)


if __name__ == "__main__":
    with program():
        main()
