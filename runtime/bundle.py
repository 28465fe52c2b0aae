"""What goes to a device: ONNX candidates, golden tensors, preprocessing, evaluation images, gates.

`write_bundle` makes one from an onnx artifact; `load_bundle` reads it back on the device, every hash checked
before a byte is parsed. A bundle never changes: engines go to the cache, reports to their own folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.artifact import Artifact, create_artifact, load_artifact
from edgemim.errors import ArtifactError, ConfigError
from edgemim.preprocess import Pixels, Preprocess
from edgemim.runtime.evaluation import Evaluation, open_evaluation, write_evaluation
from edgemim.runtime.gates import check_limits
from edgemim.runtime.targets import TARGETS
from edgemim.runtime.targets._base import PRECISIONS, Target

EVALUATION = "evaluation.zip"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One ONNX flavour that may ship: its name, precision, opset, file in the bundle and size in bytes."""

    name: str
    precision: str
    file: str
    opset: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Golden:
    """What the model answered before it was exported.

    Attributes:
        pixels: uint8 [G, H, W, 3], images after resize and crop.
        inputs: float32 [G, 3, H, W], the same, normalised.
        outputs: float32 [G, K], fp32 outputs of the framework the model was trained in.
    """

    pixels: Pixels
    inputs: Floats
    outputs: Floats


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified bundle.

    Attributes:
        input_name, output_name: Tensor names in every candidate's graph.
        input_shape: [1, 3, H, W].
        class_names: None for a model without a classification head.
        gates: Limits by gate name, in the gate's unit.
        evaluation: None if the bundle carries no images.
    """

    artifact: Artifact
    target: Target
    architecture: str
    parameters: int
    class_names: tuple[str, ...] | None
    preprocess: Preprocess
    input_name: str
    input_shape: tuple[int, ...]
    output_name: str
    candidates: tuple[Candidate, ...]
    golden: Golden
    gates: Mapping[str, float]
    evaluation: Evaluation | None

    @property
    def classifies(self) -> bool:
        """Whether the outputs are class scores, so that an argmax means something."""
        return self.output_name == "logits"

    def arrays(self, pixels: Pixels) -> dict[str, Floats]:
        """What a session takes for one image: uint8 [H, W, 3] to float32 [1, 3, H, W], by input name."""
        return {self.input_name: self.preprocess.normalise(pixels[None])}


def write_bundle(
    onnx: Artifact,
    out: Path,
    *,
    target: Target,
    gates: Mapping[str, float] | None = None,
    evaluation: Iterable[tuple[bytes, int | None]] | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Write a bundle for `target` from an onnx artifact.

    Args:
        onnx: What export or quantize wrote.
        out: The bundle's folder.
        target: Decides which flavours become candidates.
        gates: Limits that `check` holds every candidate to.
        evaluation: Encoded images with a class number each, or without any.

    Raises:
        ArtifactError: `onnx` is another kind, or has no flavour that the target can run.
        ConfigError: An unknown gate, or a limit out of its range.
        DataError: An evaluation image cannot be read, or the labels do not fit.
        OutputError: `out` exists, or cannot be written.
    """
    if onnx.kind != "onnx":
        raise ArtifactError(f"{onnx.path} is a {onnx.kind}; a bundle is made from an onnx artifact")
    limits = check_limits(gates or {})
    candidates = _candidates(onnx, target)
    with create_artifact(out, "bundle", overwrite=overwrite) as draft:
        draft.copy_from(onnx)
        draft.content = dict(onnx.content) | {
            "target": target.name,
            "candidates": [asdict(candidate) for candidate in candidates],
            "evaluation": None,
            "gates": limits,
        }
        if evaluation is not None:
            classes = int(onnx.content["num_classes"])
            facts = write_evaluation(draft.path(EVALUATION), evaluation, classes=classes)
            draft.content["evaluation"] = {"file": EVALUATION, **facts}
        draft.record("bundle", target=target.name, gates=limits, onnx=onnx.fingerprint)
    return load_bundle(out).artifact


