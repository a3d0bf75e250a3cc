"""Check on a machine with a GPU what only a GPU can show, in at most nine minutes: `python tools/gpu_check.py`.

In this order: the tests marked `gpu`; the throughput of the augmentation; the whole training step against the bare
forward, backward and optimizer on views already made; as many epochs as fit of SimCLR with a ResNet-18 on CIFAR-10 at
batch 512, with kNN. One JSON line for each figure on standard output as soon as it is known, so that a run that is cut
off has told what it knew. Nothing is downloaded: CIFAR-10 is taken from --data or the cache, else generated images
serve. On a CPU, or with --small, everything is small and proves only that the script works.
"""

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfsup.augment import presets
from selfsup.augment.views import Augment, Views
from selfsup.config import Data, load_recipe
from selfsup.data.base import ArraySource
from selfsup.data.batch import Batch
from selfsup.data.download import cache_folder
from selfsup.data.loader import Loader
from selfsup.folder import device_name
from selfsup.methods.base import Problem
from selfsup.methods.simclr import SimCLR
from selfsup.models.resnet import ResNet
from selfsup.optim import LARS
from selfsup.schedules import Horizon

ROOT = Path(__file__).resolve().parent.parent


class Clock:
    """How much of the allowed time is left, in seconds."""

    def __init__(self, minutes: float):
        self.end = time.monotonic() + 60 * minutes

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


def tell(check: str, **figures: Any) -> None:
    print(json.dumps({"check": check} | figures), flush=True)


def median_seconds(work: Callable[[], object], device: torch.device, runs: int) -> dict[str, float]:
    """Median, minimum and maximum of the seconds that `work` takes, after two runs that do not count."""
    seconds = []
    for run in range(runs + 2):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if run >= 2:
            seconds.append(time.perf_counter() - start)
    return {"median_s": statistics.median(seconds), "min_s": min(seconds), "max_s": max(seconds), "runs": runs}


# Tests


def check_tests(small: bool, clock: Clock) -> bool:
    """The tests that need a GPU; where there is none, a few that run anywhere, so that this part is tried too."""
    # On a CPU those marked `gpu` would all be skipped.
    chosen = ["tests/augment/test_parameters.py"] if small else ["-m", "gpu"]
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-p", "no:cacheprovider", *chosen]
    limit = max(10.0, min(240.0, clock.left - 60))
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        tell("tests", ok=False, error=f"not finished after {limit:.0f} s")
        return False
    failures = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    summary = next((line for line in reversed(done.stdout.splitlines()) if " in " in line), done.stdout[-200:])
    tell("tests", ok=done.returncode == 0, summary=summary.strip("= "), failures=failures[:20])
    if done.returncode:
        sys.stderr.write(done.stdout[-6000:] + done.stderr[-2000:])
    return done.returncode == 0


# Throughput


def check_augmentation(device: torch.device, small: bool) -> bool:
    """Views per second of two views of each image, images on the device already."""
    for size, source, batch, augment in (
        (32, 32, 32 if small else 512, presets.simclr_cifar()),
        (224, 256, 2 if small else 256, presets.simclr()),
    ):
        images = torch.randint(0, 256, (batch, 3, source, source), dtype=torch.uint8, device=device)
        given = Batch(images, torch.zeros(batch, dtype=torch.int64), torch.arange(batch))
        views = Views(augment, seed=0)
        seconds = median_seconds(lambda given=given, views=views: views(given, 0, device), device, 3 if small else 20)
        tell("augmentation", size=size, batch=batch, views_per_second=2 * batch / seconds["median_s"], **seconds)
    return True


def check_step(device: torch.device, small: bool) -> float:
    """Seconds of a whole step of SimCLR, and the ratio to the bare step; returns the seconds of the first setting."""
    settings: list[tuple[str, ResNet.Config, Augment, int, int]] = [
        ("resnet18_cifar", ResNet.Config(depth=18, stem="cifar"), presets.simclr_cifar(), 512, 32),
        ("resnet50_224", ResNet.Config(depth=50), presets.simclr(), 256, 224),
    ]
    if small:
        tiny = ResNet.Config(depth="small", stem="small", width=0.5)
        settings = [("small", tiny, presets.simclr_cifar(), 32, 32)]
    seconds = []
    for name, encoder, augment, batch_size, size in settings:
        whole, bare = _steps(encoder, augment, batch_size, size, device)
        runs = 3 if small else 20
        figures = {"whole": median_seconds(whole, device, runs), "bare": median_seconds(bare, device, runs)}
        medians = {part: figures[part]["median_s"] for part in figures}
        tell("step", setting=name, batch=batch_size, ratio=medians["whole"] / medians["bare"], **figures)
        seconds.append(medians["whole"])
    return seconds[0]


