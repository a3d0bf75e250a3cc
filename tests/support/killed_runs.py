"""A run that is killed in the middle of an epoch, and gone on with."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.multiprocessing as mp

from selfsup.pretraining import Run, pretrain
from selfsup.storage import checkpoint
from selfsup.training import trainer
from tests.support.launching import same_weights
from tests.support.processes import run_processes

SAVED, KILLED = 5, 6  # steps, 4 an epoch


def whole(run: Run) -> int:
    """The step with which a run ends."""
    return int(pretrain(run)["step"])


def killed(run: Run) -> int:
    """The process is killed as it begins a step in the middle of the second epoch."""
    plain = trainer.Trainer.step

    def step(self: trainer.Trainer, number: int, *rest: Any) -> Any:
        if number == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, number, *rest)

    trainer.Trainer.step = step  # type: ignore[assignment, method-assign]
    return whole(run)


def wrong(uncut: Path, run: Run, world: int) -> str:
    """What is wrong with a run that is killed and then carried out again; "" where it ends with the bits of `uncut`."""
    run = replace(run, save_steps=SAVED, save_async=False)
    try:
        run_processes(world, killed, run)
        return "it was not killed"
    except mp.ProcessExitedException:
        pass
    found, _ = checkpoint.load_newest(Path(run.folder) / "checkpoints")
    if found is None or found.step != SAVED:
        return f"the newest checkpoint is of step {found.step if found else None}"
    run_processes(world, whole, run)
    return "" if same_weights(uncut, Path(run.folder)) else "other bits"
