"""What starting takes, and memory and energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemim.report.candidates_table import Field, candidates_table, part_of, value
from edgemim.report.look import Look
from edgemim.report.markup import Html, join, tag
from edgemim.report.page import Part
from edgemim.runtime.report.cells import any_has, number, sentence, why_not


def start_part(shown: Sequence[Look]) -> Part:
    """Compile, load and first run; cold start and memory of a process of its own; energy."""
    rows = [look.row for look in shown]
    content = [_starting(shown)]
    if any_has(rows, "cold_start", "load_s") or any_has(rows, "memory", "peak_mb"):
        content.append(_cold(shown))
    if any_has(rows, "power", "mean_w"):
        content.append(_energy(shown))
    content += [
        tag("p", sentence(reason), class_="note") for reason in why_not(rows, ("cold_start", "memory", "power"))
    ]
    return Part(name="start", title="Start, memory and energy", content=join(content))


def _starting(shown: Sequence[Look]) -> Html:
    fields = (
        Field(name="compile s", cell=lambda look: _compile(look.row)),
        Field(name="first run then, ms", cell=lambda look: number(look.row["compile_first_ms"], 1), optional=True),
        Field(name="load s", cell=lambda look: number(look.row["load_s"], 2)),
        Field(name="first run then, ms", cell=lambda look: number(look.row["first_ms"], 1)),
    )
    caption = "Compiling, loading what was compiled, and the first run of each, in the check."
    return candidates_table(shown, fields, caption=caption)


def _compile(row: Mapping[str, Any]) -> str:
    return number(row["compile_s"], 2) + (" (earlier)" if row["compiled_before"] else "")


def _cold(shown: Sequence[Look]) -> Html:
    fields = (
        Field(name="import s", cell=value("cold_start", "import_s", 2), optional=True),
        Field(name="load s", cell=value("cold_start", "load_s", 2)),
        Field(name="first run ms", cell=value("cold_start", "first_ms", 1)),
        Field(name="peak MB", cell=value("memory", "peak_mb", 1)),
        Field(name="of it before importing", cell=value("memory", "base_mb", 1), optional=True),
        Field(name="on the device MB", cell=value("memory", "device_mb", 1), optional=True),
        Field(name="peak while compiling MB", cell=value("cold_start", "compile_peak_mb", 1), optional=True),
    )
    caption = "Cold start and resident memory of a process that does nothing else. 1 MB is 1,000,000 bytes."
    return candidates_table(shown, fields, caption=caption)


def _energy(shown: Sequence[Look]) -> Html:
    fields = (
        Field(name="mJ a run", cell=value("power", "energy_mj", 2)),
        Field(name="of it above idle", cell=value("power", "above_idle_mj", 2), optional=True),
        Field(name="mean W", cell=value("power", "mean_w", 2)),
        Field(name="peak W", cell=value("power", "peak_w", 2), optional=True),
        Field(name="idle W", cell=value("power", "idle_w", 2), optional=True),
    )
    scope = next((scope for look in shown if (scope := part_of(look, "power").get("scope"))), "")
    return candidates_table(shown, fields, caption=f"Power while the runs were timed: {scope}.")
