"""What a ladder says: one sentence per step, and plain values for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgemim.export.ladder.agreement import EQUAL_DB, Agreement
from edgemim.export.ladder.climb import Ladder, Step

METHOD = (
    "ONNX Runtime on the CPU, node by node: no fusions, float16 values rounded, INT8 as QuantizeLinear and "
    "DequantizeLinear say; output_fused is with fusions and nothing tapped"
)

# Below twice the noise of the block before, most of it came from further up.
_BUILT_UP_DB = 3.0


def ladder_to_dict(ladder: Ladder) -> dict[str, Any]:
    """The ladder as plain values; `worst` is the sentence of the step that a reader should look at first."""
    return {
        "images": ladder.images,
        "method": METHOD,
        "notes": list(ladder.notes),
        "steps": [step_to_dict(step) for step in ladder.steps],
        "worst": sentence(worst(ladder)),
    }


def step_to_dict(step: Step) -> dict[str, Any]:
    """One step as plain values."""
    return {
        "name": step.name,
        "against": step.against,
        "verdict": sentence(step),
        "departs": step.departs,
        "departs_fused": step.departs_fused,
        "first_block": step.first,
        "culprit": step.culprit,
        "rescaled": list(step.rescaled),
        "suspect": list(step.suspect),
        "before_db": step.before_db,
        "least_db": step.limit.least_db,
        "tolerance": step.limit.tolerance,
        "blocks": _rows(step.blocks),
        "modules": _rows(step.modules),
        "output": None if step.output is None else step.output.to_dict(),
        "output_fused": None if step.fused is None else step.fused.to_dict(),
        "unmatched": step.unmatched,
        "passes": step.passes,
        "peak_tap_bytes": step.peak_bytes,
        "refusal": step.refusal,
    }


def worst(ladder: Ladder) -> Step:
    """The first step that departs, else one that could not be run, else the one that comes closest to its limit."""
    departing = [step for step in ladder.steps if step.departs or step.departs_fused]
    refused = [step for step in ladder.steps if step.refusal is not None]
    return next(iter([*departing, *refused]), None) or min(ladder.steps, key=_margin_db)


def sentence(step: Step) -> str:
    """What one step shows, and where to look."""
    if step.refusal is not None:
        return f"{step.name} cannot be compared here: {step.refusal}"
    parts = [_departure(step) if step.first is not None else _agreement(step), *_observation(step)]
    return "; ".join(parts)


def _agreement(step: Step) -> str:
    """Of a step in which no block departs."""
    output = f"{'departs' if step.output_departs else 'agrees'} ({_decibels(step.output)})"
    if not step.by_module:
        return f"{step.name}, compared with {step.against} alone, {output}"
    if not step.blocks:
        return (
            f"no module of {step.name} can be compared with {step.against}: its nodes do not name the torch modules "
            f"that they come from, or their shapes differ; its output {output}"
        )
    lowest = min(step.blocks, key=step.snr_db)
    follows = f"{step.name} follows {step.against} in all {len(step.blocks)} blocks"
    rest = f", but its output {output}" if step.output_departs else ""
    return f"{follows}, at least {_number(step.snr_db(lowest))} ({lowest}){rest}"


def _departure(step: Step) -> str:
    assert step.first is not None
    block = step.blocks[step.first]
    where = f"{step.name} departs from {step.against} first in {step.first}"
    if block.snr_db is None:
        return f"{where}: {step.culprit} gives values that are not finite"
    before = "" if step.before_db is None else f", {step.before_db:.1f} dB in the block before"
    measured = f"{where} ({_decibels(block)}{before})"
    if step.before_db is not None and step.before_db - block.snr_db < _BUILT_UP_DB:
        return f"{measured}: the noise has built up over the blocks before; most is added there by {step.culprit}"
    also = f", and at {', '.join(step.suspect)}, whose scales it should undo" if step.suspect else ""
    return f"{measured}: look at {step.culprit}{also}"


def _observation(step: Step) -> list[str]:
    """What it means if the output is another one where ONNX Runtime may fuse nodes and nothing is tapped."""
    fused = _decibels(step.fused)
    if step.departs_fused and not step.departs:
        if 0 <= _snr(step.output) - _snr(step.fused) < _BUILT_UP_DB:
            return [f"fused and untapped its output is hardly worse ({fused}), but below the limit"]
        return [f"but fused and untapped its output departs ({fused}): the graph is right, a kernel here is not"]
    if step.output_departs and not step.departs_fused:
        return [f"fused and untapped its output agrees ({fused}): these kernels are more precise than the graph says"]
    return []


def _margin_db(step: Step) -> float:
    values = [step.snr_db(name) for name in step.blocks] or [_snr(step.output)]
    return min(values) - step.limit.least_db


def _rows(found: Mapping[str, Agreement]) -> list[dict[str, Any]]:
    return [{"name": name, **agreement.to_dict()} for name, agreement in found.items()]


def _snr(found: Agreement | None) -> float:
    return -EQUAL_DB if found is None or found.snr_db is None else found.snr_db


def _decibels(found: Agreement | None) -> str:
    return "values that are not finite" if found is None or found.snr_db is None else _number(found.snr_db)


def _number(snr_db: float) -> str:
    return "no difference" if snr_db >= EQUAL_DB else f"{snr_db:.1f} dB"
