"""The signals that ask a run to stop."""

from __future__ import annotations

import signal
import threading

import pytest

from edgemim.errors import Preempted
from edgemim.training.saving.signals import INTERRUPT, PREEMPT, StopSignals, preemptible

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@pytest.mark.parametrize(
    ("sent", "asked"),
    [
        ([], 0),
        ([signal.SIGINT], INTERRUPT),
        ([signal.SIGTERM], PREEMPT),
        ([signal.SIGUSR1], PREEMPT),
        ([signal.SIGTERM, signal.SIGTERM], PREEMPT),
        ([signal.SIGINT, signal.SIGTERM], PREEMPT),
    ],
)
def test_what_came_is_noted_until_the_handlers_from_before_are_back(sent: list[int], asked: int) -> None:
    before = [signal.getsignal(number) for number in NUMBERS]
    signals = StopSignals()
    signals.install()
    try:
        for number in sent:
            signal.raise_signal(number)
        assert signals.asked == asked
    finally:
        signals.restore()
    assert [signal.getsignal(number) for number in NUMBERS] == before


@pytest.mark.parametrize("first", NUMBERS)
def test_ctrl_c_after_any_of_them_stops_at_once(first: int) -> None:
    signals = StopSignals()
    signals.install()
    try:
        signal.raise_signal(first)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signals.restore()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_outside_the_steps_a_run_ends_as_preempted(number: int) -> None:
    before = [signal.getsignal(n) for n in NUMBERS]
    with pytest.raises(Preempted, match="run the same command with --resume to go on") as caught, preemptible():
        signal.raise_signal(number)
    assert caught.value.exit_code == 75
    assert [signal.getsignal(n) for n in NUMBERS] == before


def test_between_the_two_the_steps_have_the_signals() -> None:
    with preemptible():
        signals = StopSignals()
        signals.install()
        signal.raise_signal(signal.SIGTERM)
        signals.restore()
        with pytest.raises(Preempted):
            signal.raise_signal(signal.SIGTERM)
    assert signals.asked == PREEMPT


def test_a_thread_beside_the_main_one_leaves_the_signals_alone() -> None:
    before = [signal.getsignal(n) for n in NUMBERS]
    found = []

    def run() -> None:
        with preemptible():
            StopSignals().install()
            found.extend(signal.getsignal(n) for n in NUMBERS)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == before
