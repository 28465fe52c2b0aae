"""`edgemim inspect`: what an artifact holds and where it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgemim.commands import _options as o
from edgemim.commands._output import emit


def inspect(
    path: Annotated[Path, typer.Argument(help="A checkpoint, onnx, bundle or report folder.")],
    json: o.Json = False,
) -> None:
    """Verify an artifact and show what it is, what it holds and where it came from.

    Example: edgemim inspect runs/bundle --json
    """
    from edgemim.artifact import load_artifact

    artifact = load_artifact(path)
    if json:
        files = {name: {"sha256": r.sha256, "size": r.size} for name, r in artifact.files.items()}
        emit(
            {
                "path": str(path),
                "kind": artifact.kind,
                "fingerprint": artifact.fingerprint,
                "size_bytes": artifact.size,
                "files": files,
                "content": artifact.content,
                "provenance": artifact.provenance,
            },
            as_json=True,
        )
        return
    shown = {"kind": artifact.kind, "fingerprint": artifact.fingerprint, "size_bytes": artifact.size}
    emit(shown | {f"content.{k}": v for k, v in artifact.content.items()}, as_json=False)
    emit(
        {f"file {name}": f"{r.size} bytes, sha256 {r.sha256[:16]}" for name, r in artifact.files.items()}, as_json=False
    )
    emit({f"stage {i + 1}": _stage(p) for i, p in enumerate(artifact.provenance)}, as_json=False)


def _stage(record: object) -> str:
    assert isinstance(record, dict)
    facts = [f"{record['stage']} at {record['time']} by edgemim {record['edgemim']}"]
    if isinstance(record.get("data"), dict):
        facts.append(f"data {record['data'].get('spec')} ({record['data'].get('images')} images)")
    if isinstance(record.get("teacher"), dict):
        facts.append(f"teacher {record['teacher'].get('source')} (licence {record['teacher'].get('licence')})")
    if record.get("scores"):
        facts.append(", ".join(f"{k} {v:.4g}" for k, v in record["scores"].items()))
    return "; ".join(facts)
