"""What a sweep came to, as a report artifact in the sweep's own folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from edgemim import __version__
from edgemim.artifact import Draft, seal
from edgemim.errors import first_of
from edgemim.pipeline.sweep.combinations import RANDOM, TRAINED, Combination
from edgemim.pipeline.sweep.entries import label, p50
from edgemim.pipeline.sweep.front import NEAR, pareto_front, score
from edgemim.pipeline.sweep.measure import FinalMeasured
from edgemim.pipeline.sweep.settings import SweepSettings
from edgemim.pipeline.sweep.warnings import told_once
from edgemim.runtime.caveats import about_latency
from edgemim.runtime.device import Device
from edgemim.runtime.latency.summary import Samples, summarise
from edgemim.runtime.report.read import REPORT, SAMPLES, SCHEMA_VERSION
from edgemim.runtime.report.write import put_report

Entry = Mapping[str, Any]

_FILES = (REPORT, "report.md", SAMPLES)
_NAMED = 5
_TIMED = "one image per run, from inputs in host memory to outputs in host memory; preprocessing is not included"
_FINALS = (
    "`latency` of an entry is from the check of its own combination, at a time of its own; `side_by_side` is of the "
    "finalists (the front, what is within {near:.0%} of it, and what is as near to the limit), all in turns, and counts"
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a sweep found.

    Attributes:
        entries: Of all combinations that are done, with `side_by_side` where there was a final.
        samples: Of the final, by index of the entry; empty without one.
        measured: The same by label, and the environment.
        left_out: Combinations that the minutes were too few for, and the seconds each would have taken (None: unknown).
        caveats: By name of the combination, what its report warns of.
        threads: Of one inference.
    """

    entries: list[dict[str, Any]]
    samples: Mapping[int, Samples]
    measured: FinalMeasured
    left_out: Sequence[tuple[Combination, float | None]]
    caveats: Mapping[str, Sequence[str]]
    threads: int


def make_report(settings: SweepSettings, outcome: Outcome, device: Device) -> dict[str, Any]:
    """What `report.json` says; docs/sweep.md explains it."""
    entries = outcome.entries
    front = pareto_front(entries, list(outcome.samples) or None)
    fitting = _fitting(entries, settings.max_ms)
    for index, entry in enumerate(entries):
        took = p50(entry)
        entry["fits"] = None if settings.max_ms is None or took is None else took <= settings.max_ms
        entry["finalist"] = index in outcome.samples
        entry["group"] = " ".join(score(entry)[0])
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "sweep",
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "edgemim": __version__,
        "verdict": _verdict(entries, front, fitting, settings.max_ms, len(outcome.left_out)),
        "passed": bool(fitting) if settings.max_ms is not None else bool(front),
        "target": settings.target,
        "budget": {"max_ms": settings.max_ms, "minutes": settings.minutes},
        "entries": entries,
        "front": front,
        "fits": None if settings.max_ms is None else fitting,
        "left_out": [
            {"model": c.model, "input": list(c.size), "source": c.source, "estimated_s": seconds}
            for c, seconds in outcome.left_out
        ],
        "caveats": _caveats(outcome),
        "device": device.to_dict(),
        "environment": outcome.measured.environment,
        "protocol": asdict(settings.protocol)
        | {"threads": outcome.threads, "timed": _TIMED, "finals": _FINALS.format(near=NEAR)},
    }


def write_sweep(out: Path, report: Mapping[str, Any], outcome: Outcome, combinations: Sequence[Combination]) -> None:
    """Make the sweep's folder a report artifact; what else lies in it is not part of it.

    Raises:
        OutputError: The disk refused.
    """
    for name in (*_FILES, "report.html"):  # of an earlier call that left combinations out
        (out / name).unlink(missing_ok=True)
    draft = Draft(folder=out, kind="report")
    put_report(draft, report, _arrays(outcome))
    draft.record(
        "sweep",
        target=report["target"],
        models={c.model: c.fingerprint or c.source for c in combinations},
        passed=report["passed"],
    )
    names = [name for name in _FILES if (out / name).is_file()]
    seal(out, "report", names, content=draft.content, provenance=draft.provenance)


def _fitting(entries: Sequence[Entry], max_ms: float | None) -> list[int]:
    """Of every model and size that fits, its best entry: by score, then by time; the best of them first."""
    best: dict[tuple[Any, ...], int] = {}
    for index, entry in enumerate(entries):
        took = p50(entry)
        if max_ms is None or took is None or took > max_ms:
            continue
        key = (entry["model"], *entry["input"])
        if key not in best or _rank(entry) < _rank(entries[best[key]]):
            best[key] = index
    return sorted(best.values(), key=lambda index: _rank(entries[index]))


