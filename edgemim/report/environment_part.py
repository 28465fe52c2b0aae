"""The machine: what disturbed the numbers, what it did meanwhile, what it is, how it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgemim.report.markup import Column, Html, details, facts_table, join, marks, table, tag
from edgemim.report.page import Part
from edgemim.report.source import Source
from edgemim.runtime.report.cells import doubts, facts, sentence


def environment_part(source: Source) -> Part:
    """Doubts first, then the facts; the long lists are folded."""
    report = source.report
    environment = report.get("environment") or {}
    before, after = environment.get("before") or {}, environment.get("after") or {}
    remarks = doubts(report)
    calm = tag("p", "Nothing was seen to disturb the measurement.", class_="lead calm")
    content = [tag("h3", "Before you trust it"), marks(map(sentence, remarks)) if remarks else calm]
    if environment:
        content += [_watched(environment), _meanwhile(before, after)]
    content.append(
        details("The machine", facts_table(_known(facts(report["device"])), caption="Read before measuring."))
    )
    if report.get("protocol"):
        content.append(
            details("The protocol", facts_table(_known(facts(report["protocol"])), caption="As it was run."))
        )
    return Part(name="environment", title="Environment", content=join(content))


def _watched(environment: Mapping[str, Any]) -> Html:
    """What was seen from the first timed run to the last."""
    found = []
    for name, words in (("cpu_mhz", "CPU clock"), ("gpu_mhz", "GPU clock")):
        clock = environment.get(name)
        if clock:
            moved = f"{clock['low']:,.0f} to {clock['high']:,.0f} MHz, median {clock['median']:,.0f}"
            found.append((words, f"{moved}; {clock['start']:,.0f} at the start, {clock['end']:,.0f} at the end"))
    for zone, heat in (environment.get("temperatures_c") or {}).items():
        found.append(
            (f"temperature of {zone}", f"{heat['start']:.1f} to {heat['end']:.1f} °C, at most {heat['max']:.1f}")
        )
    for name, words in (
        ("others_cpu", "CPUs taken by other processes"),
        ("others_cpu_most", "the most of that between two readings"),
        ("steal", "CPUs taken by the hypervisor for others"),
    ):
        if environment.get(name) is not None:
            found.append((words, f"{environment[name]:.1%}"))
    if environment.get("throttled") is not None:
        found.append(("slowed down for heat", f"{environment['throttled']} times"))
    if environment.get("unknown"):
        found.append(("not told by this machine", ", ".join(environment["unknown"])))
    caption = f"Watched for {environment.get('seconds') or 0:.0f} s, {environment.get('readings') or 0:,} readings."
    return facts_table(found, caption=caption)


def _meanwhile(before: dict[str, Any], after: dict[str, Any]) -> Html:
    later = dict(facts(after))
    columns = (Column(name="fact", kind=""), Column(name="before", kind="free"), Column(name="after", kind="free"))
    pairs = ((name, value, later.get(name, "-")) for name, value in facts(before))
    lines = [("", cells) for cells in pairs if cells[1:] != ("-", "-")]
    return table(columns, lines, caption="The machine before and after the measurement.")


def _known(values: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, value in values if value != "-"]
