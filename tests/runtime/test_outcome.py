"""`edgemim.runtime.outcome`: which exit code a report comes to."""

from __future__ import annotations

from typing import Any

import pytest

from edgemim.errors import DeviceError
from edgemim.runtime.outcome import exit_code, refuse_if_nothing_ran


def row(*, ran: bool, reference: bool = False) -> dict[str, Any]:
    return {"latency": {"p50_ms": 1.0} if ran else None, "reference_only": reference}


@pytest.mark.parametrize(
    ("report", "code"),
    [
        ({"passed": True, "candidates": [row(ran=True), row(ran=False)]}, 0),
        ({"passed": False, "candidates": [row(ran=True), row(ran=False)]}, 1),
        ({"passed": False, "candidates": [row(ran=False), row(ran=False)]}, 3),
        # The reference is never timed; that it ran is no candidate's merit.
        ({"passed": False, "candidates": [row(ran=False), row(ran=False, reference=True)]}, 3),
        ({"passed": False, "exit_code": 2, "devices": []}, 2),
        ({"passed": False, "kind": "sweep", "entries": []}, 1),
        ({"passed": True, "kind": "compare", "entries": []}, 0),
    ],
)
def test_the_exit_code_says_whether_a_gate_was_missed_or_nothing_ran(report: dict[str, Any], code: int) -> None:
    assert exit_code(report) == code


def test_who_needs_numbers_is_told_why_there_are_none() -> None:
    report = {"verdict": "no candidate runs right here: fp32 on fake: broken", "candidates": [row(ran=False)]}
    with pytest.raises(DeviceError, match="no candidate runs right here: fp32 on fake: broken"):
        refuse_if_nothing_ran(report)
    refuse_if_nothing_ran({"verdict": "", "candidates": [row(ran=True)]})
