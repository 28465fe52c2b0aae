"""A report as one page of text: the verdict first, then what it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def render_markdown(report: Mapping[str, Any]) -> str:
    """The report as one page: the verdict first, then what it rests on."""
    bundle = report["bundle"]
    state = "passed" if report["passed"] else "failed"
    parts = [
        f"# {bundle['architecture']} on {report['device']['cpu'] or report['device']['machine']}: {state}",
        f"**{_sentence(report['verdict'])}**",
        f"{bundle['parameters']:,} parameters, target `{bundle['target']}`, bundle `{bundle['fingerprint'][:16]}`.",
        "## Candidates",
        _candidates(report["candidates"]),
        _notes(report),
        "## Starting",
        _starting(report["candidates"]),
        "## Gates",
        _gates(report),
        "## Before you trust it" if report["caveats"] else "",
        "\n".join(f"- {_sentence(caveat)}" for caveat in report["caveats"]),
        "## Device",
        _table(("fact", "value"), _facts(report["device"])),
        "## Protocol",
        _table(("setting", "value"), _facts(report["protocol"])),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _candidates(rows: Sequence[Mapping[str, Any]]) -> str:
    galleries = any((row["accuracy"] or {}).get("knn_agreement") is not None for row in rows)
    devices = any((row["latency"] or {}).get("device_p50_ms") is not None for row in rows)
    energies = any((row["power"] or {}).get("energy_mj") is not None for row in rows)
    head = (
        "candidate",
        "backend",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        *(("on the device p50 ms",) if devices else ()),
        *(("mJ per run", "W") if energies else ()),
        "runs",
        "top-1",
        "agreement",
        "cosine",
        *(("k-NN agreement",) if galleries else ()),
        "MB",
        "",
    )
    lines = []
    for row in rows:
        latency, accuracy, power = row["latency"] or {}, row["accuracy"] or {}, row["power"] or {}
        lines.append(
            (
                row["name"],
                row["backend"],
                *(_number(latency.get(key), 3) for key in ("p50_ms", "p90_ms", "p99_ms")),
                *((_number(latency.get("device_p50_ms"), 3),) if devices else ()),
                *((_number(power.get("energy_mj"), 2), _number(power.get("mean_w"), 2)) if energies else ()),
                _number(latency.get("n"), 0),
                _with_error(accuracy.get("top1"), accuracy.get("top1_se")),
                _number(accuracy.get("agreement"), 4),
                _number(accuracy.get("cosine"), 5),
                *((_number(accuracy.get("knn_agreement"), 4),) if galleries else ()),
                f"{row['size_bytes'] / 1e6:.2f}",
                _state(row),
            )
        )
    return _table(head, lines)


def _state(row: Mapping[str, Any]) -> str:
    if row["disqualified"] is not None:
        return f"disqualified: {row['disqualified']}"
    if row["reference_only"]:
        return "reference only, not timed"
    return "passes" if row["passed"] else "misses a gate"


def _notes(report: Mapping[str, Any]) -> str:
    reference, rows = report["reference"], report["candidates"]
    against = f"Agreements and cosine are with {reference} on the same images. " if reference else ""
    accuracies = [row["accuracy"] for row in rows if row["accuracy"] is not None]
    images = f"Accuracy is of {accuracies[0]['n']:,} images, ± one standard error. " if accuracies else ""
    batch = report["protocol"]["batch"]
    run = "one image" if batch == 1 else f"a run of {batch} images"
    return f"{images}{against}{_device_note(rows)}Latency is of {run}, without preprocessing; a dash was not measured."


def _device_note(rows: Sequence[Mapping[str, Any]]) -> str:
    told = any((row["latency"] or {}).get("device_p50_ms") is not None for row in rows)
    return "Time on the device is the computing alone, without copies and waiting. " if told else ""


def _starting(rows: Sequence[Mapping[str, Any]]) -> str:
    """What compiling, loading and the first run of each candidate take."""
    lines = [
        (
            row["name"],
            row["backend"],
            _number(row["compile_s"], 2) + (" (by an earlier run)" if row["compiled_before"] else ""),
            _number(row["compile_first_ms"], 1),
            _number(row["load_s"], 2),
            _number(row["first_ms"], 1),
        )
        for row in rows
    ]
    return _table(("candidate", "backend", "compile s", "first run then, ms", "load s", "first run then, ms"), lines)


def _gates(report: Mapping[str, Any]) -> str:
    if not report["gates"]:
        return "None were set."
    lines = [
        (
            row["name"],
            row["backend"],
            gate["name"],
            f"{gate['limit']:g}",
            _number(gate["value"], 4) if gate["reason"] is None else gate["reason"],
            "kept" if gate["passed"] else "**missed**",
            report["gates"][gate["name"]]["from"],
        )
        for row in report["candidates"]
        for gate in row["gates"]
    ]
    return _table(("candidate", "backend", "gate", "limit", "measured", "", "set by"), lines)


def _facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key, _value(value)) for key, value in values.items()]


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items() if item is not None) or "-"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return "-" if value is None else str(value)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _with_error(value: float | None, error: float | None) -> str:
    return "-" if value is None else f"{value:.4f} ± {error or 0.0:.4f}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
