"""Latency: where the runs lie, how they went over time, and the percentiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemim.report.candidates_table import Field, candidates_table, part_of, value
from edgemim.report.distribution import distribution
from edgemim.report.look import Look, legend
from edgemim.report.markup import Html, bad, good, join, tag
from edgemim.report.page import Part
from edgemim.report.source import Source
from edgemim.report.trace import trace
from edgemim.runtime.report.cells import number


def latency_part(shown: Sequence[Look], source: Source) -> Part | None:
    """The part; None where nothing was timed."""
    timed = [look for look in shown if look.row["latency"] is not None]
    if not timed:
        return None
    protocol = source.report["protocol"]
    mode = f"Mode {protocol['mode']}: at" if protocol.get("mode") else "At"
    lead = (
        f"{mode} least {protocol['runs']:,} runs and {protocol['seconds']:g} s of each candidate, in "
        f"{protocol['rounds']} turns, {protocol['threads']} threads."
    )
    pictures = [picture for picture in (distribution(timed, source.samples), trace(timed, source.samples)) if picture]
    content = [tag("p", lead, class_="lead"), legend(timed, only_narrow=True), *pictures, _table(timed)]
    for bundle in source.report.get("bundles") or [source.report]:
        content += _preparing(bundle)
    return Part(name="latency", title="Latency", content=join(content))


def _preparing(bundle: Mapping[str, Any]) -> list[Html]:
    """How long it takes to prepare an image, where that was measured."""
    prepared = bundle["preprocessing"]
    if prepared.get("p50_ms") is None:
        return []
    of = f" of {bundle['name']}" if "name" in bundle else ""
    words = f"Preparing one image{of} (decoding, resizing, cropping) takes {prepared['p50_ms']:.3g} ms, the median of "
    return [tag("p", f"{words}{prepared['n']} runs.", class_="note")]


def _table(timed: Sequence[Look]) -> Html:
    fields = (
        Field(name="steady", cell=_steady, kind="", optional=True),
        *(Field(name=name, cell=value("latency", f"{name}_ms", 3)) for name in ("p50", "p90", "p99", "max")),
        Field(name="p90 estimate", cell=value("latency", "p90_estimate_ms", 3), optional=True),
        Field(name="on the device p50", cell=value("latency", "device_p50_ms", 3), optional=True),
        Field(name="with preprocessing p50", cell=_prepared, optional=True),
        Field(name="variation", cell=lambda look: f"{part_of(look, 'latency')['cv']:.0%}"),
        Field(name="runs", cell=lambda look: f"{part_of(look, 'latency')['n']:,}"),
    )
    caption = (
        "Milliseconds of a run. The p90 estimate is MLPerf's: at 99 % confidence 90 % of all runs keep it, if runs are "
        "independent. Steady: "
        "the medians of the rounds lie within 5 %. Variation: standard deviation over mean."
    )
    return candidates_table(timed, fields, caption=caption)


def _steady(look: Look) -> Html | None:
    latency = part_of(look, "latency")
    if latency["stable"] is None:
        return None
    return good("steady") if latency["stable"] else bad(f"{latency['spread']:.0%} apart")


def _prepared(look: Look) -> str:
    return number((part_of(look, "latency").get("with_preprocessing") or {}).get("p50_ms"), 3)
