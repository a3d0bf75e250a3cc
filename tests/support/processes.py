"""Run a function in several processes that form one gloo group."""

import contextlib
import io
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import selfsup.cli

TIMEOUT = timedelta(seconds=120)
# One process imports what takes seconds, and is forked for each that is asked for. `torch._dynamo` is what the first
# optimizer imports.
multiprocessing.set_forkserver_preload(
    [
        "torch._dynamo",
        "torch.distributed.fsdp",
        "torch.utils.tensorboard",
        "pytest",
        "selfsup.augment.color_loops",
        "selfsup.pretraining",
        "selfsup.stages.distill",
        "selfsup.stages.finetune",
        "tests.contracts.case",
    ]
)


def _prepare(environment: dict[str, str]) -> None:
    os.environ.clear()  # it is that of the first test
    os.environ |= environment
    torch.set_num_threads(int(os.environ.get("TEST_THREADS", "1")))


def _process(
    rank: int, world: int, folder: str, environment: dict[str, str], target: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    _prepare(environment)
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
        whole = (world, folder, dict(os.environ), target, args)
        mp.start_processes(_process, args=whole, nprocs=world, start_method="forkserver")
        return [torch.load(Path(folder) / f"result_{rank}", weights_only=True) for rank in range(world)]


def _alone(environment: dict[str, str], target: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    _prepare(environment)
    return target(*args)


def run_alone(target: Callable[..., Any], *args: Any) -> Any:
    """What `target(*args)`, a module-level function, returns in a new process, which knows nothing of this one."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as pool:
        return pool.submit(_alone, dict(os.environ), target, args).result()


def _called(folder: Path, main: Callable[[], object], argv: tuple[str, ...]) -> tuple[int, str, str]:
    os.chdir(folder)
    sys.argv = list(argv)
    code: object = 0
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            code = main()
        except SystemExit as end:
            code = end.code
    return int(code or 0) if code is None or isinstance(code, int) else 1, out.getvalue(), errors.getvalue()


def run_command(folder: Path, *words: object) -> tuple[int, str, str]:
    """`selfsup WORDS` in a new process in a folder: its exit code, and what it says on standard output and error."""
    done: tuple[int, str, str] = run_alone(_called, folder, selfsup.cli.main, ("selfsup", *map(str, words)))
    return done
