"""Put every flavour of an `onnx` artifact through one change, and prove that each still computes what it did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgemim.artifact import Artifact, create_artifact, load_artifact, refuse_existing
from edgemim.errors import ArtifactError, EdgemimError
from edgemim.export.parity import Parity, check_parity, run_onnx
from edgemim.runtime.accuracy.golden import compare_golden

# Under which name the golden images lie that a graph of this encoding takes.
_GOLDEN_IMAGES = {"normalised": "inputs", "pixels": "pixels"}


def require_onnx(artifact: Artifact) -> None:
    """Refuse another kind of artifact.

    Raises:
        ArtifactError: See above.
    """
    if artifact.kind != "onnx":
        raise ArtifactError(f"{artifact.path} is a {artifact.kind}; here an onnx artifact is needed")


def rewrite_flavours(
    artifact: Artifact,
    out: Path | str,
    change: Callable[[ir.Model], ir.Model],
    *,
    content: Mapping[str, Any],
    stage: str,
    settings: Mapping[str, Any],
    overwrite: bool,
) -> Artifact:
    """Write a new artifact whose flavours are changed; the golden files stay.

    Nothing is written before ONNX Runtime agreed on the golden images: every output of an fp32 flavour with torch's,
    every other flavour with itself before the change.

    Args:
        artifact: Of kind `onnx`; see `require_onnx`.
        out: Folder of the new artifact.
        change: Takes a flavour's graph and returns it, changed.
        content: What the manifest says otherwise than before; `input` tells which golden images the new graphs take.
        stage: Name of this step in the provenance.
        settings: Of this step, for the provenance.
        overwrite: Replace an artifact that lies at `out`.

    Raises:
        EdgemimError: A flavour cannot be changed, or computes something else afterwards.
        OutputError: `out` exists, or cannot be written.
    """
    refuse_existing(Path(out), overwrite=overwrite)
    new_content = {**artifact.content, **content}
    files: dict[str, bytes] = {}
    for flavour in artifact.content["flavours"]:
        model = change(ir.load(artifact.file(flavour["file"])))
        files[flavour["file"]] = serialized = ir.to_proto(model).SerializeToString(deterministic=True)
        if flavour["precision"] == "fp32":
            new_content["parity"] = artifact.content["parity"] | _check_with_torch(artifact, serialized, new_content)
        else:
            _check_with_itself(artifact, flavour, serialized, new_content)
    with create_artifact(out, "onnx", overwrite=overwrite) as draft:
        draft.copy_from(artifact)
        for name, serialized in files.items():
            draft.path(name).write_bytes(serialized)
        draft.content = new_content
        packages = {package: version(package) for package in ("onnx-ir", "onnxruntime")}
        draft.record(stage, source=artifact.fingerprint, settings=dict(settings), versions=packages)
    return load_artifact(out, "onnx")


def _check_with_torch(artifact: Artifact, serialized: bytes, content: Mapping[str, Any]) -> dict[str, Any]:
    """Compare every output with the golden one; the manifest's `parity`."""
    images = _images(artifact, content)
    outputs = {"": ("output", "outputs"), "tokens_": ("tokens", "tokens")}
    return {
        f"{prefix}torch_vs_onnxruntime": _facts(
            check_parity(serialized, images, _golden(artifact, file), output=content[key]["name"])
        )
        for prefix, (key, file) in outputs.items()
        if content.get(key) is not None
    }


def _check_with_itself(
    artifact: Artifact, flavour: Mapping[str, Any], serialized: bytes, content: Mapping[str, Any]
) -> None:
    """Compare a flavour of lower precision with itself, by the rule of float16: only rounding may fall otherwise."""
    name = content["output"]["name"]
    before = run_onnx(artifact.file(flavour["file"]), _images(artifact, artifact.content), output=name)
    after = run_onnx(serialized, _images(artifact, content), output=name)
    match = compare_golden(after, before, "fp16")
    if match.reason is not None:
        raise EdgemimError(
            f"flavour {flavour['name']!r} does not compute what it did: {match.reason}; report this model"
        )


def _images(artifact: Artifact, content: Mapping[str, Any]) -> npt.NDArray[Any]:
    """The golden images as a graph with this content takes them."""
    return _golden(artifact, _GOLDEN_IMAGES[content["input"]["encoding"]])


def _golden(artifact: Artifact, name: str) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(artifact.file(artifact.content["golden"][name]), allow_pickle=False)
    return array


def _facts(parity: Parity) -> dict[str, float]:
    return {"max_abs": parity.max_abs, "tolerance": parity.tolerance}
