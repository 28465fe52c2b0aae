"""`edgemim.runtime.report.unseen`: no calm words where nobody looked."""

from __future__ import annotations

from typing import Any

import pytest

from edgemim.runtime.report.cells import doubts
from edgemim.runtime.report.unseen import unseen


def report(*unknown: str, kind: str = "check", backend: str = "openvino") -> dict[str, Any]:
    row = {"name": "fp32", "backend": backend, "accuracy": None, "gates": []}
    rows = {"entries": [row]} if kind in ("compare", "sweep") else {"candidates": [row]}
    return {"kind": kind, "caveats": [], "environment": {"unknown": list(unknown), "marks": []}, **rows}


@pytest.mark.parametrize("kind", ["check", "bench", "compare", "sweep"])
def test_where_everything_was_read_there_is_nothing_to_say(kind: str) -> None:
    assert unseen(report(kind=kind)) == []
    assert doubts(report(kind=kind)) == []


@pytest.mark.parametrize(
    ("unknown", "told"),
    [
        (["cpu_mhz"], "the clock of its CPUs"),
        (["cpu_mhz", "temperatures_c"], "the clock of its CPUs or its temperatures"),
        (
            ["cpu_mhz", "temperatures_c", "others_cpu"],
            "the clock of its CPUs, its temperatures or what other processes take",
        ),
        (["fan_rpm"], "fan_rpm"),  # of a newer edgemim
    ],
)
def test_what_a_machine_does_not_tell_is_said_once(unknown: list[str], told: str) -> None:
    expected = f"this machine does not tell {told}: a change of that while measuring went unseen"
    assert doubts(report(*unknown)) == [expected]


def test_a_graphics_card_matters_where_something_ran_on_it() -> None:
    assert unseen(report("discrete_gpu")) == []
    (said,) = unseen(report("discrete_gpu", backend="tensorrt"))
    assert said.startswith("this machine does not tell the clock and the heat of its graphics card: ")


def test_a_backend_of_somebody_elses_program_is_no_error() -> None:
    assert unseen(report("discrete_gpu", backend="theirs")) == []


def test_a_report_without_a_watch_says_so() -> None:
    assert unseen(report() | {"environment": None}) == [
        "nobody watched the machine while this was measured: whether it was busy, hot or throttled is not known"
    ]


@pytest.mark.parametrize(("measured", "told"), [(0, 0), (1, 0), (2, 1)])
def test_a_sweep_without_a_final_says_that_its_entries_were_watched_apart(measured: int, told: int) -> None:
    entries = [{"backend": "openvino", "latency": {"p50_ms": 1.0}}] * measured
    entries.append({"backend": None, "latency": None})
    said = unseen(report(kind="sweep") | {"environment": None, "entries": entries})
    assert len(said) == told
    assert all(words.startswith("there was no measurement of all in turns") for words in said)


def test_what_boards_measured_is_told_by_their_own_reports() -> None:
    assert unseen({"kind": "boards", "boards": []}) == []