def _steps(
    encoder: ResNet.Config, augment: Augment, batch_size: int, size: int, device: torch.device
) -> tuple[Callable[[], None], Callable[[], None]]:
    images = torch.randint(0, 256, (4 * batch_size, 3, size, size), dtype=torch.uint8)
    loader = Loader(ArraySource(images), batch_size=batch_size, seed=0, device=device)
    views = Views(augment, seed=0)
    method = SimCLR.Config(temperature=0.5).build(encoder.build(), Problem(len(images), batch_size, 0))
    method = method.to(device).to(memory_format=torch.channels_last)
    optimizer = LARS.Config().build(method.named_parameters(), batch_size)
    cached = next(iter(loader.epoch(0)))
    made = views(cached, 0, device)
    stream = iter(())
    kind = torch.bfloat16

    def train(given: list[Tensor], batch: Batch) -> None:
        with torch.autocast(device.type, dtype=kind):
            loss = method(given, batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def whole() -> None:
        nonlocal stream
        batch = next(stream, None)
        if batch is None:
            stream = loader.epoch(0)
            batch = next(stream)
        train(views(batch, 0, device), batch)

    def bare() -> None:
        train(made, cached)

    return whole, bare


# Learning


def check_learning(
    device: torch.device, data: str, small: bool, step_seconds: float, clock: Clock, folder: Path
) -> bool:
    """SimCLR by the shipped recipe for as many epochs as fit, each with its kNN as soon as it is there."""
    recipe = load_recipe("simclr_cifar10_cpu" if small else "simclr_cifar10")
    recipe = replace(recipe, data=Data(root="shapes:512" if small else data), folder=str(folder))
    batch = 64 if small else recipe.batch_size
    count = 512 if small else (10_000 if data == "shapes" else 50_000)
    steps = Horizon(count, batch, 1).steps_per_epoch
    per_epoch = steps * step_seconds * 1.15 + 2
    epochs = 2 if small else int((clock.left - 30) / per_epoch)
    if epochs < 2:
        tell("learning", ok=False, error=f"{clock.left:.0f} s are left, an epoch takes about {per_epoch:.0f} s")
        return False
    words = f"--epochs {epochs} --evaluate-every 1 --batch-size {batch} --log-every 1000000 --save-minutes 1".split()
    words += ["--data.limit", "None", "--data.root", recipe.data.root, "--folder", str(folder)]
    words += ["--precision", "bf16", "--max-minutes", f"{max(0.2, (clock.left - 15) / 60):.2f}"]
    if device.type == "cpu":
        words += ["--device", "cpu"]
    output, errors = folder.with_name("output"), folder.with_name("errors")  # files, which never fill up as pipes do
    with open(output, "w") as out, open(errors, "w") as err:
        command = [sys.executable, "-m", "selfsup", "pretrain", recipe.name, *words]
        process = subprocess.Popen(command, stdout=out, stderr=err)
        told = follow(process, folder / "metrics.jsonl", epochs, recipe.data.root, clock)
    lines = output.read_text().splitlines()
    last = json.loads(lines[-1]) if lines else {"error": errors.read_text()[-2000:]}
    ok = process.returncode == 0 and told > 0
    tell("learning", ok=ok, **last)
    return ok


def follow(process: "subprocess.Popen[bytes]", metrics: Path, epochs: int, data: str, clock: Clock) -> int:
    """Tell every kNN figure as it is logged; stop the run when the time is up. Returns how many there were."""
    begin, told, asked = time.monotonic(), 0, False
    while True:
        ended = process.poll() is not None
        lines = metrics.read_text().splitlines() if metrics.is_file() else []
        judged = [json.loads(line) for line in lines if '"knn_top1"' in line and line.endswith("}")]
        for line in judged[told:]:
            told += 1
            seconds = round(time.monotonic() - begin, 1)
            tell("learning", epoch=told, epochs=epochs, knn_top1=line["knn_top1"], seconds=seconds, data=data)
        if ended:
            return told
        if clock.left < 5 and not asked:
            process.terminate()
            asked = True
        time.sleep(0.2)


# All of it


def cached_cifar10(given: Path | None) -> str:
    """CIFAR-10 where it lies already, else the word for generated images."""
    for folder in (given, cache_folder()):
        if folder is not None and (folder / "cifar10.npz").is_file():
            return str(folder / "cifar10.npz")
    return "shapes"


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools/gpu_check.py", description=__doc__)
    parser.add_argument("--small", action="store_true", help="small sizes; what a CPU does in any case")
    parser.add_argument("--minutes", type=float, default=9.0, help="stop in time (default %(default)s)")
    parser.add_argument("--data", type=Path, help="folder with cifar10.npz")
    arguments = parser.parse_args()
    clock = Clock(arguments.minutes)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    small = arguments.small or device.type == "cpu"
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    tell("environment", device=device_name(device), small=small, **versions)
    failed = []
    folder = Path(tempfile.mkdtemp(prefix="gpu_check_"))
    step_seconds = 1.0

    def learn() -> bool:
        return check_learning(device, cached_cifar10(arguments.data), small, step_seconds, clock, folder / "run")

    def step() -> bool:
        nonlocal step_seconds
        step_seconds = check_step(device, small)
        return True

    checks: dict[str, Callable[[], bool]] = {
        "tests": lambda: check_tests(small, clock),
        "augmentation": lambda: check_augmentation(device, small),
        "step": step,
        "learning": learn,
    }
    for name, check in checks.items():
        try:
            if not check():
                failed.append(name)
        except Exception as error:  # the other checks still tell what they can
            failed.append(name)
            tell(name, ok=False, error=f"{type(error).__name__}: {error}")
    shutil.rmtree(folder, ignore_errors=True)
    tell("end", ok=not failed, failed=failed, seconds_left=round(clock.left, 1))
    sys.exit(bool(failed))


main()
