"""Launchers that start a run again, nodes that find each other, a scheduler that gives the time in pieces."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from selfsup.pretraining import Run, pretrain
from tests.support.launching import (
    FakeScheduler,
    Launch,
    Plan,
    arm,
    await_,
    namespaces_refused,
    recipe,
    same_weights,
    torchrun_started,
    two_nodes_started,
)
from tests.support.processes import run_processes
from tests.support.tiny import tiny_run

# How each launch of a run ends, in turn: what happens, where, and to which process.
SIGNALLED = (
    ("SIGUSR1", "start", (1,)),
    ("SIGTERM", "step", (1,)),
    ("SIGUSR1", "saving", (0,)),
    ("SIGINT", "step", (0,)),
    ("SIGUSR1", "evaluation", (1,)),
)


def chain(run: Run, whole: Run, marker: str) -> list[list[int]]:
    """Step and signal of every launch of `run`; before that `whole`, which nothing disturbs."""
    ended = [pretrain(whole)]
    for number, (act, place, ranks) in enumerate(SIGNALLED):
        arm(Plan(act, place, ranks, f"{marker}{number}", step=3 * number))
        ended.append(pretrain(run))
    ended.append(pretrain(run))
    return [[result["step"], result["signal"]] for result in ended]


@pytest.fixture(scope="module")
def signalled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[list[int]]]:
    """The folder with the runs "whole" and "cut" of two processes, and what `chain` gives in both."""
    folder = tmp_path_factory.mktemp("elastic")
    run = tiny_run(folder / "cut", save_minutes=0.0, evaluate_every=1, knn_bank=16, probe_l2=None)
    whole = replace(run, folder=str(folder / "whole"), evaluate_every=0)
    first, second = run_processes(2, chain, run, whole, str(folder / "marker"))
    assert first == second
    return folder, first


def test_a_signal_to_one_of_two_processes_stops_both_and_the_run_goes_on_exactly(
    signalled: tuple[Path, list[list[int]]],
) -> None:
    folder, ended = signalled
    assert ended[0] == [16, 0]
    assert ended[1] == [0, signal.SIGUSR1]  # before the first step
    assert ended[2] == [4, signal.SIGTERM]  # after the step at hand
    assert ended[3][1] == signal.SIGUSR1
    assert ended[4] == [10, signal.SIGINT]
    assert ended[5] == [16, 0]  # in the last evaluation: there is nothing left to stop
    assert same_weights(folder / "whole", folder / "cut")


def test_a_process_is_killed_on_one_of_two_nodes_and_the_restarted_run_ends_as_if_nothing_had_been(
    signalled: tuple[Path, list[list[int]]], tmp_path: Path
) -> None:
    """On a single node where the system allows no namespaces."""
    path = recipe(tmp_path / "recipe.py", tmp_path / "run", save_minutes=0.0, hang_minutes=0.1)
    plan = Plan("SIGKILL", "step", (0,), str(tmp_path / "marker"), step=5)
    start = torchrun_started if namespaces_refused() else two_nodes_started
    with start(tmp_path / "said", path, plan=plan, restarts=1) as launch:
        assert launch.wait(150) == [0], launch.errors()
        said = launch.errors()
        assert launch.result()["reason"] == "finished"
    assert "selfsup: rank 0 is gone" in said
    assert "going on from step" in said
    assert (tmp_path / "run" / "stuck.json").is_file()
    assert same_weights(signalled[0] / "whole", tmp_path / "run")


_PROGRAM = """#!/bin/sh
# Stands in for the interpreter: what the launcher on a node would do.
trap '{on_signal}' USR1
touch {ready}
[ -n "{at_once}" ] && {{ echo '{at_once}'; exit {code}; }}
while :; do sleep 0.02; done
"""
_STOPPED = 'echo "{\\"step\\": 3, \\"reason\\": \\"signal\\"}"; exit 1'


@pytest.mark.parametrize(
    ("on_signal", "at_once", "code", "warn", "expected", "requeues"),
    [
        (_STOPPED, "", 0, True, 0, 1),  # saved and stopped: goes on in the next job
        ("echo no room >&2; exit 2", "", 0, True, 2, 0),  # could not be saved
        (":", '{"reason": "finished"}', 0, False, 0, 0),
        (":", '{"reason": "signal"}', 1, False, 1, 0),  # somebody else stopped it
        (":", "", 0, False, 1, 0),
    ],
    ids=["stopped", "not-saved", "finished", "stopped-by-hand", "failed"],
)
def test_a_job_requeues_itself_only_where_the_run_was_stopped_and_saved(
    tmp_path: Path, on_signal: str, at_once: str, code: int, warn: bool, expected: int, requeues: int
) -> None:
    ready = tmp_path / "ready"
    program = tmp_path / "program"
    words = {"on_signal": on_signal, "ready": ready, "at_once": at_once, "code": code}
    program.write_text(_PROGRAM.format(**words) if warn or at_once else "#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    scheduler = FakeScheduler(tmp_path / "scheduler")
    with Launch(tmp_path / "said") as launch:
        job = scheduler.begin(launch, "recipe", "--folder", "x", PYTHON=str(program))
        if warn:
            await_(ready.exists, job, 20)
            os.kill(job.pid, signal.SIGUSR1)
        assert launch.wait(20) == [expected], launch.errors()
        assert bool(launch.result()) == bool(at_once or requeues)
    assert scheduler.requeues == requeues
