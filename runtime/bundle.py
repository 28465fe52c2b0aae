"""What goes to a device: ONNX candidates, golden images and tensors, preprocessing, evaluation images, gates.

`write_bundle` makes one from an onnx artifact; `load_bundle` reads it back on the device, every hash checked
before a byte is parsed. A bundle never changes: engines go to the cache, reports to their own folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.artifact import Artifact, create_artifact, load_artifact
from edgemim.errors import ArtifactError, ConfigError, DataError
from edgemim.preprocess import Pixels, Preprocess, read_image
from edgemim.runtime.device import FEATURES
from edgemim.runtime.evaluation import Evaluation, open_evaluation, write_evaluation
from edgemim.runtime.gates import check_limits
from edgemim.runtime.targets import TARGETS
from edgemim.runtime.targets._base import PRECISIONS, Setting, Target

# Raised when a bundle of an older edgemim can no longer be read.
SCHEMA_VERSION = 2
EVALUATION = "evaluation.zip"
GALLERY = "gallery.zip"
GOLDEN_IMAGES = "golden/images.zip"
# The classes of a gallery are its own, not the model's.
_ANY_CLASSES = 2**31
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")

# What a graph may take: dtype and layout by encoding.
_INPUTS = {"pixels": ("uint8", "NHWC"), "normalised": ("float32", "NCHW")}

Floats = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to run one of the bundle's ONNX files that may ship; several may share a file.

    Attributes:
        name: What the user reads and writes: `fp32`, `bf16`, `int8-linear`, `int8-linear-bf16`.
        precision: What gates and verdict judge it as: an INT8 file that computes the rest in bf16 is `int8`.
        file, opset, size_bytes: The ONNX flavour, its file's name in the bundle.
        backend: The only backend that can run it so; None: any of the target's.
        options: Settings laid over the backend's own, `{"INFERENCE_PRECISION_HINT": "bf16"}` of OpenVINO.
        needs: One of `edgemim.runtime.device.FEATURES`, without which a device leaves it out; None: nothing.
    """

    name: str
    precision: str
    file: str
    opset: int
    size_bytes: int
    backend: str | None = None
    options: Mapping[str, Setting] = field(default_factory=dict)
    needs: str | None = None


