"""From bundles to a report: what `check` and `bench` have in common."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgemim import __version__
from edgemim.artifact import refuse_existing
from edgemim.errors import ConfigError
from edgemim.runtime.accuracy.flips import write_flips
from edgemim.runtime.cache import default_cache
from edgemim.runtime.caveats import caveats
from edgemim.runtime.device import Device, describe_device
from edgemim.runtime.environment.summary import Environment
from edgemim.runtime.gates import check_limits, check_names
from edgemim.runtime.latency.protocol import protocol_for
from edgemim.runtime.measuring import Progress, measure, protocol_facts
from edgemim.runtime.outcome import any_ran
from edgemim.runtime.report.read import FLIPS, SCHEMA_VERSION
from edgemim.runtime.report.write import write_report
from edgemim.runtime.rows import report_row
from edgemim.runtime.settings import CheckSettings
from edgemim.runtime.subject import Subject, open_subject
from edgemim.runtime.verdict import choose, label, ranking, verdict


def run(
    paths: Sequence[Path | str],
    out: Path | str,
    settings: CheckSettings,
    *,
    cache: Path | None,
    overwrite: bool,
    progress: Progress | None,
) -> dict[str, Any]:
    """See `edgemim.runtime.check.check_bundle` and `edgemim.runtime.bench.bench_bundles`."""
    out = Path(out)
    refuse_existing(out, overwrite=overwrite)
    if settings.threads is not None and settings.threads < 1:
        raise ConfigError(f"threads must be at least 1; got {settings.threads}")
    device = describe_device()
    names = [None] if len(paths) == 1 else short_names(paths)
    subjects = [open_subject(path, settings, device, name=name) for path, name in zip(paths, names, strict=True)]
    limits = _limits(subjects[0], settings) if settings.judge else {}
    allowed = check_names([*subjects[0].bundle.allow_unmeasured, *settings.allow_unmeasured])
    protocol = protocol_for(settings.mode, runs=settings.runs, seconds=settings.seconds, gates=limits)
    threads = settings.threads or device.default_threads
    found = measure(
        subjects,
        protocol,
        cache or default_cache(),
        threads,
        progress,
        rebuild=settings.rebuild,
        probes=settings.probe,
    )
    with tempfile.TemporaryDirectory(prefix="edgemim-") as scratch:
        folder = Path(scratch)
        judged = _judged(subjects, limits, allowed, judge=settings.judge)
        report = {
            **judged,
            "caveats": [
                *_let_pass(judged["candidates"]),
                *_left_open(judged["candidates"]),
                *_all_caveats(subjects, device, found.environment),
            ],
            **_described(subjects),
            "device": device.to_dict(),
            "environment": found.environment.to_dict(),
            "protocol": protocol_facts(subjects, protocol, threads),
            "gates": {name: _gate(name, limit, subjects[0], allowed) for name, limit in limits.items()},
        }
        # Of one bundle only: several have images, and classes, of their own each.
        one = subjects[0] if len(subjects) == 1 else None
        report["flips"] = [] if one is None else write_flips(folder, one.bundle, one.trials, one.reference)
        write_report(
            out,
            report,
            [subject.bundle.artifact for subject in subjects],
            found.arrays,
            engine=_chosen(report, subjects),
            flips=folder / FLIPS if report["flips"] else None,
            overwrite=overwrite,
        )
    return report


def short_names(paths: Sequence[Path | str]) -> list[str]:
    """A name for each bundle, each another: of its folder, with those above it where two are called alike."""
    parts = [Path(path).resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ConfigError("the same bundle was given twice")


def _limits(subject: Subject, settings: CheckSettings) -> dict[str, float]:
    return check_limits({**subject.bundle.gates, **settings.gates})


def _judged(
    subjects: Sequence[Subject], limits: Mapping[str, float], allowed: Sequence[str], *, judge: bool
) -> dict[str, Any]:
    """What it came to, and the row of every trial."""
    rows = [
        report_row(trial, subject.trials, limits, allowed, classifies=subject.bundle.classifies)
        for subject in subjects
        for trial in subject.trials
    ]
    chosen = choose(rows) if judge else None
    processor = subjects[0].trials[0].pair.backend.processor
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "check" if judge else "bench",
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "edgemim": __version__,
        "verdict": verdict(rows, chosen, processor) if judge else _ranked(subjects, rows, processor),
        "passed": chosen is not None if judge else any_ran(rows),
        "chosen": None if chosen is None else chosen["name"],
        "chosen_backend": None if chosen is None else chosen["backend"],
        "candidates": rows,
    }


def _ranked(subjects: Sequence[Subject], rows: Sequence[Mapping[str, Any]], processor: str) -> str:
    """What is fastest: of all bundles where all take the same images, else of each."""
    shapes = {(s.bundle.batch, *s.bundle.preprocess.size) for s in subjects}
    if len(shapes) == 1:
        return ranking(rows, processor)
    own = [[row for row in rows if row["name"].startswith(s.prefix)] for s in subjects]
    return "their inputs differ, so bundles are not compared; " + "; ".join(ranking(part, processor) for part in own)


def _described(subjects: Sequence[Subject]) -> dict[str, Any]:
    """The bundles, and what belongs to each: of a single one it stands at the top of the report."""
    if len(subjects) == 1:
        return {"bundle": subjects[0].describe(), **_beside(subjects[0]), "bundles": None}
    nothing = dict.fromkeys(("bundle", *_beside(subjects[0])))
    return {**nothing, "bundles": [{"name": s.name, **s.describe(), **_beside(s)} for s in subjects]}


def _beside(subject: Subject) -> dict[str, Any]:
    names = subject.bundle.class_names
    preparing = {"n": None, "p50_ms": None} if subject.preparing is None else subject.preparing.to_dict()
    return {
        "reference": None if subject.reference is None else subject.reference.label,
        "class_names": None if names is None else list(names),
        "preprocessing": {**subject.preparation, **preparing},
    }


def _let_pass(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The gates that nobody measured and that were kept all the same."""
    gates = [gate for row in rows for gate in row["gates"] if gate["allowed"]]
    return list(dict.fromkeys(gate["sentence"] for gate in gates))


