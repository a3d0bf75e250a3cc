"""Run a function in several processes that form one gloo group."""

import os
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT = timedelta(seconds=120)


def _process(rank: int, world: int, folder: str, target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(int(os.environ.get("TEST_THREADS", "1")))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the name of this host may not resolve
    # As a launcher has them, so that accelerate joins the group that is there.
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    dist.init_process_group("gloo", f"file://{folder}/store", timeout=TIMEOUT, rank=rank, world_size=world)
    torch.save(target(*args), Path(folder) / f"result_{rank}")
    dist.barrier()  # nobody leaves while another still talks
    dist.destroy_process_group()


def run_processes(world: int, target: Callable[..., Any], *args: Any) -> list[Any]:
    """What `target(*args)`, a module-level function, returns in each of `world` processes, by rank.

    An exception in any of them is raised here. Results must be tensors and plain containers of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_process, args=(world, folder, target, args), nprocs=world)
        return [torch.load(Path(folder) / f"result_{rank}", weights_only=True) for rank in range(world)]
