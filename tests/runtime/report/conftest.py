"""Reports as an older edgemim wrote them, sealed again as artifacts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgemim.artifact import create_artifact
from tests.runtime.compare.conftest import chosen, compared, hasty  # noqa: F401  (fixtures)

SCHEMA_1 = Path(__file__).parent / "schema1"


@pytest.fixture
def old_report(tmp_path: Path) -> Callable[..., Path]:
    """`old_report("check")` is the folder of a report that edgemim 0.1.0 wrote; `change` alters what it says."""

    def write(name: str, change: Callable[[dict[str, Any]], object] | None = None) -> Path:
        report = json.loads((SCHEMA_1 / f"{name}.json").read_text("utf-8"))
        if change is not None:
            change(report)
        with create_artifact(tmp_path / name, "report") as draft:
            draft.path("report.json").write_text(json.dumps(report))
            samples = SCHEMA_1 / f"{name}-samples.npz"
            if samples.exists():
                shutil.copyfile(samples, draft.path("samples.npz"))
            draft.provenance = [{"stage": "check", "time": "2026-11-21T20:10:49+00:00", "edgemim": "0.1.0"}]
        return tmp_path / name

    return write