@dataclass(frozen=True, kw_only=True)
class Golden:
    """What the model answered before it was exported.

    Attributes:
        images: The G images as files, in the same order, to be decoded on the device; None if they stayed behind.
        pixels: uint8 [G, H, W, 3], images after resize and crop.
        inputs: float32 [G, 3, H, W], the same, normalised.
        outputs: float32 [G, K], fp32 outputs of the framework the model was trained in.
    """

    images: Evaluation | None
    pixels: Pixels
    inputs: Floats
    outputs: Floats


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified bundle.

    Attributes:
        input_name, output_name: Tensor names in every candidate's graph.
        encoding: What the graphs take: `pixels`, uint8 [B, H, W, 3], or `normalised`, float32 [B, 3, H, W].
        input_shape: One of these two.
        class_names: None for a model without a classification head.
        gates: Limits by gate name, in the gate's unit.
        evaluation: None if the bundle carries no images.
        gallery: Images among which the neighbours of the evaluation images are looked for; None if it carries none.
    """

    artifact: Artifact
    target: Target
    architecture: str
    parameters: int
    class_names: tuple[str, ...] | None
    preprocess: Preprocess
    input_name: str
    encoding: str
    input_shape: tuple[int, ...]
    output_name: str
    candidates: tuple[Candidate, ...]
    golden: Golden
    gates: Mapping[str, float]
    evaluation: Evaluation | None
    gallery: Evaluation | None

    @property
    def classifies(self) -> bool:
        """Whether the outputs are class scores, so that an argmax means something."""
        return self.output_name == "logits"

    @property
    def batch(self) -> int:
        """Images per run."""
        return self.input_shape[0]

    def arrays(self, pixels: Pixels) -> Arrays:
        """What a session takes, by input name, for uint8 [n, H, W, 3] with n from 1 to the batch.

        A batch that is not full is filled up with its last image.
        """
        return self._full(pixels if self.encoding == "pixels" else self.preprocess.normalise(pixels))

    def golden_batches(self) -> Iterator[tuple[Arrays, int]]:
        """The golden images as a session takes them, in order, and how many of each batch are not filling."""
        images = self.golden.pixels if self.encoding == "pixels" else self.golden.inputs
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            yield self._full(part), len(part)

    def _full(self, images: npt.NDArray[Any]) -> Arrays:
        filling = np.repeat(images[-1:], self.batch - len(images), axis=0)
        return {self.input_name: np.concatenate([images, filling])}


def write_bundle(
    onnx: Artifact,
    out: Path,
    *,
    target: Target,
    golden: Iterable[bytes] | None = None,
    gates: Mapping[str, float] | None = None,
    evaluation: Iterable[tuple[bytes, int | None]] | None = None,
    gallery: Iterable[tuple[bytes, int | None]] | None = None,
    choice: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Artifact:
    """Write a bundle for `target` from an onnx artifact.

    Args:
        onnx: What export or quantize wrote.
        out: The bundle's folder.
        target: Decides which flavours become candidates.
        golden: The encoded images whose pixels are the golden ones of `onnx`, in the same order; None for a bundle
            that stays on the machine that prepared them.
        gates: Limits that `check` holds every candidate to.
        evaluation: Encoded images with a class number each, or without any.
        gallery: Other images, with classes of their own or without any, to look for neighbours in.
        choice: What a search on the exporting machine came to, as plain values for the manifest.

    Raises:
        ArtifactError: `onnx` is another kind, or has no flavour that the target can run.
        ConfigError: An unknown gate, or a limit out of its range.
        DataError: An evaluation image cannot be read, or the labels do not fit; a golden image is another one.
        OutputError: `out` exists, or cannot be written.
    """
    if onnx.kind != "onnx":
        raise ArtifactError(f"{onnx.path} is a {onnx.kind}; a bundle is made from an onnx artifact")
    limits = check_limits(gates or {})
    candidates = _candidates(onnx, target)
    with create_artifact(out, "bundle", overwrite=overwrite) as draft:
        draft.copy_from(onnx)
        if golden is not None:
            write_evaluation(draft.path(GOLDEN_IMAGES), _golden_images(onnx, golden), classes=0)
        draft.content = dict(onnx.content) | {
            "bundle_schema": SCHEMA_VERSION,
            "target": target.name,
            "candidates": [asdict(candidate) for candidate in candidates],
            "golden": {**onnx.content["golden"], "images": None if golden is None else GOLDEN_IMAGES},
            "evaluation": None,
            "gallery": None,
            "gates": limits,
            "choice": None if choice is None else dict(choice),
        }
        if evaluation is not None:
            classes = int(onnx.content["num_classes"])
            facts = write_evaluation(draft.path(EVALUATION), evaluation, classes=classes)
            draft.content["evaluation"] = {"file": EVALUATION, **facts}
        if gallery is not None:
            facts = write_evaluation(draft.path(GALLERY), gallery, classes=_ANY_CLASSES)
            draft.content["gallery"] = {"file": GALLERY, **facts}
        draft.record("bundle", target=target.name, gates=limits, onnx=onnx.fingerprint)
    return load_bundle(out).artifact


def _golden_images(onnx: Artifact, golden: Iterable[bytes]) -> Iterator[tuple[bytes, None]]:
    """The encoded images, each seen to give the golden pixels."""
    preprocess = Preprocess.from_dict(onnx.content["preprocess"])
    expected = _load(onnx, onnx.content["golden"]["pixels"])
    count = 0
    for data in golden:
        if count == len(expected) or not np.array_equal(preprocess.pixels(read_image(data)), expected[count]):
            raise DataError(f"golden image {count} is not the one that {onnx.path} was compared on; give the same ones")
        yield data, None
        count += 1
    if count < len(expected):
        raise DataError(f"{onnx.path} was compared on {len(expected)} golden images; got {count} of them")


def _candidates(onnx: Artifact, target: Target) -> list[Candidate]:
    flavours = onnx.content["flavours"]
    taken = [f for f in flavours if target.takes(precision=f["precision"], opset=f["opset"])]
    if not taken:
        found = ", ".join(f"{f['name']} ({f['precision']}, opset {f['opset']})" for f in flavours)
        raise ArtifactError(
            f"{onnx.path} has no flavour for target {target.name!r}, which takes "
            f"{', '.join(f'{p} up to opset {o}' for p, o in target.opsets.items())}; found: {found or 'none'}; "
            f"run: edgemim export --target {target.name}"
        )
    return [candidate for f in taken for candidate in _ways(f, onnx.file(f["file"]).stat().st_size, target)]


def _ways(flavour: Mapping[str, Any], size_bytes: int, target: Target) -> list[Candidate]:
    """The plain way to run a flavour, then the target's variants of it."""
    precision = flavour["precision"]
    plain = Candidate(
        name=flavour["name"],
        precision=precision,
        file=flavour["file"],
        opset=flavour["opset"],
        size_bytes=size_bytes,
    )
    variants = [
        replace(
            plain,
            name=variant.name.format(flavour=plain.name),
            precision=variant.precision,
            backend=variant.backend,
            options=variant.options,
            needs=variant.needs,
        )
        for variant in target.variants
        if variant.of == precision
    ]
    return [plain, *variants]


