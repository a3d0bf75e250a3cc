"""The first part of `tools.gpu_check`, at most two minutes: is all of it alive on this device?"""

import json
import math
import os
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import accelerate
import torch
from safetensors.torch import load_file

from selfsup.pretraining import pretrain
from selfsup.run_folder.environment import device_name
from selfsup.runtime.device import device_for
from tests.support.tiny import METHODS, tiny_run
from tools.gpu.asked import Asked
from tools.gpu.rates import check_augmentation, check_step

RUNS = 5  # of each rate; the parts of their own take more


def check_first(asked: Asked) -> bool:
    """Device and versions; one step of every method; one resume; rates of augmentation and step."""
    pieces = {
        "device": lambda: tell_device(asked),
        "methods": lambda: every_method(asked),
        "resume": lambda: resume(asked),
        "augmentation": lambda: check_augmentation(replace(asked, part="first: augmentation"), RUNS),
        "step": lambda: check_step(replace(asked, part="first: step"), RUNS),
    }
    well = True
    for name, piece in pieces.items():
        if asked.left < 5:
            asked.tell(ok=False, piece=name, error="no time is left for it")
            well = False
        else:
            well = asked.attempt({"piece": name}, piece) and well
    return well


def tell_device(asked: Asked) -> bool:
    device = device_for("auto")
    facts: dict[str, Any] = {"device": device_name(device), "python": platform.python_version()}
    facts |= {"torch": torch.__version__, "accelerate": accelerate.__version__, "cpus": os.cpu_count()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "cuda": torch.version.cuda,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "bf16": torch.cuda.is_bf16_supported(),
        }
    asked.tell(**facts)
    if device.type == "cuda":
        asked.tell(cudnn=torch.backends.cudnn.version())  # refuses where another cuDNN is in the way
    return True


def every_method(asked: Asked) -> bool:
    """One step of every method in bf16, from a run of its own; its loss must be finite."""

    def one_step(name: str) -> bool:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
            run = tiny_run(Path(folder) / name, name, device="auto", precision="bf16", max_steps=1, log_every=1)
            pretrain(run)
            lines = [json.loads(line) for line in (Path(folder) / name / "metrics.jsonl").read_text().splitlines()]
        # A step whose numbers are not finite is left out, and then has no loss.
        loss = next((line["loss"] for line in lines if "loss" in line), math.nan)
        well = isinstance(loss, float) and math.isfinite(loss)
        asked.tell(method=name, precision="bf16", ok=well, loss=loss, seconds=round(time.perf_counter() - begin, 2))
        return well

    return all([asked.attempt({"method": name}, lambda n=name: one_step(n)) for name in METHODS])


def resume(asked: Asked) -> bool:
    """A run that is stopped once and goes on, against one that is not: the same encoder to the last bit."""
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as made:
        folders = Path(made) / "whole", Path(made) / "stopped"
        whole, stopped = (tiny_run(folder, "moco", device="auto", precision="bf16") for folder in folders)
        pretrain(whole)
        pretrain(replace(stopped, max_steps=7))
        pretrain(stopped)
        first, second = (load_file(folder / "encoder.safetensors") for folder in folders)
    gap = max(float((first[name].double() - second[name].double()).abs().max()) for name in first)
    equal = all(torch.equal(first[name], second[name]) for name in first)
    asked.tell(resume="moco", ok=equal, bit_equal=equal, largest_difference=gap)
    return equal
