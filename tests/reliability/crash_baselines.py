"""What other ways of saving leave behind where ours is killed: the same state, the same moments."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from torch import nn

from selfsup.storage import checkpoint
from selfsup.storage.saver import Saver
from tests.support.kills import exit_code, forked

LAYERS, WIDTH = 8, 512  # 8 MB of weights
SECONDS = 0.3  # after the first save, within which the kill comes
BASELINES = ("torch.save over one file", "accelerate save_state, total_limit=1", "selfsup, keep_last=1")


def model(value: float) -> nn.Module:
    net = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))
    for parameter in net.parameters():
        nn.init.constant_(parameter, value)
    return net


def _save_one_file(folder: Path, net: nn.Module) -> Callable[[int], None]:
    return lambda step: torch.save(net.state_dict(), folder / "last.pt")


def _save_accelerate(folder: Path, net: nn.Module) -> Callable[[int], None]:
    accelerator = _accelerator(folder)
    accelerator.prepare(net)

    def save(step: int) -> None:
        accelerator.save_state()

    return save


def _accelerator(folder: Path) -> Accelerator:
    project = ProjectConfiguration(str(folder), automatic_checkpoint_naming=True, total_limit=1)
    return Accelerator(cpu=True, project_config=project)


def _save_ours(folder: Path, net: nn.Module) -> Callable[[int], None]:
    saver = Saver(folder / "checkpoints", keep_last=1)

    def save(step: int) -> None:
        saver.begin(step, {"method": net.state_dict()}, {}, kept=False)
        if step == 1:
            saver.wait()

    return save


def _load(name: str, folder: Path) -> dict[str, torch.Tensor]:
    """The newest state that can be loaded; raises what the loading raises."""
    if name == BASELINES[0]:
        state: dict[str, torch.Tensor] = torch.load(folder / "last.pt", weights_only=True)
        return state
    if name == BASELINES[1]:
        accelerator, net = _accelerator(folder), model(0.0)
        prepared = accelerator.prepare(net)
        accelerator.load_state()
        return dict(prepared.state_dict())
    found, _ = checkpoint.load_newest(folder / "checkpoints")
    if found is None:
        raise ValueError("there is no checkpoint")
    return found.tensors["method"]


def _train(name: str, folder: Path, first: int) -> None:
    """Save after each step for ever; the byte to `first` tells that a whole state has been saved."""
    net = model(0.0)
    save = dict(zip(BASELINES, (_save_one_file, _save_accelerate, _save_ours), strict=True))[name](folder, net)
    step = 0
    while True:
        step += 1
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.fill_(float(step))
        save(step)
        if step == 1:
            os.write(first, b"1")


def _require_whole(name: str, folder: Path) -> None:
    values = {float(value) for tensor in _load(name, folder).values() for value in (tensor.min(), tensor.max())}
    if len(values) != 1 or values == {0.0}:
        raise ValueError(f"a mixture of states: {values}")


def losses(name: str, folder: Path, kills: int) -> int:
    """After how many of the kills no whole state can be loaded any more."""
    draw, lost = random.Random(0), 0
    for number in range(kills):
        place = folder / f"{BASELINES.index(name)}_{number}"
        place.mkdir(parents=True)
        end, first = os.pipe()
        child = forked(lambda place=place, first=first: _train(name, place, first), folder / "train.log")  # type: ignore[misc]
        os.close(first)
        if os.read(end, 1) != b"1":
            raise RuntimeError((folder / "train.log").read_text())
        os.close(end)
        time.sleep(draw.uniform(0, SECONDS))
        os.kill(child, signal.SIGKILL)
        exit_code(child)
        lost += exit_code(forked(lambda place=place: _require_whole(name, place), folder / "load.log")) != 0  # type: ignore[misc]
    return lost
