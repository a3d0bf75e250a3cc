"""How much memory there is for data."""

import os
from pathlib import Path


def free_memory() -> int:
    """Bytes that may be taken without swapping; on systems that do not say, half of what is built in."""
    table = Path("/proc/meminfo")
    if not table.is_file():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    fields = dict(line.split(":", 1) for line in table.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdigit():
        free = min(free, int(text) - int(used.read_text()))  # a container's share
    return free