def load_bundle(path: Path | str) -> Bundle:
    """Read a bundle and verify it.

    Raises:
        ArtifactError: Not a bundle, altered, incomplete, or of a kind this edgemim does not know.
    """
    artifact = load_artifact(path, "bundle")
    found = artifact.content.get("bundle_schema", 1)
    if found != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path} is a bundle of schema {found}, this edgemim reads {SCHEMA_VERSION}; run: edgemim export again"
        )
    try:
        return _bundle(artifact)
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(f"{path}: this edgemim cannot read the bundle: {reason}; write it again") from error


def _bundle(artifact: Artifact) -> Bundle:
    content = artifact.content
    given = content["input"]
    preprocess = Preprocess.from_dict(content["preprocess"])
    shape = _input_shape(given, preprocess)
    names = content["class_names"]
    return Bundle(
        artifact=artifact,
        target=TARGETS.get(content["target"]),
        architecture=str(content["architecture"]),
        parameters=int(content["parameters"]),
        class_names=None if names is None else tuple(names),
        preprocess=preprocess,
        input_name=given["name"],
        encoding=given["encoding"],
        input_shape=shape,
        output_name=content["output"]["name"],
        candidates=tuple(_candidate(artifact, values) for values in content["candidates"]),
        golden=_golden(artifact, preprocess),
        gates=check_limits(content["gates"]),
        evaluation=_images(artifact, content["evaluation"], classes=int(content["num_classes"])),
        gallery=_images(artifact, content.get("gallery"), classes=_ANY_CLASSES),
    )


def _input_shape(given: Mapping[str, Any], preprocess: Preprocess) -> tuple[int, ...]:
    """The shape of the graphs' input, when it is one that `Bundle.arrays` can make."""
    kind = (given["dtype"], given["layout"])
    if _INPUTS.get(given["encoding"]) != kind:
        known = ", ".join(f"{name} ({' '.join(values)})" for name, values in _INPUTS.items())
        raise ConfigError(f"its input is {given['encoding']} ({' '.join(map(str, kind))}), known is {known}")
    shape = tuple(int(size) for size in given["shape"])
    height, width = preprocess.size
    wanted = (height, width, 3) if given["encoding"] == "pixels" else (3, height, width)
    if shape[1:] != wanted or shape[0] < 1:
        raise ConfigError(f"its input has the shape {list(shape)} and does not fit images of {height} x {width}")
    return shape


def _candidate(artifact: Artifact, values: Mapping[str, Any]) -> Candidate:
    candidate = Candidate(**values)
    artifact.file(candidate.file)
    if not _NAME.fullmatch(candidate.name) or candidate.precision not in PRECISIONS:
        raise ConfigError(f"candidate {candidate.name!r} of precision {candidate.precision!r} is unknown")
    if candidate.needs is not None and candidate.needs not in FEATURES:
        raise ConfigError(f"candidate {candidate.name!r} needs {candidate.needs!r}, known is {', '.join(FEATURES)}")
    if not all(isinstance(value, Setting) for value in candidate.options.values()):
        raise ConfigError(f"candidate {candidate.name!r} has the options {candidate.options!r}")
    return candidate


def _golden(artifact: Artifact, preprocess: Preprocess) -> Golden:
    names = artifact.content["golden"]
    pixels, inputs, outputs = (_load(artifact, names[key]) for key in ("pixels", "inputs", "outputs"))
    count, (height, width) = len(inputs), preprocess.size
    wanted = ((count, height, width, 3), (count, 3, height, width), (count, *outputs.shape[1:]))
    found = (pixels.shape, inputs.shape, outputs.shape)
    types = [str(array.dtype) for array in (pixels, inputs, outputs)]
    if found != wanted or outputs.ndim != 2 or not count or types != ["uint8", "float32", "float32"]:
        raise ConfigError(f"its golden tensors have the shapes {found} and do not fit images of {height} x {width}")
    file = names["images"]
    images = None if file is None else open_evaluation(artifact.file(file), count=count, classes=0)
    return Golden(images=images, pixels=pixels, inputs=inputs, outputs=outputs)


def _load(artifact: Artifact, name: str) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(artifact.file(name), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ArtifactError(f"{artifact.path}: {name} is not an array that can be read: {error}") from error
    return array


def _images(artifact: Artifact, facts: Mapping[str, Any] | None, *, classes: int) -> Evaluation | None:
    if facts is None:
        return None
    images = open_evaluation(artifact.file(facts["file"]), count=int(facts["count"]), classes=classes)
    if facts["labelled"] != (images.labels is not None):
        raise ConfigError(f"its manifest says labelled={facts['labelled']}, {facts['file']} disagrees")
    return images
