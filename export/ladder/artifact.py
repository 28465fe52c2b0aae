"""The ladder of an `onnx` artifact or a bundle, on its own golden images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.artifact import Artifact
from edgemim.errors import ArtifactError, ConfigError
from edgemim.export.ladder.climb import Ladder, Progress, climb
from edgemim.export.ladder.runs import Golden, OnnxRung
from edgemim.models.checkpoint import Checkpoint, load_checkpoint


def climb_artifact(
    artifact: Artifact,
    *,
    against: Path | None = None,
    every_module: bool = False,
    progress: Progress | None = None,
) -> Ladder:
    """Compare all flavours and candidates of an artifact with its fp32 flavour, and that with torch.

    Args:
        artifact: Of kind `onnx` or `bundle`.
        against: The checkpoint that it was exported from; without it, fp32 is compared with torch's golden outputs.
        every_module: Compare the modules inside every block, not only inside the first that departs.
        progress: Called with (steps done, steps in all).

    Raises:
        ArtifactError: Another kind, or no fp32 flavour.
        ConfigError: The checkpoint is of another architecture, or has other classes.
        DeviceError: ONNX Runtime cannot run the fp32 flavour.
        MissingDependencyError: onnxruntime is not installed.
    """
    if artifact.kind not in ("onnx", "bundle"):
        raise ArtifactError(f"{artifact.path} is a {artifact.kind}; parity is that of an onnx artifact or a bundle")
    golden = _golden(artifact)
    rungs = _rungs(artifact, golden)
    fp32 = next((rung for rung in rungs if rung.precision == "fp32"), None)
    if fp32 is None:
        names = ", ".join(rung.name for rung in rungs) or "none"
        raise ArtifactError(
            f"{artifact.path} has no fp32 flavour to compare others with, only {names}; export it again"
        )
    checkpoint = None if against is None else load_checkpoint(against)
    return climb(
        fp32,
        [rung for rung in rungs if rung is not fp32],
        golden,
        model=None if checkpoint is None else checkpoint.model,
        outputs=_load(artifact, "outputs"),
        notes=[] if checkpoint is None else _check_origin(artifact, checkpoint),
        every_module=every_module,
        progress=progress,
    )


def _rungs(artifact: Artifact, golden: Golden) -> list[OnnxRung]:
    """One per file: candidates that differ in options only compute the same graph."""
    entries = [*artifact.content.get("flavours", []), *artifact.content.get("candidates", [])]
    files = {entry["file"]: entry for entry in reversed(entries)}
    chosen = [entry for entry in entries if files[entry["file"]] is entry]
    return [OnnxRung(e["name"], e["precision"], artifact.file(e["file"]), golden) for e in chosen]


def _golden(artifact: Artifact) -> Golden:
    return Golden(images=_load(artifact, "inputs"), pixels=_load(artifact, "pixels"))


def _load(artifact: Artifact, name: str) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(artifact.file(artifact.content["golden"][name]), allow_pickle=False)
    return array


def _check_origin(artifact: Artifact, checkpoint: Checkpoint) -> list[str]:
    """Refuse a checkpoint that cannot be the origin, and note one that is not."""
    known = (artifact.content.get("architecture"), artifact.content.get("num_classes"))
    found = (checkpoint.architecture, checkpoint.num_classes)
    if found != known:
        raise ConfigError(
            f"{artifact.path} was exported from {known[0]} with {known[1]} classes, "
            f"{checkpoint.artifact.path} is {found[0]} with {found[1]}; name the checkpoint that it came from"
        )
    exported = [record.get("checkpoint") for record in artifact.provenance if record.get("stage") == "export"]
    if checkpoint.artifact.fingerprint in exported:
        return []
    return [f"{checkpoint.artifact.path} is not the checkpoint that this was exported from: its fingerprint differs"]
