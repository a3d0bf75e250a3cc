"""Names the rank that hangs: every process tells its position, and a run in which nothing moves any more is ended.

Of several processes each one waits for the others in every step, so that one that hangs stops all, without a word. Here
each has a thread that publishes in the store of the launch where its process is: the step, the phase, the line of
Python, and a pulse. When a process has not moved for `hang_minutes`, or loses the connection to another, the positions
tell which one is behind, stopped or gone. It is named on standard error and in RUN/stuck.json, and the process ends
with a code of its own, 75, so that a launcher can start all of them again. The step pays for setting one attribute.
"""

import contextlib
import itertools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal, Self

import torch.distributed as dist

from selfsup import distributed
from selfsup.monitor.observer import Observer, Phase
from selfsup.runtime.positions import Position, find_stragglers, host_name, place_of
from selfsup.storage.checkpoint import StorageError, write_atomically

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: to start again may help
# These may take long by right: a process moves as long as it does not stay at one place of its Python code.
_LONG = ("starting", "compiling", "saving", "evaluating", "clustering")
_PULSE = 2.0  # seconds between two publications, at most
_CONFIRM = 4  # ticks until a process without a pulse counts as silent; a pulse that is there shows within two
_PATIENCE = 10.0  # seconds that the store may take to answer
_serial = itertools.count()  # every watch of this program has keys of its own; all processes count alike


def collective_timeout(minutes: float) -> timedelta:
    """For the process group: later than the watch, which knows more to say, but not never."""
    return timedelta(seconds=2 * 60 * minutes + 60)


class LostRank(ValueError):
    """Another process is gone or stuck; the message names it."""

    exit_code = EXIT_CODE


def _is_lost_connection(error: BaseException) -> bool:
    """Whether a collective operation failed, rather than this process itself."""
    words = ("gloo", "nccl", "connection", "timed out", "broken pipe")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


