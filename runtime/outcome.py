"""What a report comes to: the exit code of the command that wrote it.

A gate is missed only by something that ran. Where no candidate that was to be timed did, because its backend failed,
was killed or computed something else, the device has failed, with gates or without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemim.errors import EXIT_DEVICE, EXIT_GATE_MISSED, EXIT_OK, DeviceError

Row = Mapping[str, Any]


def exit_code(report: Mapping[str, Any]) -> int:
    """0, 1 for a missed gate, 3 where no candidate ran right; of several boards the highest of theirs.

    Args:
        report: Of any kind.
    """
    if "exit_code" in report:
        return int(report["exit_code"])
    if "candidates" in report and not any_ran(report["candidates"]):
        return EXIT_DEVICE
    return EXIT_OK if report["passed"] else EXIT_GATE_MISSED


def any_ran(rows: Sequence[Row]) -> bool:
    """Whether any candidate of a check or bench was timed; the run that is only the reference does not count."""
    return any(row["latency"] is not None for row in rows if not row["reference_only"])


def refuse_if_nothing_ran(report: Mapping[str, Any]) -> None:
    """Stop who needs numbers of a check.

    Raises:
        DeviceError: No candidate ran right; the line names each with its reason.
    """
    if not any_ran(report["candidates"]):
        raise DeviceError(report["verdict"])