def _candidates(onnx: Artifact, target: Target) -> list[Candidate]:
    flavours = onnx.content["flavours"]
    taken = [f for f in flavours if target.takes(precision=f["precision"], opset=f["opset"])]
    if not taken:
        found = ", ".join(f"{f['name']} ({f['precision']}, opset {f['opset']})" for f in flavours)
        raise ArtifactError(
            f"{onnx.path} has no flavour for target {target.name!r}, which takes "
            f"{'/'.join(target.precisions)} up to opset {target.opset}; found: {found or 'none'}; "
            f"run: edgemim export --target {target.name}"
        )
    return [
        Candidate(
            name=f["name"],
            precision=f["precision"],
            file=f["file"],
            opset=f["opset"],
            size_bytes=onnx.file(f["file"]).stat().st_size,
        )
        for f in taken
    ]


def load_bundle(path: Path | str) -> Bundle:
    """Read a bundle and verify it.

    Raises:
        ArtifactError: Not a bundle, altered, incomplete, or of a kind this edgemim does not know.
    """
    artifact = load_artifact(path, "bundle")
    try:
        return _bundle(artifact)
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(f"{path}: this edgemim cannot read the bundle: {reason}; write it again") from error


def _bundle(artifact: Artifact) -> Bundle:
    content = artifact.content
    given = content["input"]
    known = {"dtype": "float32", "layout": "NCHW", "encoding": "normalised"}
    other = {key: given[key] for key, value in known.items() if given[key] != value}
    if other:
        raise ConfigError(f"its input has {other}, known is {known}")
    shape = tuple(int(size) for size in given["shape"])
    names = content["class_names"]
    return Bundle(
        artifact=artifact,
        target=TARGETS.get(content["target"]),
        architecture=str(content["architecture"]),
        parameters=int(content["parameters"]),
        class_names=None if names is None else tuple(names),
        preprocess=Preprocess.from_dict(content["preprocess"]),
        input_name=given["name"],
        input_shape=shape,
        output_name=content["output"]["name"],
        candidates=tuple(_candidate(artifact, values) for values in content["candidates"]),
        golden=_golden(artifact, shape),
        gates=check_limits(content["gates"]),
        evaluation=_evaluation(artifact),
    )


def _candidate(artifact: Artifact, values: Mapping[str, Any]) -> Candidate:
    candidate = Candidate(**values)
    artifact.file(candidate.file)
    if not _NAME.fullmatch(candidate.name) or candidate.precision not in PRECISIONS:
        raise ConfigError(f"candidate {candidate.name!r} of precision {candidate.precision!r} is unknown")
    return candidate


def _golden(artifact: Artifact, shape: tuple[int, ...]) -> Golden:
    names = artifact.content["golden"]
    pixels, inputs, outputs = (_load(artifact, names[key]) for key in ("pixels", "inputs", "outputs"))
    count, (_, channels, height, width) = len(inputs), shape
    wanted = ((count, height, width, channels), (count, channels, height, width), (count, *outputs.shape[1:]))
    found = (pixels.shape, inputs.shape, outputs.shape)
    types = [str(array.dtype) for array in (pixels, inputs, outputs)]
    if found != wanted or outputs.ndim != 2 or not count or types != ["uint8", "float32", "float32"]:
        raise ConfigError(f"its golden tensors have the shapes {found} and do not fit the input {shape}")
    return Golden(pixels=pixels, inputs=inputs, outputs=outputs)


def _load(artifact: Artifact, name: str) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(artifact.file(name), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ArtifactError(f"{artifact.path}: {name} is not an array that can be read: {error}") from error
    return array


def _evaluation(artifact: Artifact) -> Evaluation | None:
    facts = artifact.content["evaluation"]
    if facts is None:
        return None
    classes = int(artifact.content["num_classes"])
    evaluation = open_evaluation(artifact.file(facts["file"]), count=int(facts["count"]), classes=classes)
    if facts["labelled"] != (evaluation.labels is not None):
        raise ConfigError(f"its manifest says labelled={facts['labelled']}, {facts['file']} disagrees")
    return evaluation
