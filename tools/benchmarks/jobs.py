"""Some of many jobs at a time, each in a process of its own, in an order that lets each one find what it needs."""

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from selfsup.output import message


@dataclass(frozen=True)
class Job:
    """A command that leaves something behind."""

    name: str
    command: list[str]
    log: Path
    done: Callable[[], bool]  # whether what it leaves behind is there
    after: tuple[str, ...] = ()  # names of the jobs whose leavings it needs
    alone: bool = False  # beside no other job, so that it has all cores


def work_off(jobs: list[Job], at_once: int, ended: Callable[[], object]) -> None:
    """Carry out what is not done yet; `ended` is called after each job.

    Raises:
        ValueError: some failed; the others were carried out all the same, where they did not need those.
    """
    waiting = [job for job in jobs if not job.done()]
    named = {job.name: job for job in jobs}
    running: list[tuple[Job, subprocess.Popen[bytes], float]] = []
    failed: list[str] = []
    while waiting or running:
        for job in [job for job in waiting if all(named[name].done() for name in job.after)]:
            taken = len(running) >= at_once or any(other.alone for other, _, _ in running)
            if taken or (job.alone and running):
                break
            waiting.remove(job)
            job.log.parent.mkdir(parents=True, exist_ok=True)
            with open(job.log, "wb") as file:
                running.append((job, subprocess.Popen(job.command, stdout=file, stderr=file), time.monotonic()))
        if not running:
            break  # what is left waits for a job that failed
        time.sleep(0.5)
        for entry in [entry for entry in running if entry[1].poll() is not None]:
            running.remove(entry)
            job, process, begin = entry
            good = process.returncode == 0 and job.done()
            failed += [] if good else [job.name]
            left = len(waiting) + len(running)
            how = "done" if good else f"failed, see {job.log}"
            message(f"{job.name}: {how} ({time.monotonic() - begin:.0f} s), {left} left")
            ended()
    if failed:
        raise ValueError(f"{len(failed)} failed: {', '.join(failed)}")
