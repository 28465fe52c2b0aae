"""`edgemim.runtime.nvidia.logger`: what is kept of what the library says. The package is a fake."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgemim.runtime.nvidia.library import load_library
from edgemim.runtime.nvidia.logger import Log, open_log


@pytest.fixture
def log(machine: Callable) -> Log:
    machine("10.3.0")
    return open_log(load_library())


def say(log: Log, severity: str, message: str) -> None:
    log.handle.log(log.handle.Severity[severity], message)


def test_there_is_one_per_package(log: Log, machine: Callable) -> None:
    assert open_log(load_library()) is log
    machine("8.6.1")
    assert open_log(load_library()) is not log


def test_errors_are_the_reasons_and_else_the_last_lines(log: Log) -> None:
    assert log.reasons() == "no reason was given"
    for number in range(5):
        say(log, "INFO", f"step\n{number}")
    assert log.reasons() == "step 2; step 3; step 4"
    say(log, "ERROR", "first")
    say(log, "INTERNAL_ERROR", "second")
    say(log, "WARNING", "third")
    assert log.reasons() == "first; second"
    log.clear()
    assert log.reasons() == "no reason was given"


def test_verbose_messages_are_kept_while_recording_only(log: Log) -> None:
    say(log, "VERBOSE", "before")
    with log.recording() as messages:
        say(log, "VERBOSE", "inside")
        say(log, "INFO", "too")
    say(log, "VERBOSE", "after")
    assert messages == ["inside", "too"]
    assert list(log.messages) == []


def test_a_long_build_does_not_fill_the_memory(log: Log) -> None:
    for number in range(5000):
        say(log, "INFO", str(number))
    assert len(log.messages) <= 500
    assert list(log.messages)[-1] == "4999"
