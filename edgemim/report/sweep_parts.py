"""The parts of a sweep's page: the front of many models, and everything that was tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemim.report.distribution import distribution
from edgemim.report.environment_part import environment_part
from edgemim.report.look import final_looks, legend
from edgemim.report.markup import Column, Html, bad, good, html, join, plain, table, tag, tile
from edgemim.report.page import Part
from edgemim.report.provenance_part import chain
from edgemim.report.source import Source
from edgemim.report.sweep_chart import sweep_chart
from edgemim.report.trace import trace
from edgemim.runtime.report.cells import number, sentence, with_error
from edgemim.runtime.report.sweep_page import latency_of, models_in_words, size_in_words


def sweep_title(report: Mapping[str, Any]) -> str:
    """What was looked for, and where."""
    device = report["device"]
    models = models_in_words(report["entries"])
    return f"{models} for {report['target']}, on {device['board'] or device['cpu'] or device['machine']}"


def sweep_tiles(report: Mapping[str, Any]) -> list[Html]:
    """How much was tried, and what came of it."""
    entries = report["entries"]
    timed = [entry for entry in entries if latency_of(entry)]
    tiles = [tile("Measured", str(len(timed)), "", f"of {len(entries)} tried")]
    if report["budget"].get("max_ms") is not None:
        inside = [entry for entry in timed if latency_of(entry)["p50_ms"] <= report["budget"]["max_ms"]]
        tiles.append(tile("Within budget", str(len(inside)), "", f"p50 at most {report['budget']['max_ms']:g} ms"))
    tiles.append(tile("On the front", str(len(report["front"])), "", "nothing is faster and better"))
    return tiles


def sweep_parts(source: Source) -> list[Part]:
    """All parts, in the order of the page."""
    report = source.report
    reasons = dict.fromkeys(entry["accuracy_reason"] for entry in report["entries"] if entry.get("accuracy_reason"))
    content = [sweep_chart(report) or Html(""), _entries(report)]
    content += [tag("p", f"Where there is no accuracy: {sentence(reason)}", class_="note") for reason in reasons]
    parts = [Part(name="front", title="What fits", content=join(content)), _final(source), environment_part(source)]
    whence = Part(name="provenance", title="Where it comes from", content=chain(source.artifact.provenance))
    return [*(part for part in parts if part is not None), whence]


def _final(source: Source) -> Part | None:
    """How the finalists' runs lie and went, all in turns; None without a final."""
    shown = final_looks(source.report)
    pictures = [picture for picture in (distribution(shown, source.samples), trace(shown, source.samples)) if picture]
    if not pictures:
        return None
    lead = "Those on the front or near it, measured once more, all in turns: these latencies count."
    content = [tag("p", lead, class_="lead"), legend(shown, only_narrow=True), *pictures]
    return Part(name="final", title="Side by side", content=join(content))


def _entries(report: Mapping[str, Any]) -> Html:
    columns = (
        Column(name="model", kind=""),
        Column(name="input", kind=""),
        Column(name="candidate", kind=""),
        Column(name="backend", kind=""),
        Column(name="", kind=""),
        *(Column(name=name) for name in ("p50 ms", "p99 ms", "top-1", "parameters", "MB")),
    )
    lines = []
    for index, entry in sorted(enumerate(report["entries"]), key=lambda pair: _order(pair, report["front"])):
        latency, accuracy = latency_of(entry) or {}, entry["accuracy"] or {}
        size, parameters = entry["size_bytes"], entry["parameters"]
        cells = [
            tag("span", tag("span", index + 1, class_="id"), html(f" {entry['model']}"), class_="named"),
            size_in_words(entry),
            entry["candidate"],
            entry["backend"],
            _outcome(index, entry, report),
            *(number(latency.get(key), 3) for key in ("p50_ms", "p99_ms")),
            with_error(accuracy.get("top1"), accuracy.get("top1_se")),
            None if parameters is None else f"{parameters / 1e6:.2f} M",
            None if size is None else f"{size / 1e6:.2f}",
        ]
        lines.append(("chosen" if index in report["front"] else "out" if entry["error"] else "", cells))
    return table(columns, lines, caption="Everything that was tried: the front first, then by latency.")


def _order(numbered: tuple[int, Mapping[str, Any]], front: Sequence[int]) -> tuple[bool, bool, float]:
    index, entry = numbered
    latency = latency_of(entry)
    return index not in front, latency is None, 0.0 if latency is None else latency["p50_ms"]


def _outcome(index: int, entry: Mapping[str, Any], report: Mapping[str, Any]) -> Html:
    limit, latency = report["budget"].get("max_ms"), latency_of(entry)
    if latency is None:
        return join([bad("not measured"), tag("div", entry["error"] or "", class_="why")])
    if limit is not None and latency["p50_ms"] > limit:
        return plain("too slow")
    return good("on the front") if index in report["front"] else plain("beaten" if limit is None else "fits")
