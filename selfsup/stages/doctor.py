"""`selfsup doctor`: what is installed here, what works, and what is missing."""

import importlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import selfsup
from selfsup.data.free_memory import free_memory
from selfsup.packages import EXTRAS, LOST, NEEDED, PACKAGES
from selfsup.stages.installed import problem_of, too_old, version_of

_PYTHON = (3, 11)  # the oldest
_SMALL_SHARED = 1 << 30  # bytes of shared memory below which workers send batches in another way


@dataclass
class Examination:
    """What was found: each sentence, and facts for programs."""

    said: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # what selfsup needs and cannot use
    facts: dict[str, Any] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """All sentences, what is broken last."""
        ending = [f"broken: {sentence}" for sentence in self.broken]
        return [*self.said, *(ending or ["all that selfsup needs is there, and works"])]

    def figures(self) -> dict[str, Any]:
        """For the JSON line."""
        return self.facts | {"broken": self.broken}


def examined() -> Examination:
    """Look at this installation and this machine."""
    found = Examination()
    _python(found)
    _packages(found)
    _extras(found)
    if "PIL" in found.facts["packages"]:
        _formats(found)
    _machine(found)
    _folders(found)
    if "torch" in found.facts["packages"]:
        _devices(found)
    return found


def _python(found: Examination) -> None:
    version, system = platform.python_version(), platform.platform()
    found.said.append(f"selfsup {selfsup.__version__}, Python {version}, {system}")
    found.facts |= {"selfsup": selfsup.__version__, "python": version, "system": system}
    if sys.version_info < _PYTHON:
        found.broken.append(f"this is Python {version}, and selfsup needs {'.'.join(map(str, _PYTHON))} or newer")


# Packages


def _packages(found: Examination) -> None:
    versions: dict[str, str] = {}
    lost = []
    for module in (*NEEDED, *LOST):
        problem = problem_of(module)
        package = PACKAGES[module]
        if not problem:
            versions[module] = version_of(module)
        elif module in NEEDED:
            found.broken.append(f"{package} {problem}: pip install --upgrade {package}")
        else:
            lost.append(f"{package} {problem}, so {LOST[module]}: pip install {package}")
    found.facts |= {"packages": versions, "packages_missing": lost}
    found.said.append("packages: " + ", ".join(f"{module} {version}" for module, version in versions.items()))
    found.said += lost
    found.broken += too_old()


def _extras(found: Examination) -> None:
    there, missing = [], {}
    for name, (modules, purpose) in EXTRAS.items():
        if all(problem_of(module) == "" for module in modules):
            there.append(name)
        else:
            missing[name] = f"pip install 'selfsup[{name}]'"
            found.said.append(f"not installed: {name}, for {purpose}: {missing[name]}")
    found.said.append(f"extras that are there: {', '.join(there) or 'none'}")
    found.facts |= {"extras": there, "extras_missing": missing}


def _formats(found: Examination) -> None:
    from selfsup.data.formats import FORMATS, LACKING

    lacking = f"; this Pillow lacks what {', '.join(sorted(LACKING))} need" if LACKING else ""
    found.said.append(f"images that are read: {', '.join(FORMATS)}{lacking}")
    found.facts |= {"formats": list(FORMATS), "formats_missing": sorted(LACKING)}


# The machine


def _machine(found: Examination) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found.facts["cores"] = cores
    free = free_memory()
    found.facts["memory_free_bytes"] = free
    found.said.append(f"{cores} core{'' if cores == 1 else 's'}; {_gib(free)} of memory free{_quota(cores)}")
    shared = Path("/dev/shm")
    if shared.is_dir():
        usage = shutil.disk_usage(shared)
        found.facts |= {"shared_memory_bytes": usage.total, "shared_memory_free_bytes": usage.free}
        told = f"shared memory (/dev/shm): {_gib(usage.total)}, {_gib(usage.free)} of it free"
        few = usage.free < _SMALL_SHARED
        found.said.append(f"{told}{'; batches of workers go through pipes, at the cost of a copy' if few else ''}")


