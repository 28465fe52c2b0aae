"""A check, or a bench, as a page of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemim.runtime.report.accuracy_table import accuracy_part
from edgemim.runtime.report.cells import (
    Row,
    any_has,
    doubts,
    facts,
    number,
    paragraphs,
    sentence,
    state,
    table,
    with_error,
)
from edgemim.runtime.report.start_tables import starting_parts


def check_page(report: Mapping[str, Any]) -> str:
    """The report in markdown; a bench has neither gates nor a choice."""
    rows, gated = report["candidates"], report["kind"] == "check"
    remarks = doubts(report)
    environment = report.get("environment") or {}
    parts = [
        f"# {_title(report)}",
        f"**{sentence(report['verdict'])}**",
        *_bundles(report),
        "## Candidates",
        _candidates(rows, gated=gated),
        _notes(report),
        *accuracy_part(rows),
        *starting_parts(rows),
        *(("## Gates", _gates(report)) if gated else ()),
        "## Before you trust it" if remarks else "",
        "\n".join(f"- {sentence(remark)}" for remark in remarks),
        "## Device",
        table(("fact", "value"), facts(report["device"])),
        *_environment(environment),
        "## Protocol",
        table(("setting", "value"), facts(report["protocol"])),
    ]
    return paragraphs(parts)


def _title(report: Mapping[str, Any]) -> str:
    where = report["device"]["cpu"] or report["device"]["machine"]
    what = " and ".join(dict.fromkeys(bundle["architecture"] for bundle in bundles_of(report)))
    if report["kind"] == "bench":
        return f"{what} on {where}"
    return f"{what} on {where}: {'passed' if report['passed'] else 'failed'}"


def bundles_of(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The bundles that were measured: one of a check, any number of a bench."""
    return list(report.get("bundles") or [report["bundle"]])


def reference_of(report: Mapping[str, Any]) -> str | None:
    """Whose answers the others are compared with, in words; of several bundles each has its own."""
    found = dict.fromkeys([report["reference"], *(bundle["reference"] for bundle in report.get("bundles") or [])])
    return " and ".join(name for name in found if name) or None


def _bundles(report: Mapping[str, Any]) -> list[str]:
    return [
        f"{bundle['parameters']:,} parameters, target `{bundle['target']}`, bundle `{bundle['fingerprint'][:16]}`."
        for bundle in bundles_of(report)
    ]


def _candidates(rows: Sequence[Row], *, gated: bool) -> str:
    galleries = any_has(rows, "accuracy", "knn_agreement")
    devices = any_has(rows, "latency", "device_p50_ms")
    estimates = any_has(rows, "latency", "p90_estimate_ms")
    prepared = any_has(rows, "latency", "with_preprocessing")
    energies = any_has(rows, "power", "energy_mj")
    head = (
        "candidate",
        "backend",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        *(("p90 estimate ms",) if estimates else ()),
        *(("with preprocessing p50 ms",) if prepared else ()),
        *(("on the device p50 ms",) if devices else ()),
        *(("mJ per run", "W") if energies else ()),
        "runs",
        "top-1",
        "agreement",
        "cosine",
        *(("k-NN agreement",) if galleries else ()),
        "MB",
        *(("",) if gated else ()),
    )
    lines = []
    for row in rows:
        latency, accuracy, power = row["latency"] or {}, row["accuracy"] or {}, row["power"] or {}
        whole = latency.get("with_preprocessing") or {}
        lines.append(
            (
                row["name"],
                row["backend"],
                *(number(latency.get(key), 3) for key in ("p50_ms", "p90_ms", "p99_ms")),
                *((number(latency.get("p90_estimate_ms"), 3),) if estimates else ()),
                *((number(whole.get("p50_ms"), 3),) if prepared else ()),
                *((number(latency.get("device_p50_ms"), 3),) if devices else ()),
                *((number(power.get("energy_mj"), 2), number(power.get("mean_w"), 2)) if energies else ()),
                number(latency.get("n"), 0),
                with_error(accuracy.get("top1"), accuracy.get("top1_se")),
                number(accuracy.get("agreement"), 4),
                number(accuracy.get("cosine"), 5),
                *((number(accuracy.get("knn_agreement"), 4),) if galleries else ()),
                f"{row['size_bytes'] / 1e6:.2f}",
                *((state(row),) if gated else ()),
            )
        )
    return table(head, lines)


def _notes(report: Mapping[str, Any]) -> str:
    reference, rows = reference_of(report), report["candidates"]
    against = f"Agreements and cosine are with {reference} on the same images. " if reference else ""
    images = images_in_words(rows)
    accuracy = f"Accuracy is of {images}, ± one standard error. " if images else ""
    return (
        f"{accuracy}{against}{_estimate_note(rows)}{_device_note(rows)}"
        f"Latency is of {run_in_words(report)}, without preprocessing; a dash was not measured."
    )


def images_in_words(rows: Sequence[Row]) -> str:
    """`2,000 images`, or `500 to 2,000 images` of several bundles; empty without any."""
    counts = sorted({row["accuracy"]["n"] for row in rows if row["accuracy"] is not None})
    if not counts:
        return ""
    return f"{counts[0]:,} images" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,} images, by bundle"


def run_in_words(report: Mapping[str, Any]) -> str:
    """What a run is of: `one image`, `a run of 8 images`, or of several bundles what each takes."""
    batches = {bundle.get("name"): bundle["batch"] for bundle in bundles_of(report)}
    words = {name: "one image" if batch == 1 else f"a run of {batch} images" for name, batch in batches.items()}
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    return ", ".join(f"{what} ({name})" for name, what in words.items())


def _estimate_note(rows: Sequence[Row]) -> str:
    told = any_has(rows, "latency", "p90_estimate_ms")
    note = "The p90 estimate is MLPerf's: at 99 % confidence 90 % of all runs keep it, if runs are independent. "
    return note if told else ""


def _device_note(rows: Sequence[Row]) -> str:
    told = any_has(rows, "latency", "device_p50_ms")
    return "Time on the device is the computing alone, without copies and waiting. " if told else ""


def _gates(report: Mapping[str, Any]) -> str:
    if not report["gates"]:
        return "None were set."
    lines = [
        (
            row["name"],
            row["backend"],
            gate["name"],
            f"{gate['limit']:g}",
            number(gate["value"], 4) if gate["reason"] is None else gate["reason"],
            gate_state(gate, in_markdown=True),
            report["gates"][gate["name"]]["from"],
        )
        for row in report["candidates"]
        for gate in row["gates"]
    ]
    return table(("candidate", "backend", "gate", "limit", "measured", "", "set by"), lines)


def gate_state(gate: Mapping[str, Any], *, in_markdown: bool = False) -> str:
    """`kept`, `missed`, or `not measured, allowed`."""
    if not gate["passed"]:
        return "**missed**" if in_markdown else "missed"
    return "kept" if gate["value"] is not None else "not measured, allowed"


def _environment(environment: Mapping[str, Any]) -> list[str]:
    """What the machine did meanwhile, and the marks that this leaves on the numbers."""
    before, after = environment.get("before") or {}, environment.get("after") or {}
    if not before and not after:
        return []
    texts = dict(facts(after))
    pairs = [(name, value, texts.get(name, "-")) for name, value in facts(before)]
    lines = [cells for cells in pairs if cells[1:] != ("-", "-")]
    return [
        "## While it was measured",
        table(("fact", "before", "after"), lines),
    ]