class Watch(Observer):
    """Watches over the processes of a run while it is entered; does nothing where there is only one.

    Args:
        minutes: without any movement, until the run is ended.
        folder: of the run; gets stuck.json.
        end: ends this process, at once and from any thread.

    Raises:
        LostRank: on leaving with an error of a collective operation; the message names the process that caused it.
    """

    def __init__(self, minutes: float, folder: Path, end: Callable[[int], Any] = os._exit) -> None:
        self.limit = 60 * minutes
        self.tick = min(_PULSE, self.limit / 10)
        self.path = folder / "stuck.json"
        self._end = end
        self._now: tuple[int, Phase, int, float] = (0, "starting", 0, time.monotonic())
        self._moved = time.monotonic()
        self._seen: tuple[Any, ...] = ()
        self._failed: FrameType | None = None  # where an error arose
        self._pulse = 0
        self._reachable = True  # the store
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def at(self, phase: Phase, step: int) -> None:
        """This process has come to here."""
        self._now = (self._now[0] + 1, phase, step, time.monotonic())

    def __enter__(self) -> Self:
        if distributed.is_distributed():
            self._begun = time.time()
            self._watched = threading.get_ident()
            # A connection of its own: torch may wait on the other for minutes.
            store = dist.PrefixStore(f"selfsup.watch.{next(_serial)}", dist.distributed_c10d._get_default_store())
            self._store: dist.Store = store.clone()
            self._store.set_timeout(timedelta(seconds=_PATIENCE))
            self._publish()
            self._thread = threading.Thread(target=self._watch, name="selfsup.watch", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        self._over.set()
        self._thread.join()
        if error is None:
            return
        self._failed = [frame for frame, _ in traceback.walk_tb(trace)][-1]
        if not _is_lost_connection(error):
            self._publish(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
            return
        verdict = self._verdict()
        self._tell("lost", verdict)
        raise LostRank("\n".join([*verdict.values(), "the same command goes on from the last checkpoint"])) from error

    def _watch(self) -> None:
        awake = time.monotonic()
        while not self._over.wait(self.tick):
            now = time.monotonic()
            if now - awake > max(30.0, 5 * self.tick):  # this process itself was stopped, and goes on
                self._moved = now
            awake = now
            self._publish()
            if self._idle() < self.limit - _CONFIRM * self.tick:  # which is how long the question takes
                continue
            verdict = self._verdict(only_if_stuck=True)
            if verdict and self._idle() >= self.limit and not self._over.is_set():
                self._tell("hang", verdict)
                self._end(EXIT_CODE)

    def _idle(self) -> float:
        """Seconds since this process moved."""
        _, phase, _, since = self._now
        seen = place_of(self._frame())[2]
        if seen != self._seen and phase in _LONG:
            self._moved = time.monotonic()
        self._seen = seen
        return time.monotonic() - max(since, self._moved)

    def _frame(self) -> FrameType | None:
        return self._failed or sys._current_frames().get(self._watched)

    def _publish(self, failure: str = "") -> None:
        self._pulse += 1
        beats, phase, step, _ = self._now
        place, waits, _ = place_of(self._frame())
        own = distributed.rank()
        position = Position(
            own, host_name(), os.getpid(), self._pulse, beats, phase, step, self._idle(), place, waits, failure
        )
        try:
            if self._reachable:
                self._store.set(str(own), json.dumps(position._asdict()))
        except RuntimeError:  # matters only when this process is stuck too
            self._reachable = False

    def _verdict(self, only_if_stuck: bool = False) -> dict[int, str]:
        """The ranks that hang, and why: by the first process that found out, else by the positions.

        With `only_if_stuck` it is nobody as long as all have a pulse and one of them moves.
        """
        found: dict[int, str] | None = self._answered(self._earlier)
        before = None if found else self._answered(self._positions)
        if not found and before and not any(p.failure for p in before):
            for _ in range(_CONFIRM):
                self._over.wait(self.tick) if only_if_stuck else time.sleep(self.tick)
                self._publish()
        after = None if found or not before else self._answered(self._positions)
        if found:
            return found
        if not before or not after:
            return self._written() or {0: _store_lost()}
        pulses = {p.rank: p.pulse for p in before}
        silent = {p.rank for p in after if p.pulse == pulses.get(p.rank) and p.rank != distributed.rank()}
        # Those that wait for one another stopped within a step of each other.
        moving = not silent and any(p.idle < 0.8 * self.limit for p in after) and not any(p.failure for p in after)
        return {} if only_if_stuck and moving else find_stragglers(after, silent)

    def _positions(self) -> list[Position]:
        return [self._position(rank) for rank in range(distributed.world_size())]

    def _position(self, rank: int) -> Position:
        if self._store.check([str(rank)]):
            return Position(**json.loads(self._store.get(str(rank))))
        return Position(rank, "a host unknown", 0, 0, -1, "starting", 0, self.limit, "not at this stage yet", False)

    def _earlier(self) -> dict[int, str]:
        if not self._store.check(["verdict"]):
            return {}
        return {int(rank): text for rank, text in json.loads(self._store.get("verdict")).items()}

    def _written(self) -> dict[int, str]:
        """The verdict in the run folder, if it is of this launch: the process with the store may have ended by it."""
        if not self.path.is_file() or self.path.stat().st_mtime < self._begun:
            return {}
        return {int(rank): text for rank, text in json.loads(self.path.read_text())["ranks"].items()}

    def _answered(self, question: Callable[[], Any]) -> Any:
        """What a question to the store gives, or None where the store does not answer."""
        answers: list[Any] = []

        def ask() -> None:
            with contextlib.suppress(RuntimeError):
                answers.append(question())

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(_PATIENCE)
        return answers[0] if answers else None

    def _tell(self, reason: Literal["hang", "lost"], verdict: dict[int, str]) -> None:
        """The first process to come here tells the others, the run folder and, of a hang, the terminal."""
        first = self._answered(lambda: self._store.add("told", 1) == 1)
        if first is False:
            return
        content = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "reason": reason, "ranks": verdict}
        content["positions"] = [position._asdict() for position in self._answered(self._positions) or []]
        self._answered(lambda: self._store.set("verdict", json.dumps(verdict)))
        with contextlib.suppress(StorageError):  # no shared disk any more: the terminal has to do
            write_atomically(self.path, (json.dumps(content, indent=1) + "\n").encode())
        if reason == "hang":
            lines = [f"selfsup: nothing has moved for {self.limit / 60:g} minutes", *verdict.values()]
            lines.append("the same command goes on from the last checkpoint; --hang-minutes sets how long is waited")
            # Not by `message`: the thread that is stuck may hold the lock of the terminal.
            os.write(2, ("\n".join(lines) + "\n").encode())
        if distributed.rank() == 0 and not _launcher_holds_store():
            time.sleep(min(3.0, 2 * self.tick))  # others ask the store, which ends with this process


def _launcher_holds_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _store_lost() -> str:
    if _launcher_holds_store():
        return "the launcher on the first node is gone, or cut off: its store does not answer"
    return "rank 0 is gone, stopped or cut off: its store does not answer"
