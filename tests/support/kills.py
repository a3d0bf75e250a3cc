"""Commands that are killed: forked from a process that has imported everything, so that each begins at once."""

import json
import os
import random
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

# What the command would import late.
import torch._dynamo
import torch.utils.tensorboard

import selfsup.pretraining  # noqa: F401
from selfsup import cli
from selfsup.storage import checkpoint

RECIPE = """
from pathlib import Path
from tests.support.tiny import tiny_run
recipe = tiny_run(Path({folder!r}), epochs={epochs}, log_every=1, save_steps={every}, root="shapes:64")
"""


class Kill(NamedTuple):
    """When a command is to die: after some seconds, or where writing a checkpoint has reached a point so many times."""

    seconds: float = 0.0
    point: str = ""  # of checkpoint.POINTS
    times: int = 0

    def __str__(self) -> str:
        return f"{self.point} {self.times}" if self.point else f"{self.seconds:.3f} s"


class Seen(NamedTuple):
    """What a run folder holds after a command has ended."""

    killed: bool  # or else the command came to its end
    reached: int  # step of the last line of the metrics
    begun: int  # step of the newest checkpoint that was begun, whole or not
    saved: int  # step of the newest checkpoint that loads, or 0
    unreadable: list[str]


def recipe(folder: Path, epochs: int, every: int) -> Path:
    """A recipe file beside `folder`, of a run of 4 steps per epoch that is saved after each `every` steps."""
    path = folder.with_suffix(".py")
    path.write_text(RECIPE.format(folder=str(folder), epochs=epochs, every=every))
    return path


def forked(target: Callable[[], None], log: Path) -> int:
    """Do `target` in a copy of this process, which must have no other threads; its words go to `log`. Gives its id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        target()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def exit_code(child: int) -> int:
    """How a forked process ended; the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def command(*words: str | Path) -> None:
    """The command `selfsup WORDS`, in this process."""
    sys.argv = ["selfsup", *map(str, words)]
    cli.main()


def at_point(point: str, count: int, act: Callable[[Path], None]) -> None:
    """Let this process `act` where the writing of a checkpoint reaches a point for the `count`-th time."""
    met = 0

    def fault_point(name: str, path: Path) -> None:
        nonlocal met
        if name == point and "checkpoints" in path.parts:
            met += 1
            if met == count:
                act(path)

    checkpoint.fault_point = fault_point  # type: ignore[assignment]


def killed(words: list[str | Path], kill: Kill, log: Path) -> bool:
    """Carry out a command and kill it; whether it was still there to be killed."""

    def carry_out() -> None:
        if kill.point:
            at_point(kill.point, kill.times, lambda _: os.kill(os.getpid(), signal.SIGKILL))
        command(*words)

    child = forked(carry_out, log)
    if not kill.point:
        time.sleep(kill.seconds)
        os.kill(child, signal.SIGKILL)
    code = exit_code(child)
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the command ended with {code}:\n{log.read_text()}")
    return code != 0


def look(folder: Path, was_killed: bool) -> Seen:
    checkpoints = folder / "checkpoints"
    good, unreadable = [], []
    for step in checkpoint.steps(checkpoints):
        try:
            good.append(checkpoint.load(checkpoints / f"step_{step:08d}").step)
        except ValueError as error:
            unreadable.append(str(error))
    names = os.listdir(checkpoints) if checkpoints.is_dir() else []
    begun = [int(found[1]) for name in names if (found := re.search(r"step_(\d+)(?!.*removed)", name))]
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True) if metrics.is_file() else []
    steps = [json.loads(line)["step"] for line in lines if line.endswith("\n") and '"loss"' in line]
    return Seen(was_killed, max(steps, default=0), max(begun, default=0), max(good, default=0), unreadable)


def chain(folder: Path, words: list[str | Path], kills: list[Kill]) -> Iterator[Seen]:
    """The same command again and again, killed each time; ends early where one comes to its end."""
    for kill in kills:
        seen = look(folder, killed(words, kill, folder.with_suffix(".log")))
        yield seen
        if not seen.killed:
            return


def at_points(number: int, seed: int) -> list[Kill]:
    """Kills inside the writer: all points in turn, in one of the first saves of a launch."""
    draw = random.Random(seed)
    of_files = {"opened": 4, "before-sync": 4, "synced": 4, "mid-write": 100}  # times that a save reaches the point
    return [
        Kill(point=point, times=draw.randint(1, 3 * of_files.get(point, 1)))
        for point in (checkpoint.POINTS[index % len(checkpoint.POINTS)] for index in range(number))
    ]


def at_moments(number: int, seconds: float, seed: int) -> list[Kill]:
    draw = random.Random(seed)
    return [Kill(seconds=draw.uniform(0, seconds)) for _ in range(number)]


_DELETING = "os.remove"  # what Python tells of a file that is deleted


def _at_audit(count: int) -> None:
    met = 0

    def heard(event: str, _: object) -> None:
        nonlocal met
        met += event == _DELETING
        if met == count:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(heard)


def killed_saves(folder: Path) -> list[Seen]:
    """A save is killed at every point, each time that it comes there, and while it deletes the one before."""
    states = [{"method": {"w": torch.full((300,), float(step))}} for step in range(4)]
    found = []
    for point in (*checkpoint.POINTS, _DELETING):
        for count in (1, 2, 3):
            place = folder / f"{point}_{count}" / "checkpoints"
            for step in (1, 2):
                checkpoint.save(place, step, states[step], {}, keep_last=1)

            def third(point: str = point, count: int = count, place: Path = place) -> None:
                at_point(point, count, lambda _: os.kill(os.getpid(), signal.SIGKILL))
                if point == _DELETING:
                    _at_audit(count)
                checkpoint.save(place, 3, states[3], {}, keep_last=1)

            was_killed = exit_code(forked(third, folder / "log")) != 0
            found.append(look(place.parent, was_killed))
            newest, _ = checkpoint.load_newest(place)
            assert newest is not None
            assert torch.equal(newest.tensors["method"]["w"], states[newest.step]["method"]["w"])
            checkpoint.clean(place)
            assert all(name.startswith("step_") for name in os.listdir(place))
    return found


def main(folder: Path) -> None:
    """The small proof of test_crash.py, in a process of its own: what was seen after each kill, as JSON."""
    torch.set_num_threads(1)
    saves = killed_saves(folder / "saves")
    whole, cut = folder / "whole", folder / "cut"
    words: list[list[str | Path]] = [["pretrain", recipe(place, 12, 2)] for place in (whole, cut)]
    assert exit_code(forked(lambda: command(*words[0]), folder / "whole.log")) == 0
    kills = [Kill(point=point, times=2) for point in checkpoint.POINTS]
    runs = list(chain(cut, words[1], kills))
    assert exit_code(forked(lambda: command(*words[1]), folder / "cut.log")) == 0
    print(json.dumps({"saves": saves, "runs": runs}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