def _quota(cores: int) -> str:
    """How much less than its cores a container may use; "" where it may use them all."""
    limit = Path("/sys/fs/cgroup/cpu.max")
    words = limit.read_text().split() if limit.is_file() else []
    if len(words) != 2 or not all(word.isdecimal() for word in words) or int(words[0]) >= cores * int(words[1]):
        return ""
    return f"; this container may use {int(words[0]) / int(words[1]):.2g} cores at a time: give as many --workers"


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _folders(found: Examination) -> None:
    temporary = tempfile.gettempdir()
    found.said.append(f"temporary files go to {temporary}, {_gib(shutil.disk_usage(temporary).free)} free")
    place = _cache()
    writable = place is not None and _can_be_written(place)
    found.facts |= {"temporary": temporary, "cache": str(place) if place else None, "cache_writable": writable}
    if writable:
        found.said.append(f"the cache folder {place} can be written")
    else:
        lost = "files are read anew by each command, and Parquet files and addresses cannot be read"
        remedy = "let XDG_CACHE_HOME name a folder that can be written"
        found.said.append(f"the cache folder {place or '(there is no home)'} cannot be written: {lost}; {remedy}")


def _cache() -> Path | None:
    try:
        from selfsup.data.looked import list_folder
    except Exception:  # which is said of the package that is broken
        return None
    return list_folder()


def _can_be_written(folder: Path) -> bool:
    """Whether a file can be made in a folder or, where it is not there yet, in the nearest one above it."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


# Devices


def _devices(found: Examination) -> None:
    import torch

    cpu = f"the CPU computes with {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    devices: list[dict[str, Any]] = [{"device": "cpu", "threads": torch.get_num_threads(), "works": True}]
    found.said.append(cpu)
    driver = _driver()
    if torch.cuda.is_available():
        devices += [_gpu(found, number) for number in range(torch.cuda.device_count())]
        found.said.append(f"CUDA {torch.version.cuda}, driver {driver or 'of an unknown version'}")
    elif driver:
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
        found.said.append(
            f"there is an NVIDIA driver, {driver}, and torch, which {built}, finds no GPU: a newer driver, or another "
            "torch (https://pytorch.org/get-started) may help"
        )
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "works": _computes("mps") == ""})
        found.said.append("an Apple GPU (mps) is there, for one process")
    found.facts |= {"devices": devices, "driver": driver or None, "cuda": torch.version.cuda}
    _auto(found)
    if "faiss" in found.facts["packages"]:
        _faiss(found)


def _gpu(found: Examination, number: int) -> dict[str, Any]:
    import torch

    name, memory = torch.cuda.get_device_name(number), torch.cuda.get_device_properties(number).total_memory
    problem = _computes(f"cuda:{number}")
    half = not problem and torch.cuda.is_bf16_supported()
    kernels = not problem and importlib.util.find_spec("triton") is not None
    facts = {"device": f"cuda:{number}", "name": name, "memory_bytes": memory, "works": not problem}
    if problem:
        found.broken.append(f"the GPU {name} (cuda:{number}) does not compute ({problem}); give --device cpu meanwhile")
        return facts
    can = [f"bf16 {'works' if half else 'is not there (--precision fp16)'}"]
    can.append("views are made by Triton's kernels" if kernels else "there is no triton: views are made by torch alone")
    found.said.append(f"cuda:{number} is a {name} with {_gib(memory)}; it computes; {'; '.join(can)}")
    return facts | {"bf16": half, "triton": kernels}


def _computes(device: str) -> str:
    """Why a device cannot compute; "" where it can."""
    import torch

    try:
        rows = torch.ones(64, 64, device=device)
        total = float((rows @ rows).sum())
    except Exception as error:  # drivers raise what they like
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return "" if total == 64.0**3 else f"the sum of a product is {total}"


def _auto(found: Examination) -> None:
    from selfsup.runtime.device import device_for

    chosen = str(device_for("auto"))
    found.facts["auto"] = chosen
    found.said.append(f"--device auto takes {chosen}")


def _driver() -> str:
    """The version of NVIDIA's driver; "" where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.partition("\n")[0].strip() if done.returncode == 0 else ""


def _faiss(found: Examination) -> None:
    faiss = importlib.import_module("faiss")
    gpus = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
    found.facts["faiss_gpus"] = gpus
    found.said.append(f"faiss searches on {f'{gpus} GPU' + 's' * (gpus > 1) if gpus else 'the CPU alone'}")