def _left_open(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The gates that are kept by what was measured, and that the images are too few to vouch for: one line for each."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for gate in row["gates"]:
            if gate["may_be"] is not None:
                told = f"{label(row)} {gate['value']:.4f}, up to {gate['may_be']:.4f}"
                found.setdefault(gate["name"], []).append(told)
    limits = {gate["name"]: gate["limit"] for row in rows for gate in row["gates"]}
    return [
        f"{name}={limits[name]:g} is kept by what was measured, but the images are too few to vouch for it: "
        f"{'; '.join(rows_told)} (95 % interval)"
        for name, rows_told in found.items()
    ]


def _all_caveats(subjects: Sequence[Subject], device: Device, environment: Environment) -> list[str]:
    """Those of every bundle with its name; what all have, such as those of the machine, once and without."""
    found = {
        s.name: caveats(s.bundle, device, s.plan, s.trials, s.reference, s.preparation, environment) for s in subjects
    }
    shared = [line for line in found[subjects[0].name] if all(line in lines for lines in found.values())]
    return [*shared, *(f"{name}: {line}" for name, lines in found.items() for line in lines if line not in shared)]


def _gate(name: str, limit: float, subject: Subject, allowed: Sequence[str]) -> dict[str, Any]:
    return {
        "limit": limit,
        "from": "bundle" if subject.bundle.gates.get(name) == limit else "caller",
        "allowed_unmeasured": name in allowed,
    }


def _chosen(report: Mapping[str, Any], subjects: Sequence[Subject]) -> Path | None:
    """The folder of the engine that ships; None if nothing does, or its backend runs the bundle's own file."""
    wanted = (report["chosen"], report["chosen_backend"])
    trials = [trial for subject in subjects for trial in subject.trials]
    chosen = (t for t in trials if (t.name, t.pair.backend.name) == wanted and t.pair.timed)
    engine = next((trial.engine for trial in chosen), None)
    return None if engine is None else engine.folder
