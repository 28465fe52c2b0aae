"""What the page is made of: the report, the samples beside it, and what was found out elsewhere."""

from __future__ import annotations

import functools
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.artifact import Artifact, load_artifact
from edgemim.errors import ArtifactError
from edgemim.runtime.report.read import SAMPLES, parse_report

Array = npt.NDArray[Any]
_SENSITIVITY = "sensitivity.json"


@dataclass(frozen=True)
class Source:
    """A report that was verified.

    Attributes:
        artifact: Its folder.
        report: `report.json`, of the present schema.
        parity: The ladder that `edgemim inspect --parity --json` prints, or None.
        sensitivity: What `edgemim sensitivity` wrote, or None.
        missing: Why there is no parity or no sensitivity, by their names.
    """

    artifact: Artifact
    report: Mapping[str, Any]
    parity: Mapping[str, Any] | None
    sensitivity: Mapping[str, Any] | None
    missing: Mapping[str, str]

    @functools.cached_property
    def samples(self) -> Mapping[str, Array]:
        """The arrays of `samples.npz`; none where the report has no such file."""
        if SAMPLES not in self.artifact.files:
            return {}
        try:
            with (
                open(self.artifact.file(SAMPLES), "rb") as stream,
                np.load(stream, allow_pickle=False) as arrays,
            ):
                return {name: arrays[name] for name in arrays.files}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ArtifactError(f"{self.artifact.path}: {SAMPLES} cannot be read: {error}; check again") from error

    def picture(self, name: str) -> bytes | None:
        """A file of the artifact, such as a thumbnail; None if there is none of this name."""
        return self.artifact.file(name).read_bytes() if name in self.artifact.files else None


def load_source(
    folder: Path, *, parity: Mapping[str, Any] | None = None, sensitivity: Path | None = None, why_no_parity: str = ""
) -> Source:
    """Read a report, hashes checked.

    Raises:
        ArtifactError: Not a report, of a newer schema, or `sensitivity` is not one.
    """
    artifact = load_artifact(folder, "report")
    missing = {
        "parity": why_no_parity or "run edgemim report with --parity BUNDLE to have each block compared with fp32",
        "sensitivity": "run edgemim sensitivity on the checkpoint, then edgemim report with --sensitivity DIR",
    }
    return Source(
        artifact=artifact,
        report=parse_report(artifact),
        parity=parity,
        sensitivity=None if sensitivity is None else _sensitivity(sensitivity),
        missing=missing,
    )


def read_ladder(file: Path) -> Mapping[str, Any]:
    """The ladder in what `edgemim inspect --parity --json` or `edgemim export --verify --json` printed.

    Raises:
        ArtifactError: No such file, or no ladder in it.
    """
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file} cannot be read as JSON: {error}") from error
    ladder = found.get("ladder") if isinstance(found, dict) else None
    if not isinstance(ladder, dict) or not isinstance(ladder.get("steps"), list):
        raise ArtifactError(
            f"{file} has no parity ladder; write one: edgemim inspect BUNDLE --parity --json > {file.name}"
        )
    return ladder


def _sensitivity(folder: Path) -> Mapping[str, Any]:
    artifact = load_artifact(folder, "report")
    found = json.loads(artifact.file(_SENSITIVITY).read_text("utf-8"))
    if not isinstance(found, dict) or found.get("schema_version") != 1:
        version = found.get("schema_version") if isinstance(found, dict) else None
        raise ArtifactError(f"{folder}: {_SENSITIVITY} has schema version {version!r}, 1 is read; measure it again")
    return found