def _rank(entry: Entry) -> tuple[Any, ...]:
    """Smaller is better: what is known by labels first, then closeness to fp32, then parameters; ties by time, and
    there a finalist before what was measured in another minute.
    """
    (name, *_), values = score(entry)
    known = ("top1", "agreement", "cosine", "parameters").index(name)
    return known, *(-value for value in values), entry["side_by_side"] is None, p50(entry)


def _verdict(
    entries: Sequence[Entry], front: Sequence[int], fitting: Sequence[int], max_ms: float | None, left_out: int
) -> str:
    """One sentence, lower case, without a full stop."""
    missing = f"; {left_out} of the combinations {'was' if left_out == 1 else 'were'} left out" if left_out else ""
    if max_ms is None:
        return f"the front: {_listed(entries, front)}{missing}"
    if fitting:
        return f"within {max_ms:g} ms: {_listed(entries, fitting)}{missing}"
    timed = [i for i, entry in enumerate(entries) if p50(entry) is not None]
    # The fastest of all is a finalist; a number from another minute must not beat it.
    finals = [i for i in timed if entries[i]["side_by_side"] is not None]
    fastest = min(finals or timed, key=lambda i: p50(entries[i]) or 0.0)
    return f"nothing fits in {max_ms:g} ms; the fastest is {_told(entries, fastest)}{missing}"


def _listed(entries: Sequence[Entry], indices: Sequence[int]) -> str:
    return first_of([_told(entries, index) for index in indices], most=_NAMED)


def _told(entries: Sequence[Entry], index: int) -> str:
    entry = entries[index]
    top1 = (entry["accuracy"] or {}).get("top1")
    return f"{label(entry, entries)} {p50(entry):.3g} ms{'' if top1 is None else f' (top-1 {top1:.3f})'}"


def _caveats(outcome: Outcome) -> list[str]:
    entries, found = outcome.entries, []
    random = sorted({entry["model"] for entry in entries if entry["source"] == RANDOM})
    if random:
        noise = any(str(entry["calibration"]).startswith("random:") for entry in entries)
        ranges = "; their INT8 ranges were measured on noise" if noise else ""
        found.append(f"random weights, of which nothing but speed and size is known{ranges}: {', '.join(random)}")
    resized = {e["model"] for e in entries if e["source"] == TRAINED and e["input"] != e["own_input"]}
    if resized:
        found.append(
            f"not measured at the size it was trained for: {', '.join(sorted(resized))}; its accuracy is what it is "
            "there, without training at that size"
        )
    if not outcome.samples and sum(p50(entry) is not None for entry in entries) > 1:
        why = f" ({outcome.measured.trouble})" if outcome.measured.trouble else ""
        found.append(f"there was no final{why}: latencies of different models come from different minutes")
    elif outcome.samples:
        found.append(
            "entries that are no finalists were measured at a time of their own; their latencies compare less well"
        )
    found += [
        f"left out, since the minutes were too few: {c.name}{'' if s is None else f' (about {s:.0f} s)'}"
        for c, s in outcome.left_out
    ]
    marks = (outcome.measured.environment or {}).get("marks", [])
    measured = [(label(entries[index], entries), summarise(samples)) for index, samples in outcome.samples.items()]
    found += [f"in the final, {line}" for line in (*marks, *about_latency(measured))]
    return [*found, *told_once({name: lines for name, lines in outcome.caveats.items() if lines})]


def _arrays(outcome: Outcome) -> dict[str, npt.NDArray[Any]] | None:
    """Every timed run of the final, by `MODEL-HxW.NAME@BACKEND`, and the machine meanwhile; None without a final."""
    if not outcome.samples:
        return None
    arrays: dict[str, npt.NDArray[Any]] = dict(outcome.measured.readings)
    for index, samples in outcome.samples.items():
        entry = outcome.entries[index]
        height, width = entry["input"]
        key = f"{entry['model']}-{height}x{width}.{entry['candidate']}@{entry['backend']}"
        arrays[f"{key}.ns"] = samples.nanoseconds
        arrays[f"{key}.round"] = samples.rounds
        if samples.start_ns is not None:
            arrays[f"{key}.start_ns"] = samples.start_ns - outcome.measured.origin_ns
    return arrays
