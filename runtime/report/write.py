"""A report becomes an artifact."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from edgemim.artifact import Artifact, Draft, create_artifact, write_bytes, write_text
from edgemim.runtime.report.markdown import render_markdown
from edgemim.runtime.report.read import FLIPS, REPORT, SAMPLES

ENGINE = "engine"
_CONTENT = ("kind", "verdict", "passed", "chosen", "chosen_backend")

Arrays = Mapping[str, npt.NDArray[Any]]


def write_report(
    out: Path,
    report: Mapping[str, Any],
    bundle: Artifact | Sequence[Artifact],
    samples: Arrays,
    *,
    engine: Path | None = None,
    flips: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write the report as an artifact whose provenance goes on from the bundle's.

    Args:
        bundle: What was measured; of several, the provenance goes on from the first and names the others.
        engine: Folder of the chosen engine in the cache; copied to `engine/` with the facts it was built from.
        flips: Folder of thumbnails of flipped images, which need not exist; copied to `flips/`.

    Raises:
        OutputError: `out` exists, or cannot be written.
    """
    bundles = [bundle] if isinstance(bundle, Artifact) else list(bundle)
    with create_artifact(out, "report", overwrite=overwrite) as draft:
        put_report(draft, report, samples)
        for source, name in ((engine, ENGINE), (flips, FLIPS)):
            if source is not None and source.is_dir():
                shutil.copytree(source, draft.path(name))
        first, *others = (one.fingerprint for one in bundles)
        draft.content["bundle"] = first
        draft.provenance = [dict(record) for record in bundles[0].provenance]
        more = {"others": others} if others else {}
        draft.record(report["kind"], bundle=first, **more, passed=report["passed"])


def put_report(draft: Draft, report: Mapping[str, Any], samples: Arrays | None = None) -> None:
    """Put `report.json`, `report.md` and the samples into an artifact that is being written, and what it came to.

    For the kinds of report that are not of one bundle: `draft.content` is set, the provenance is the caller's.
    """
    write_text(draft.path(REPORT), json.dumps(report, indent=2, allow_nan=False) + "\n")
    write_text(draft.path("report.md"), render_markdown(report))
    if samples is not None:
        buffer = io.BytesIO()  # numpy's own writing hides why a disk refused
        np.savez_compressed(buffer, **cast(Any, samples))
        write_bytes(draft.path(SAMPLES), buffer.getvalue())
    draft.content = {key: report[key] for key in _CONTENT if key in report}
