"""Signals and faults in any process, several nodes, and a scheduler that gives the time in pieces."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from tests.reliability.figure import Figure, Measured
from tests.support.launching import (
    FakeScheduler,
    Launch,
    Plan,
    await_,
    namespaces_refused,
    recipe,
    same_weights,
    started,
    steps_logged,
    torchrun_started,
    two_nodes_started,
)

_SECONDS = 30.0  # T of R10: what torch's launcher grants before it kills
_GRACE = 35.0  # of R11, beyond the time-out
_SETTINGS: dict[str, Any] = {"evaluate_every": 1, "knn_bank": 64, "probe_l2": None, "log_every": 1}


def _undisturbed(folder: Path, **changes: Any) -> Path:
    """The same run of two processes, whole."""
    path = recipe(folder / "whole.py", folder / "whole", **_SETTINGS | changes)
    with started(2, folder / "whole_said", path) as launch:
        if launch.wait(300) != [0, 0]:
            raise RuntimeError(launch.errors())
    return folder / "whole"


def measure_signals(folder: Path, quick: bool) -> Measured:
    """One run in a chain of launches, each ended by a signal: whichever, to whom, and wherever it meets them."""
    # Below nohup a closed terminal is not heard.
    acts = ("SIGTERM", "SIGINT", "SIGUSR1", *(("SIGHUP",) if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else ()))
    targets = ((1,),) if quick else ((0,), (1,), (0, 1))
    places = ("step", "evaluation", "saving")
    cases = [(act, place, ranks) for act in acts for ranks in targets for place in places]
    # An epoch of two steps: each launch of the chain goes on by one epoch at most.
    changes = {"epochs": len(cases) + 1, "batch_size": 64, "save_minutes": 0.0}
    whole = _undisturbed(folder, **changes)
    path = recipe(folder / "recipe.py", folder / "run", **_SETTINGS | changes)
    rows = []
    for number, (act, place, ranks) in enumerate(cases):
        plan = Plan(act, place, ranks, str(folder / f"marker{number}"))
        with started(2, folder / f"said{number}", path, plan=plan) as launch:
            codes = launch.wait(120)
            ended, result = time.time(), launch.result()
        sent = [json.loads(found.read_text())["time"] for found in folder.glob(f"marker{number}.*")]
        row = {"signal": act, "at": place, "ranks": ranks, "codes": codes, "seconds": round(ended - min(sent), 1)}
        right = codes == [128 + getattr(signal, act)] * 2 and len(sent) == len(ranks)
        saved = (folder / "run" / "checkpoints" / f"step_{result.get('step', -1):08d}").is_dir()
        rows.append(row | {"step": result.get("step"), "good": right and saved and row["seconds"] <= _SECONDS})
    with started(2, folder / "last", path) as launch:
        finished = launch.wait(120) == [0, 0]
    exact = finished and same_weights(whole, folder / "run")
    bad, longest = sum(not row["good"] for row in rows), max(row["seconds"] for row in rows)
    figure = (
        f"{len(rows) - bad} of {len(rows)} signals: saved, both processes ended with 128 + signal, at most "
        f"{longest:.0f} s later; after {len(rows) + 1} launches {'the same bits' if exact else 'OTHER WEIGHTS'}"
    )
    return Measured(figure, not bad and exact, details={"cases": rows, "exact": exact})


def _faulty(folder: Path, act: str, rank: int, minutes: float, whole: Path) -> dict[str, Any]:
    """One fault in one rank below torch's launcher, which may start the run again once."""
    folder.mkdir()
    path = recipe(folder / "recipe.py", folder / "run", **_SETTINGS, save_minutes=0.0, hang_minutes=minutes)
    plan = Plan(act, "step", (rank,), str(folder / "marker"), step=5)
    marker = folder / f"marker.{rank}"
    with torchrun_started(folder / "said", path, plan=plan, restarts=1) as launch:
        await_(marker.is_file, launch.processes[0])
        await_(lambda: bool(marker.read_text()), launch.processes[0])
        happened = json.loads(marker.read_text())["time"]
        launcher = psutil.Process(launch.processes[0].pid)
        first = [child for child in launcher.children() if child.create_time() < happened]
        psutil.wait_procs(first, timeout=180)
        ended = time.time()
        code = launch.wait(240)[0]
        said = launch.errors()
    stuck = folder / "run" / "stuck.json"
    named = json.loads(stuck.read_text())["ranks"] if stuck.is_file() else {}
    return {
        "fault": act,
        "rank": rank,
        "seconds": round(ended - happened, 1),
        "named": named,
        "in_time": ended - happened <= 60 * minutes + _GRACE,
        "right_name": list(named) == [str(rank)] and named[str(rank)] in said and "step" in named[str(rank)],
        "exact": code == 0 and same_weights(whole, folder / "run"),
    }


