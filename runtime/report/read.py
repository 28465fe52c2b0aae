"""Reports read back, of this schema and of older ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgemim import __version__
from edgemim.artifact import Artifact, load_artifact
from edgemim.errors import ArtifactError
from edgemim.runtime.report.upgrade import upgraded

SCHEMA_VERSION = 3
REPORT, SAMPLES, FLIPS = "report.json", "samples.npz", "flips"
KINDS = ("check", "bench", "compare", "sweep", "boards")


def read_report(path: Path | str) -> dict[str, Any]:
    """Read `report.json` of a report folder, hashes checked, as docs/report-schema.md describes it.

    A report of an older schema is brought up to this one: what it does not say is None or an empty list.

    Raises:
        ArtifactError: Not a report, altered, or of a newer schema.
    """
    return parse_report(load_artifact(path, "report"))


def parse_report(artifact: Artifact) -> dict[str, Any]:
    """`read_report` of an artifact that was verified.

    Raises:
        ArtifactError: As `read_report`.
    """
    try:
        report = json.loads(artifact.file(REPORT).read_text("utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{artifact.path}: {REPORT} is damaged: {error}; check again") from error
    version = report.get("schema_version") if isinstance(report, dict) else None
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise ArtifactError(
            f"{artifact.path}: {REPORT} has schema version {version!r}, this edgemim {__version__} reads 1 to "
            f"{SCHEMA_VERSION}; use the edgemim that wrote it, or check again"
        )
    report = upgraded(report, artifact.provenance) | {"schema_version": SCHEMA_VERSION}
    if report.get("kind") not in KINDS:
        raise ArtifactError(
            f"{artifact.path}: {REPORT} is of the unknown kind {report.get('kind')!r}; known: {', '.join(KINDS)}"
        )
    return dict(report)
