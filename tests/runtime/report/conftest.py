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

HERE = Path(__file__).parent


@pytest.fixture
def old_report(tmp_path: Path) -> Callable[..., Path]:
    """`old_report("check", schema=1)`: the folder of a report as it was written then; `change` alters what it says."""

    def write(name: str, change: Callable[[dict[str, Any]], object] | None = None, *, schema: int = 1) -> Path:
        stored = HERE / f"schema{schema}"
        report = json.loads((stored / f"{name}.json").read_text("utf-8"))
        if change is not None:
            change(report)
        with create_artifact(tmp_path / name, "report") as draft:
            draft.path("report.json").write_text(json.dumps(report))
            samples = stored / f"{name}-samples.npz"
            if samples.exists():
                shutil.copyfile(samples, draft.path("samples.npz"))
            draft.provenance = [{"stage": "check", "time": "2026-11-21T20:10:49+00:00", "edgemim": "0.1.0"}]
        return tmp_path / name

    return write
