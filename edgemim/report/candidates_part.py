"""The candidates: how good against how fast, and all of them in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemim.report.candidates_table import Field, candidates_table, part_of, value
from edgemim.report.look import Look, legend
from edgemim.report.markup import Html, bad, good, join, plain, tag
from edgemim.report.page import Part
from edgemim.report.pareto import pareto
from edgemim.runtime.report.cells import state, with_error
from edgemim.runtime.report.check_page import run_in_words

_MOST_OF_REASON = 160


def candidates_part(shown: Sequence[Look], report: Mapping[str, Any]) -> Part:
    """Picture and table."""
    picture = pareto(shown, report)
    reason = "There is no accuracy to set against latency: the bundle has no evaluation images."
    content = [picture, legend(shown)] if picture else [tag("p", reason, class_="note")]
    return Part(name="candidates", title="Candidates", content=join([*content, _table(shown, report)]))


def _table(shown: Sequence[Look], report: Mapping[str, Any]) -> Html:
    fields = [
        *([Field(name="outcome", cell=_outcome, kind="")] if report["kind"] == "check" else []),
        Field(name="p50 ms", cell=value("latency", "p50_ms", 3)),
        Field(name="p99 ms", cell=value("latency", "p99_ms", 3)),
        Field(name="vs fp32", cell=_speed, optional=True),
        Field(name="top-1", cell=_top1, optional=True),
        Field(name="agreement", cell=value("accuracy", "agreement", 4), optional=True),
        Field(name="cosine", cell=value("accuracy", "cosine", 5), optional=True),
        Field(name="k-NN", cell=value("accuracy", "knn_agreement", 4), optional=True),
        Field(name="mJ a run", cell=value("power", "energy_mj", 2), optional=True),
        Field(name="peak MB", cell=value("memory", "peak_mb", 0), optional=True),
        Field(name="file MB", cell=lambda look: f"{look.row['size_bytes'] / 1e6:.2f}"),
    ]
    versus = list(dict.fromkeys(look.row["speed"]["versus"] for look in shown if look.row["speed"]))
    fastest = versus[0] if len(versus) == 1 else "the fastest fp32 of the same bundle"
    against = f" vs fp32: time over that of {fastest}." if versus else ""
    caption = f"Every candidate. Latency of {run_in_words(report)}, without preprocessing.{against}"
    return candidates_table(shown, fields, caption=caption)


def _speed(look: Look) -> str | None:
    speed = part_of(look, "speed")
    return f"{speed['ratio']:.2f}\N{MULTIPLICATION SIGN}" if speed else None


def _top1(look: Look) -> str:
    accuracy = part_of(look, "accuracy")
    return with_error(accuracy.get("top1"), accuracy.get("top1_se"))


def _outcome(look: Look) -> Html:
    row = look.row
    if look.chosen:
        return good("ships")
    if row["disqualified"] is not None:
        reason = str(row["disqualified"])
        shown = reason if len(reason) <= _MOST_OF_REASON else f"{reason[:_MOST_OF_REASON]}\N{HORIZONTAL ELLIPSIS}"
        return join([bad("disqualified"), tag("div", shown, class_="why")])
    return plain(state(row)) if row["passed"] or row["reference_only"] else bad(state(row))
