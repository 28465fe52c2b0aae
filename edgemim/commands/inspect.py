"""`edgemim inspect`: what an artifact holds and where it came from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgemim.commands import _options as o
from edgemim.commands._host_check import host_check_lines
from edgemim.commands._ladder import climb_ladder, tell_ladder
from edgemim.commands._output import emit
from edgemim.errors import ConfigError

if TYPE_CHECKING:
    from edgemim.artifact import Artifact

_SHOWN_VERSIONS = ("torch", "timm", "lightning")


def inspect(
    path: Annotated[Path, typer.Argument(help="A checkpoint, onnx, bundle or report folder.")],
    parity: Annotated[
        bool,
        typer.Option("--parity", help="Compare the flavours of an onnx artifact or a bundle, block by block."),
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option("--against", help="With --parity: the checkpoint that it came from.", metavar="CHECKPOINT"),
    ] = None,
    modules: Annotated[
        bool,
        typer.Option("--modules", help="With --parity: every module, not only those of the first block that departs."),
    ] = False,
    json: o.Json = False,
) -> None:
    """Verify an artifact and show what it is, what it holds and where it came from.

    Example: edgemim inspect runs/bundle --parity --against runs/classifier
    """
    from edgemim.artifact import load_artifact

    if (against or modules) and not parity:
        raise ConfigError("--against and --modules say how to compare; add --parity")
    artifact = load_artifact(path)
    host_check = artifact.content.get("host_check", [])
    ladder = climb_ladder(artifact, against=against, every_module=modules) if parity else None
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
                **({"host_check": host_check} if host_check else {}),
                **({"ladder": ladder} if ladder else {}),
            },
            as_json=True,
        )
    else:
        _tell(artifact)
    if ladder:
        tell_ladder(ladder, as_json=json)


def _tell(artifact: Artifact) -> None:
    shown = {"kind": artifact.kind, "fingerprint": artifact.fingerprint, "size_bytes": artifact.size}
    content = {f"content.{k}": v for k, v in artifact.content.items() if k != "host_check"}
    emit(shown | content | host_check_lines(artifact.content.get("host_check", [])), as_json=False)
    emit(
        {f"file {name}": f"{r.size} bytes, sha256 {r.sha256[:16]}" for name, r in artifact.files.items()}, as_json=False
    )
    emit({f"stage {i + 1}": _stage(p) for i, p in enumerate(artifact.provenance)}, as_json=False)


def _stage(record: object) -> str:
    assert isinstance(record, dict)
    facts = [f"{record['stage']} at {record['time']} by edgemim {record['edgemim']}"]
    facts += _training_facts(record)
    if isinstance(record.get("data"), dict):
        data, fingerprint = record["data"], str(record["data"].get("fingerprint", ""))[:16]
        facts.append(f"data {data.get('spec')} ({data.get('images')} images{fingerprint and f', {fingerprint}'})")
    if isinstance(record.get("teacher"), dict):
        facts.append(f"teacher {record['teacher'].get('source')} (licence {record['teacher'].get('licence')})")
    if record.get("scores"):
        facts.append(", ".join(f"{k} {v:.4g}" for k, v in record["scores"].items()))
    for change in record.get("changes", ()):
        facts.append(f"changed at step {change['step']}: {', '.join(change['changes'])}")
    return "; ".join(facts)


def _training_facts(record: dict[str, Any]) -> list[str]:
    """What was trained how and on what, of a record that a run wrote."""
    settings, result, versions = (record.get(name) for name in ("settings", "result", "versions"))
    facts = []
    if isinstance(settings, dict) and "seed" in settings:
        method = settings.get("method")
        name = method.get("name") if isinstance(method, dict) else None
        facts.append(f"{f'method {name}, ' if name else ''}seed {settings['seed']}")
    if isinstance(result, dict) and "device" in result:
        facts.append(f"{result.get('steps')} steps on {result['device']} in {result.get('precision')}")
    if isinstance(versions, dict):
        facts.append(", ".join(f"{name} {versions[name]}" for name in _SHOWN_VERSIONS if name in versions))
    return facts
