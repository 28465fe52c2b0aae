"""Read the float flavours of an `onnx` artifact, and write a new artifact with INT8 flavours beside them."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass(frozen=True, kw_only=True)
class NewFlavour:
    """An INT8 flavour that is to be written.

    Attributes:
        name: `int8-...`; its file is named after it.
        model: The Q/DQ model, which has passed `edgemim.quantize.qdq.check_qdq`.
        base: The float flavour that it was made from.
        facts: What its entry in the manifest says beyond name, precision, opset, base and file.
    """

    name: str
    model: onnx.ModelProto
    base: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def read_fp32(artifact: Artifact) -> onnx.ModelProto:
    """The fp32 model of an artifact.

    Raises:
        ArtifactError: It has no fp32 flavour.
        ConfigError: Its batch is not 1.
    """
    floats = float_flavours(artifact)
    if "fp32" not in floats:
        raise ArtifactError(f"{artifact.path} has no fp32 model; run: edgemim export CHECKPOINT")
    return read_flavour(artifact, "fp32")


def float_flavours(artifact: Artifact) -> list[str]:
    """Names of the flavours that are not quantized.

    Raises:
        ConfigError: The batch is not 1.
    """
    if artifact.kind != "onnx":
        return []
    batch = artifact.content["input"]["shape"][0]
    if batch != 1:
        raise ConfigError(f"quantizing takes batch 1; {artifact.path} has {batch}: export it again")
    return [flavour["name"] for flavour in artifact.content.get("flavours", []) if flavour["precision"] != "int8"]


def read_flavour(artifact: Artifact, name: str) -> onnx.ModelProto:
    """One flavour's model; its name must be known."""
    flavour = next(entry for entry in artifact.content["flavours"] if entry["name"] == name)
    return onnx.load(artifact.file(flavour["file"]))


def check_preprocess(artifact: Artifact, batches: Calibration) -> None:
    """Refuse calibration images that were prepared for another model.

    Raises:
        ConfigError: The contracts differ.
    """
    if batches.preprocess.to_dict() != artifact.content["preprocess"]:
        raise ConfigError(f"the calibration's preprocessing is not the model's; use the contract of {artifact.path}")


def write_flavours(
    artifact: Artifact,
    out: Path | str,
    flavours: Sequence[NewFlavour],
    batches: Calibration,
    *,
    quantizer: str,
    settings: Mapping[str, Any],
    packages: tuple[str, ...],
    measured: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    overwrite: bool,
) -> Artifact:
    """Write everything of `artifact` plus INT8 flavours, once they ran on the golden inputs.

    Args:
        artifact: What was quantized.
        out: Folder of the new artifact.
        flavours: The INT8 models; one that `artifact` has under the same name is replaced.
        batches: What they were calibrated on.
        quantizer: Registered name.
        settings: Of the quantizer, as plain values.
        packages: Whose versions go into the provenance.
        measured: What calibration found, for the calibration record.
        notes: What a user should know of that, beside the notes of `batches`.

    Raises:
        EdgemimError: ONNX Runtime gives values that are not finite.
        OutputError: `out` exists, or cannot be written.
    """
    entries, files = [], {}
    for flavour in flavours:
        serialized = flavour.model.SerializeToString(deterministic=True)
        entry = {
            "name": flavour.name,
            "precision": "int8",
            "opset": flavour.model.opset_import[0].version,
            "file": f"{flavour.name}.onnx",
            "base": flavour.base,
            "quantizer": quantizer,
            "settings": dict(settings),
            **flavour.facts,
            "golden": _compare_golden(artifact, serialized),
        }
        entries.append(entry)
        files[entry["file"]] = serialized
    remarks = [*batches.notes, *notes]
    record = batches.record() | {"notes": remarks, "measured": {**_measured_before(artifact), **(measured or {})}}
    with create_artifact(out, "onnx", overwrite=overwrite) as draft:
        draft.copy_from(artifact)
        for name, serialized in files.items():
            draft.path(name).write_bytes(serialized)
        write_text(draft.path(CALIBRATION_FILE), json.dumps(record, indent=1) + "\n")
        names = {entry["name"] for entry in entries}
        others = [entry for entry in artifact.content["flavours"] if entry["name"] not in names]
        draft.content = {
            **artifact.content,
            "flavours": [*others, *entries],
            "calibration": {
                "file": CALIBRATION_FILE,
                "images": len(batches),
                "synthetic": batches.synthetic,
            },
        }
        draft.record(
            "quantize",
            quantizer=quantizer,
            source=artifact.fingerprint,
            settings=dict(settings),
            calibration={"images": len(batches), "seed": batches.seed, "notes": remarks},
            versions={package: version(package) for package in packages},
        )
    return load_artifact(out, "onnx")


def _measured_before(artifact: Artifact) -> dict[str, Any]:
    """What an earlier quantizer noted about the same calibration."""
    known = artifact.content.get("calibration")
    if known is None:
        return {}
    record = json.loads(artifact.file(known["file"]).read_text("utf-8"))
    return dict(record.get("measured", {}))


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
