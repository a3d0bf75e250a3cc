"""Where the processes of a run are, as they tell it, and which of them hold the others up."""

import socket
from types import FrameType
from typing import Any, NamedTuple

import psutil


class Position(NamedTuple):
    """Where one process is, as it told last."""

    rank: int
    host: str
    pid: int
    pulse: int  # publications so far
    beats: int  # phases entered so far; every process enters the same ones
    phase: str
    step: int
    idle: float  # seconds since it moved
    place: str  # innermost line of this package, and innermost line of all
    waits: bool  # for the other processes, inside a collective operation
    failure: str = ""  # the error that it ended with

    def told(self, state: str) -> str:
        return (
            f"rank {self.rank} {state}; it was last seen at step {self.step} ({self.phase}), {self.place} "
            f"[process {self.pid} on {self.host}]"
        )


def find_stragglers(positions: list[Position], silent: set[int]) -> dict[int, str]:
    """The ranks that hold the others up, and what is known of each.

    In this order: those that ended with an error or have no pulse any more; of those that are the fewest phases on, the
    ones that are not waiting for others; all that are behind; if every one waits at the same place, all of them.
    """
    gone = {p.rank: p.told(f"ended with {p.failure}") for p in positions if p.failure}
    gone |= {p.rank: p.told(_silence(p)) for p in positions if p.rank in silent and not p.failure}
    if gone:
        return gone
    fewest = min(p.beats for p in positions)
    behind = [p for p in positions if p.beats == fewest]
    busy = [p for p in behind if not p.waits]
    if not busy and len(behind) == len(positions):
        return {p.rank: p.told("waits for the others, as they all do") for p in positions}
    return {p.rank: p.told(f"has not moved for {p.idle:.0f} s") for p in busy or behind}


def _silence(position: Position) -> str:
    if position.host != host_name():
        return "does not answer: it is gone, stopped or cut off"
    try:
        status = psutil.Process(position.pid).status()
    except psutil.NoSuchProcess:
        status = psutil.STATUS_DEAD
    if status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
        return "is stopped by a signal"
    ended = status in (psutil.STATUS_DEAD, psutil.STATUS_ZOMBIE)
    return "is gone: it was killed" if ended else "does not answer"


def host_name() -> str:
    return socket.gethostname()


def place_of(frame: FrameType | None) -> tuple[str, bool, tuple[Any, ...]]:
    """Where a thread is, in words; whether it waits for other processes there; and the place as something to compare.

    A backward pass with DDP waits in C++, below one function of torch's; a tensor of many parts, below others.
    """
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    if not frames:
        return "nowhere", False, ()
    named = [(str(f.f_globals.get("__name__", "")), f) for f in frames]
    module, inner = next((pair for pair in named if not pair[0].startswith(("torch._ops", "torch._library"))), named[0])
    waits = module.startswith(("torch.distributed", "torch.nn.parallel")) or (
        module == "torch.autograd.graph" and inner.f_code.co_name == "_engine_run_backward"
    )
    ours = [f for name, f in named if name.startswith("selfsup.")]
    lines = dict.fromkeys(_line(f) for f in [*ours[:1], inner])
    return ", ".join(lines), waits, tuple((f.f_code, f.f_lasti) for f in frames)


def _line(frame: FrameType) -> str:
    return f"{frame.f_globals.get('__name__', '?')}:{frame.f_lineno} in {frame.f_code.co_name}"