def measure_faults(folder: Path, quick: bool) -> Measured:
    minutes = 0.2
    acts = ("SIGKILL", "hang") if quick else ("raise", "SIGKILL", "hang", "SIGSTOP")
    cases = [(act, rank) for act in acts for rank in (0, 1)]
    whole = _undisturbed(folder)
    with ThreadPoolExecutor(2) as pool:  # they wait most of the time
        found = [pool.submit(_faulty, folder / f"{act}{rank}", act, rank, minutes, whole) for act, rank in cases]
        rows = [case.result() for case in found]
    in_time, named, exact = (sum(row[name] for row in rows) for name in ("in_time", "right_name", "exact"))
    figure = (
        f"{in_time} of {len(rows)} faults ended the run within {60 * minutes:.0f} + {_GRACE:.0f} s "
        f"(at most {max(row['seconds'] for row in rows):.0f} s); {named} named the rank; "
        f"{exact} restarted to the same bits"
    )
    return Measured(figure, in_time == named == exact == len(rows), details={"cases": rows})


def measure_nodes(folder: Path, quick: bool) -> Measured:
    if refused := namespaces_refused():
        return Measured("not run", None, refused)
    whole = _undisturbed(folder)
    path = recipe(folder / "recipe.py", folder / "run", **_SETTINGS)
    with two_nodes_started(folder / "said", path) as launch:
        codes = launch.wait(240)
    exact = codes == [0] and same_weights(whole, folder / "run")
    figure = f"two nodes in two network namespaces: {'the same bits' if exact else 'NOT the same bits'} as one node"
    return Measured(figure, exact, details={"codes": codes})


def _job(scheduler: FakeScheduler, said: Path, words: list[str], until: Callable[[], bool] | None) -> dict[str, Any]:
    """One job; SLURM warns it once something holds. Returns its exit code and what it printed."""
    with Launch(said) as launch:
        job = scheduler.begin(launch, *words, PROCESSES_PER_NODE="2", RESTARTS="1")
        if until:
            await_(until, job)
            os.kill(job.pid, signal.SIGUSR1)
        try:
            code = job.wait(240)
        except subprocess.TimeoutExpired:
            code = -1
        return {"code": code, **launch.result()}


def measure_slurm(folder: Path, quick: bool) -> Measured:
    whole, scheduler = _undisturbed(folder), FakeScheduler(folder / "scheduler")
    run = folder / "run"
    words = [str(recipe(folder / "recipe.py", run, **_SETTINGS))]
    jobs = [_job(scheduler, folder / "job0", words, lambda: steps_logged(run) > 2)]
    requeues = [scheduler.requeues]
    jobs.append(_job(scheduler, folder / "job1", words, None))
    requeues.append(scheduler.requeues)
    jobs.append(_job(scheduler, folder / "job2", [*words, "--batch-size", "7"], None))  # fails
    requeues.append(scheduler.requeues)
    exact = jobs[1].get("reason") == "finished" and same_weights(whole, run)
    good = requeues == [1, 1, 1] and exact and jobs[1]["code"] == 0 and jobs[2]["code"] != 0
    figure = (
        f"warned at step {jobs[0].get('step')}: saved and requeued {requeues[0]} time; the second job "
        f"{'finished with the same bits' if exact else 'DID NOT finish with the same bits'}, "
        f"requeued {requeues[1] - requeues[0]} times; a job that failed {requeues[2] - requeues[1]} times"
    )
    return Measured(figure, good, details={"jobs": jobs, "requeues": requeues})


FIGURES: tuple[Figure, ...] = (
    Figure(
        "R10",
        f"a signal to any process, anywhere: saved, all ended within {_SECONDS:.0f} s, exact resume",
        5,
        measure_signals,
    ),
    Figure("R11", "a fault in any process: ended in the time-out + 35 s, named, restarted exactly", 5, measure_faults),
    Figure("nodes", "two nodes give the same bits as one", 1, measure_nodes),
    Figure("slurm", "a warned job is saved, requeued, and finished by the next one", 1, measure_slurm),
)
