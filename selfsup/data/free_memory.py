"""How much memory there is and how much is free, of the machine or of a container, and what this process has taken."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
# The limit, what is used, and what of that is given back for the asking: of control groups version 2, and 1.
_FILES = {
    "": ("memory.max", "memory.current", "inactive_file"),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


class _Granted(NamedTuple):
    """By one control group, in bytes."""

    limit: int
    used: int


def total_memory() -> int:
    """Bytes that the processes of this machine, or of this container, may have together."""
    return min([int(psutil.virtual_memory().total), *(group.limit for group in _granted())])


def free_memory() -> int:
    """Bytes that may be taken without swapping."""
    available = int(psutil.virtual_memory().available)
    return max(0, min([available, *(group.limit - group.used for group in _granted())]))


def _granted() -> Iterator[_Granted]:
    """What the control groups grant that this process is in, from its own to the outermost that can be seen."""
    if not _OWN.is_file():
        return
    for line in _OWN.read_text().splitlines():
        _, controllers, place = line.split(":", 2)
        for controller in {"", "memory"} & set(controllers.split(",")):
            top = _GROUPS / controller
            own = top / place.lstrip("/")
            for folder in [own, *(parent for parent in own.parents if parent.is_relative_to(top))]:
                if (found := _of_group(folder, *_FILES[controller])) is not None:
                    yield found


def _of_group(folder: Path, limit: str, used: str, given_back: str) -> _Granted | None:
    """None where the group has no limit, or the system does not say it here."""
    try:
        most, now = (folder / limit).read_text().strip(), int((folder / used).read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    return _Granted(int(most), now - int(statistics.get(given_back, 0))) if most.isdigit() else None


def peak_of_process() -> int:
    """The most memory that this process has had in use since it began, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # which Windows has not

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
