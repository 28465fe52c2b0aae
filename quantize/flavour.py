"""Read the fp32 flavour of an `onnx` artifact, and write a new artifact with an INT8 flavour beside it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgemim.artifact import Artifact, create_artifact, load_artifact, write_text
from edgemim.errors import ArtifactError, ConfigError, EdgemimError, MissingDependencyError
from edgemim.quantize.calibration import Calibration

Floats = npt.NDArray[np.float32]

CALIBRATION_FILE = "calibration.json"


def read_fp32(artifact: Artifact) -> onnx.ModelProto:
    """The fp32 model of an artifact.

    Raises:
        ArtifactError: It has no fp32 flavour.
        ConfigError: Its batch is not 1.
    """
    files = [flavour["file"] for flavour in artifact.content.get("flavours", []) if flavour["name"] == "fp32"]
    if artifact.kind != "onnx" or not files:
        raise ArtifactError(f"{artifact.path} has no fp32 model; run: edgemim export CHECKPOINT")
    batch = artifact.content["input"]["shape"][0]
    if batch != 1:
        raise ConfigError(f"quantizing takes batch 1; {artifact.path} has {batch}: export it again")
    return onnx.load(artifact.file(files[0]))


def check_preprocess(artifact: Artifact, batches: Calibration) -> None:
    """Refuse calibration images that were prepared for another model.

    Raises:
        ConfigError: The contracts differ.
    """
    if batches.preprocess.to_dict() != artifact.content["preprocess"]:
        raise ConfigError(f"the calibration's preprocessing is not the model's; use the contract of {artifact.path}")


def write_flavour(
    artifact: Artifact,
    out: Path | str,
    model: onnx.ModelProto,
    batches: Calibration,
    *,
    quantizer: str,
    facts: Mapping[str, Any],
    packages: tuple[str, ...],
    overwrite: bool,
) -> Artifact:
    """Write everything of `artifact` plus the flavour `int8-<quantizer>`, once it ran on the golden inputs.

    Args:
        artifact: What was quantized.
        out: Folder of the new artifact.
        model: The Q/DQ model, which has passed `edgemim.quantize.qdq.check_qdq`.
        batches: What it was calibrated on.
        quantizer: Registered name.
        facts: What the flavour's entry in the manifest says beyond name, precision, opset and file.
        packages: Whose versions go into the provenance.
        overwrite: Replace an artifact that lies at `out`.

    Raises:
        EdgemimError: ONNX Runtime gives values that are not finite.
        OutputError: `out` exists, or cannot be written.
    """
    name = f"int8-{quantizer}"
    serialized = model.SerializeToString(deterministic=True)
    flavour = {
        "name": name,
        "precision": "int8",
        "opset": model.opset_import[0].version,
        "file": f"{name}.onnx",
        "quantizer": quantizer,
        **facts,
        "golden": _compare_golden(artifact, serialized),
    }
    record = batches.record()
    with create_artifact(out, "onnx", overwrite=overwrite) as draft:
        draft.copy_from(artifact)
        draft.path(flavour["file"]).write_bytes(serialized)
        write_text(draft.path(CALIBRATION_FILE), json.dumps(record, indent=1) + "\n")
        others = [entry for entry in artifact.content["flavours"] if entry["name"] != name]
        draft.content = {
            **artifact.content,
            "flavours": [*others, flavour],
            "calibration": {"file": CALIBRATION_FILE, "images": len(batches)},
        }
        draft.record(
            "quantize",
            quantizer=quantizer,
            source=artifact.fingerprint,
            settings=facts.get("settings", {}),
            calibration={"images": len(batches), "seed": batches.seed, "notes": list(batches.notes)},
            versions={package: version(package) for package in packages},
        )
    return load_artifact(out, "onnx")


def run_onnx(model: bytes, images: Floats) -> Floats:
    """Output of a model with batch 1 from ONNX Runtime on the CPU: float32 [G, 3, H, W] to float32 [G, K].

    Raises:
        MissingDependencyError: onnxruntime is not installed.
    """
    try:
        runtime = importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise MissingDependencyError("quantizing", "onnxruntime", "export") from error
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])


def _compare_golden(artifact: Artifact, model: bytes) -> dict[str, float]:
    """Largest absolute difference from torch's fp32 outputs, and the lowest cosine of an image's outputs."""
    golden = artifact.content["golden"]
    expected = np.load(artifact.file(golden["outputs"]), allow_pickle=False).astype(np.float64)
    found = run_onnx(model, np.load(artifact.file(golden["inputs"]), allow_pickle=False)).astype(np.float64)
    if not np.isfinite(found).all():
        raise EdgemimError(
            "the INT8 model gives values that are not finite; use the fp32 flavour and report this model"
        )
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    cosine = (found * expected).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny)
    return {"max_abs": float(np.abs(found - expected).max()), "cosine": float(cosine.min())}
