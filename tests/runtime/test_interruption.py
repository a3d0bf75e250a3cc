"""Signals are noted, and a process that was asked to end says so in its own way."""

import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from selfsup.pretraining import pretrain
from selfsup.runtime.signals import SIGNALS, caught_signals, leave
from tests.support.tiny import tiny_run


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_are_noted(number: int) -> None:
    outside = signal.signal(number, signal.default_int_handler)  # the tests may run under nohup
    try:
        with caught_signals() as caught:
            signal.raise_signal(number)
            with caught_signals() as inner:
                assert inner is caught
            assert caught == [number]
            assert signal.getsignal(number) != signal.default_int_handler
        assert signal.getsignal(number) == signal.default_int_handler
    finally:
        signal.signal(number, outside)


def test_a_second_interrupt_ends_a_single_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt_twice() -> list[int]:
        with caught_signals() as caught:
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
            return caught

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()
    monkeypatch.setenv("WORLD_SIZE", "2")  # a launcher hands on what the terminal has told its processes already
    assert interrupt_twice() == [signal.SIGINT] * 2


@pytest.mark.parametrize(("restarts", "code"), [("0", 128 + signal.SIGTERM), ("2", 0)])
def test_a_launcher_does_not_restart_what_was_asked_to_stop(
    monkeypatch: pytest.MonkeyPatch, restarts: str, code: int
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        assert leave(signal.SIGTERM) == code
        signal.raise_signal(signal.SIGTERM)  # to those that leave last
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no terminals that hang up")
@pytest.mark.parametrize("launcher", [False, True])
def test_nohup_is_heard_except_below_torchrun(monkeypatch: pytest.MonkeyPatch, launcher: bool) -> None:
    """torchrun passes SIGHUP on and kills its ranks 30 seconds later, whatever nohup said."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    if launcher:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with caught_signals() as caught:
            signal.raise_signal(signal.SIGHUP)
        assert bool(caught) == launcher
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_in_a_thread_goes_without_signals_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results: list[dict[str, Any]] = []
    run = tiny_run(tmp_path / "run", max_steps=2)
    thread = threading.Thread(target=lambda: results.append(pretrain(run)))
    thread.start()
    thread.join()
    assert [result["step"] for result in results] == [2]
    assert capsys.readouterr().err.count("not in the main thread") == 1
