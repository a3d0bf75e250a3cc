"""Contestants that take turns in one run, and the lines that say what they took."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version

import torch

from selfsup.data.free_memory import peak_of_process
from selfsup.output import print_figures


def alternate(
    contestants: Mapping[str, Callable[[], object]], runs: int, device: torch.device, by_the_wall: bool = False
) -> dict[str, list[float]]:
    """Seconds of each run of each contestant. They take turns, so that a busy moment of the machine hits them all.

    On a CPU they are seconds of the process on its processors, as others may use these too; `by_the_wall` where
    contestants wait, or have processes of their own.
    """
    clock = time.process_time if device.type == "cpu" and not by_the_wall else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for run in range(runs + 1):
        for name, work in contestants.items():
            _wait(device)
            start = clock()
            work()
            _wait(device)
            if run > 0:  # the first run warms caches and allocators
                seconds[name].append(clock() - start)
    return seconds


def report(
    name: str, amounts: Mapping[str, int], seconds: Mapping[str, list[float]], ours: str, unit: str, **facts: object
) -> None:
    """One line for each contestant: its rate in `unit`, and the ratio of ours to it in the same run."""
    own = amounts[ours] / statistics.median(seconds[ours])
    for contestant, times in seconds.items():
        rate = amounts[contestant] / statistics.median(times)
        figure = {
            "name": f"{name}/{contestant}",
            "unit": unit,
            **facts,
            "batch": amounts[contestant],
            "runs": len(times),
            "median": short(rate),
            "min": short(min(amounts[contestant] / seconds for seconds in times)),
            "max": short(max(amounts[contestant] / seconds for seconds in times)),
            "ratio_of_ours": short(own / rate),
        }
        print_figures(figure)


def about(device: torch.device, *packages: str) -> dict[str, object]:
    """What a figure was measured with."""
    versions = {}
    for package in ("torch", *packages):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "versions": versions,
    }


def peak_gb() -> float:
    """The most memory that this process ever had, in 10^9 bytes."""
    return round(peak_of_process() / 1e9, 3)


def short(value: float) -> float:
    """Four digits."""
    return float(f"{value:.4g}")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
