"""Of several processes the one that holds the others up is named."""

import json
import threading
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from selfsup.runtime.positions import Position, find_stragglers
from selfsup.runtime.watchdog import EXIT_CODE, LostRank, Watch
from tests.support.processes import run_processes


def position(rank: int, beats: int = 5, waits: bool = True, failure: str = "") -> Position:
    return Position(rank, f"host{rank}", 100 + rank, 7, beats, "step", 2, 60.0, "there", waits, failure)


@pytest.mark.parametrize(
    ("positions", "silent", "named"),
    [
        ([position(0), position(1, failure="ValueError: no")], {0}, {1: "ended with ValueError: no", 0: "does not"}),
        ([position(0, beats=1, waits=False), position(1)], {1}, {1: "does not answer"}),
        ([position(0), position(1, beats=4), position(2)], set(), {1: "has not moved for 60 s"}),
        ([position(0), position(1, waits=False), position(2)], set(), {1: "has not moved"}),
        ([position(0), position(1), position(2, beats=6)], set(), {0: "has not moved", 1: "has not moved"}),
        ([position(0), position(1)], set(), {0: "as they all do", 1: "as they all do"}),
    ],
)
def test_who_holds_the_others_up(positions: list[Position], silent: set[int], named: dict[int, str]) -> None:
    found = find_stragglers(positions, silent)
    assert found.keys() == named.keys()
    for rank, words in named.items():
        assert words in found[rank]
        assert f"rank {rank} " in found[rank]
        assert "step 2 (step), there" in found[rank]


def watched(minutes: float, folder: str) -> list[int]:
    """One process stays in Python, the other waits for it, until both are told to end."""
    codes: list[int] = []
    ended = threading.Event()

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    with Watch(minutes, Path(folder), end) as watch:
        watch.at("step", 3)
        if dist.get_rank() == 1:
            ended.wait()
        dist.barrier()
    return codes[:1]


def evaluated(minutes: float, folder: str) -> list[int]:
    """One process evaluates for longer than the limit, and moves in its code; the other waits for it."""
    codes: list[int] = []
    with Watch(minutes, Path(folder), codes.append) as watch:
        watch.at("evaluating", 3)
        end = time.monotonic() + 2.5 * 60 * minutes
        while dist.get_rank() == 1 and time.monotonic() < end:
            time.sleep(0.01)  # reads images
            time.sleep(0.01)  # encodes them
            time.sleep(0.01)  # compares features
        dist.barrier()
    return codes


def failing(folder: str) -> list[str]:
    """One process fails, the other finds its connection closed."""
    try:
        with Watch(0.2, Path(folder)) as watch:
            watch.at("loading", 7)
            dist.barrier()
            if dist.get_rank() == 1:
                raise LookupError("no such luck")
            time.sleep(0.5)
            raise RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:1")
    except (LostRank, LookupError) as error:
        return [type(error).__name__, str(error)]


def absent(folder: str) -> list[str]:
    """One process never comes."""
    if dist.get_rank() == 1:
        return []
    try:
        with Watch(0.02, Path(folder)):
            raise RuntimeError("[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:1")
    except LostRank as error:
        return [str(error)]


def all_in_turn(folder: str) -> list[list[str]]:
    codes = [watched(0.02, f"{folder}/hang"), evaluated(0.03, f"{folder}/slow")]
    return [*([str(code) for code in part] for part in codes), failing(f"{folder}/lost"), absent(f"{folder}/lost")]


def test_hangs_and_lost_connections_are_told_from_long_work(tmp_path: Path) -> None:
    for name in ("hang", "slow", "lost"):
        (tmp_path / name).mkdir()
    first, second = run_processes(2, all_in_turn, str(tmp_path))
    assert set(first[0] + second[0]) == {str(EXIT_CODE)}  # once one has ended, the other waits no longer
    assert first[1] == second[1] == []
    hang = json.loads((tmp_path / "hang" / "stuck.json").read_text())
    assert (hang["reason"], list(hang["ranks"])) == ("hang", ["1"])
    assert "step 3 (step)" in hang["ranks"]["1"]
    assert "test_watch:" in hang["ranks"]["1"] or "threading:" in hang["ranks"]["1"]
    assert [place["waits"] for place in hang["positions"]] == [True, False]
    assert not (tmp_path / "slow" / "stuck.json").exists()
    assert second[2] == ["LookupError", "no such luck"]
    assert first[2][0] == "LostRank"
    assert "rank 1 ended with LookupError: no such luck" in first[2][1]
    assert "rank 0" not in first[2][1]
    assert first[3][0].startswith("rank 1 does not answer")
    assert "not at this stage yet" in first[3][0]


def test_a_single_process_is_not_watched(tmp_path: Path) -> None:
    codes: list[int] = []
    with Watch(0.001, tmp_path, codes.append) as watch:
        watch.at("step", 1)
        time.sleep(0.2)
    assert not codes
    assert "selfsup.watch" not in {thread.name for thread in threading.enumerate()}
