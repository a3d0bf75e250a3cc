"""Signals are noted, and a process that was asked to end says so in its own way."""

import os
import signal

import pytest

from selfsup.interruption import SIGNALS, caught_signals, leave


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_are_noted(number: int) -> None:
    before = signal.getsignal(number)
    with caught_signals() as caught:
        os.kill(os.getpid(), number)
        with caught_signals() as inner:
            assert inner is caught
        assert caught == [number]
        assert signal.getsignal(number) != before
    assert signal.getsignal(number) == before


def test_a_second_interrupt_ends_a_single_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt_twice() -> list[int]:
        with caught_signals() as caught:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
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
        os.kill(os.getpid(), signal.SIGTERM)  # to those that leave last
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
