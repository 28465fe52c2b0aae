"""A check's page, or a bench's: its title, the numbers of what ships, and the parts in their order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgemim.report.candidates_part import candidates_part
from edgemim.report.environment_part import environment_part
from edgemim.report.flips_part import accuracy_part
from edgemim.report.gates_part import gates_part
from edgemim.report.latency_part import latency_part
from edgemim.report.look import looks
from edgemim.report.markup import Html, tile
from edgemim.report.page import Part
from edgemim.report.precision_part import precision_part
from edgemim.report.provenance_part import provenance_part
from edgemim.report.source import Source
from edgemim.report.start_part import start_part
from edgemim.runtime.report.cells import number
from edgemim.runtime.report.check_page import bundles_of


def check_title(report: Mapping[str, Any]) -> str:
    """What was measured, and where."""
    what = " and ".join(dict.fromkeys(bundle["architecture"] for bundle in bundles_of(report)))
    device = report["device"]
    return f"{what} on {device['board'] or device['cpu'] or device['machine']}"


def check_tiles(report: Mapping[str, Any]) -> list[Html]:
    """The numbers of what ships; none where nothing does."""
    chosen = next((look.row for look in looks(report) if look.chosen), None)
    if chosen is None:
        return []
    latency, memory = chosen["latency"] or {}, chosen.get("memory") or {}
    energy = (chosen["power"] or {}).get("energy_mj")
    tiles = [
        tile("Median latency", number(latency.get("p50_ms"), 3), "ms", f"{latency['n']:,} runs"),
        tile("99 % of runs within", number(latency.get("p99_ms"), 3), "ms", "p99"),
        *_accuracy_tile(chosen["accuracy"] or {}),
        tile("Model file", f"{chosen['size_bytes'] / 1e6:.2f}", "MB"),
    ]
    if memory.get("peak_mb") is not None:
        tiles.append(tile("Peak memory", number(memory["peak_mb"], 0), "MB", "of a process of its own"))
    if energy is not None:
        tiles.append(tile("Energy", number(energy, 1), "mJ", "a run"))
    return tiles


def check_parts(source: Source) -> list[Part]:
    """All parts, in the order of the page."""
    shown = looks(source.report)
    parts = [
        candidates_part(shown, source.report),
        latency_part(shown, source),
        accuracy_part(shown, source),
        precision_part(source),
        start_part(shown),
        gates_part(shown, source.report),
        environment_part(source),
        provenance_part(source),
    ]
    return [part for part in parts if part is not None]


def _accuracy_tile(accuracy: Mapping[str, Any]) -> list[Html]:
    """The best of the accuracies that there are."""
    images = f"{accuracy.get('n', 0):,} images"
    if accuracy.get("top1") is not None:
        error = f"\N{PLUS-MINUS SIGN} {100 * (accuracy['top1_se'] or 0):.1f}, {images}"
        return [tile("Top-1", f"{100 * accuracy['top1']:.1f}", "%", error)]
    if accuracy.get("agreement") is not None:
        return [tile("Agreement with fp32", f"{100 * accuracy['agreement']:.1f}", "%", images)]
    if accuracy.get("cosine") is not None:
        return [tile("Cosine with fp32", number(accuracy["cosine"], 4), "", images)]
    return []
