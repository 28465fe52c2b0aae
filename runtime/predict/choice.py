"""Which candidate of a bundle a program runs, and on which backend: what the user says, or what a check found.

In this order, and never another one in silence:

1. the candidate that was named
2. the one that a report chose, where a report was given
3. the one that a check on this device chose, where its report lies beside the bundle (`BUNDLE-report`)
4. the one that was chosen when the bundle was made (`--precision auto`)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgemim.errors import ArtifactError, ConfigError
from edgemim.runtime.backends._base import Backend
from edgemim.runtime.bundle import Bundle, load_bundle
from edgemim.runtime.device import Device
from edgemim.runtime.plan import Pair, make_plan
from edgemim.runtime.report.read import REPORT, read_report

# Facts of a device that decide which candidate is fastest on it; load and temperature come and go.
_IDENTITY = ("machine", "board", "cpu", "chip", "gpu", "isa", "isa_cap")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One candidate on one backend.

    Attributes:
        threads: Of one inference: those asked for, or of the check that chose it, or the device's cores.
        by: Who chose it, in words.
        report: The report of this device that chose it; None: it was chosen elsewhere, or by the user.
    """

    bundle: Bundle
    pair: Pair
    threads: int
    by: str
    report: Path | None


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What a report or a manifest says; without a `candidate`, `trouble` says why it names none."""

    candidate: str | None = None
    backend: str | None = None
    threads: int | None = None
    by: str = ""
    report: Path | None = None
    trouble: str = ""


def find_choice(
    path: Path | str,
    device: Device,
    *,
    candidate: str | None = None,
    backend: str | Backend | None = None,
    threads: int | None = None,
) -> Choice:
    """The candidate to run of a bundle, or of the bundle that a report names; see the module for the order.

    Args:
        path: A bundle folder, or a report folder.
        device: This machine.
        candidate: Its name.
        backend: By default the one that was chosen with the candidate; for a candidate that was named, the first of
            the target's that is installed and can run it.
        threads: Of one inference.

    Raises:
        ArtifactError: Neither a bundle nor a report, an altered one, or the bundle of a report is gone or altered.
        ConfigError: An unknown name, a candidate that cannot run here, or nothing that says which one to run.
        MissingDependencyError: The backend's package is not installed.
        DeviceError: What the backend runs on is not there.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1; got {threads}")
    path = Path(path)
    if (path / REPORT).is_file():
        report = read_report(path)
        bundle = _bundle_of(path, report)
        found = _from_report(path, report, device)
    else:
        bundle = load_bundle(path)
        found = _Found() if candidate else _beside(path, bundle, device)
    if candidate is not None:
        found = _Found(candidate=candidate, by="asked for")
    if found.candidate is None:
        names = ", ".join(c.name for c in bundle.candidates)
        folder = bundle.artifact.path
        raise ConfigError(
            f"{path} {found.trouble}; name one of its candidates ({names}), or run: edgemim check {folder}"
        )
    wanted = backend or found.backend
    plan = make_plan(bundle, None if wanted is None else [wanted], [found.candidate], device)
    pair = next(pair for pair in plan.pairs if pair.timed)
    used = threads or found.threads or device.default_threads
    return Choice(bundle=bundle, pair=pair, threads=used, by=found.by, report=found.report)


def same_device(described: Mapping[str, Any], device: Device) -> bool:
    """Whether the device of a report is one like this, on which the same candidate is the fastest."""
    here = device.to_dict()
    return all(described.get(name) == here[name] for name in _IDENTITY)


def _bundle_of(path: Path, report: Mapping[str, Any]) -> Bundle:
    """The bundle that a report is about: where it was then, or beside the report.

    Raises:
        ArtifactError: It is gone, or another one.
    """
    told = report.get("bundle")
    if not isinstance(told, Mapping):
        raise ArtifactError(f"{path} is a report about several bundles; name a bundle, or the report of one check")
    recorded = Path(str(told["path"]))
    places = [place for place in (recorded, path.absolute().parent / recorded.name) if place.exists()]
    if not places:
        raise ArtifactError(
            f"{path} is about the bundle {recorded}, which is gone; copy it to the folder of the report"
        )
    for place in places:
        bundle = load_bundle(place)
        if bundle.artifact.fingerprint == told["fingerprint"]:
            return bundle
    raise ArtifactError(
        f"{path} is about another bundle than {places[0]} is now; run: edgemim check {places[0]} --overwrite"
    )


def _from_report(path: Path, report: Mapping[str, Any], device: Device) -> _Found:
    if report["kind"] != "check":
        return _Found(trouble=f"is a report of the kind {report['kind']!r}, which chooses nothing")
    if report["chosen"] is None:
        return _Found(trouble=f"chose nothing ({report['verdict']})")
    return _Found(
        candidate=report["chosen"],
        backend=report["chosen_backend"],
        threads=report["protocol"].get("threads"),
        by=f"chosen by the check in {path}",
        report=path if same_device(report["device"], device) else None,
    )


def _beside(path: Path, bundle: Bundle, device: Device) -> _Found:
    """What the default report of the bundle says if it fits, else what the bundle says of itself."""
    place = Path(os.path.abspath(path))
    folder = place.with_name(f"{place.name}-report")
    report = read_report(folder) if (folder / REPORT).is_file() else {"kind": None}
    trouble = "was not checked on this device"
    if report["kind"] == "check":
        unfit = _unfit(report, bundle, device)
        if unfit is None:
            found = _from_report(folder, report, device)
            return (
                found if found.candidate else replace(found, trouble=f"was checked, and {folder.name} {found.trouble}")
            )
        trouble = f"{trouble} ({folder.name} is {unfit})"
    chosen = (bundle.artifact.content.get("choice") or {}).get("chosen")
    if chosen is None:
        return _Found(trouble=f"{trouble}, and names no choice of its own")
    return _Found(candidate=chosen["name"], backend=chosen["backend"], by="chosen when the bundle was made")


def _unfit(report: Mapping[str, Any], bundle: Bundle, device: Device) -> str | None:
    """Why a check says nothing of this bundle on this device, or None if it does."""
    if report["bundle"]["fingerprint"] != bundle.artifact.fingerprint:
        return "about another bundle"
    return None if same_device(report["device"], device) else "of another one"
