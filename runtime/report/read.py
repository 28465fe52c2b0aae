"""Reports read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgemim.artifact import load_artifact
from edgemim.errors import ArtifactError

SCHEMA_VERSION = 1
REPORT = "report.json"


def read_report(path: Path | str) -> dict[str, Any]:
    """Read `report.json` of a report folder, hashes checked.

    Raises:
        ArtifactError: Not a report, altered, or of another schema.
    """
    artifact = load_artifact(path, "report")
    report = json.loads(artifact.file(REPORT).read_text("utf-8"))
    if not isinstance(report, dict) or report.get("schema_version") != SCHEMA_VERSION:
        raise ArtifactError(f"{path}: {REPORT} is not of schema version {SCHEMA_VERSION}; check again")
    return report
