"""A report becomes an artifact."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from edgemim.artifact import Artifact, create_artifact, write_bytes, write_text
from edgemim.runtime.report.markdown import render_markdown
from edgemim.runtime.report.read import REPORT

ENGINE = "engine"


def write_report(
    out: Path,
    report: Mapping[str, Any],
    bundle: Artifact,
    samples: Mapping[str, npt.NDArray[Any]],
    *,
    engine: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write the report as an artifact whose provenance goes on from the bundle's.

    Args:
        engine: Folder of the chosen engine in the cache; copied to `engine/` with the facts it was built from.

    Raises:
        OutputError: `out` exists, or cannot be written.
    """
    with create_artifact(out, "report", overwrite=overwrite) as draft:
        write_text(draft.path(REPORT), json.dumps(report, indent=2, allow_nan=False) + "\n")
        write_text(draft.path("report.md"), render_markdown(report))
        buffer = io.BytesIO()  # numpy's own writing hides why a disk refused
        np.savez_compressed(buffer, **cast(Any, samples))
        write_bytes(draft.path("samples.npz"), buffer.getvalue())
        if engine is not None:
            shutil.copytree(engine, draft.path(ENGINE))
        keys = ("verdict", "passed", "chosen", "chosen_backend")
        draft.content = {key: report[key] for key in keys} | {"bundle": bundle.fingerprint}
        draft.provenance = [dict(record) for record in bundle.provenance]
        draft.record("check", bundle=bundle.fingerprint, passed=report["passed"])
