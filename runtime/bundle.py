"""What goes to a device: ONNX candidates, golden images and tensors, preprocessing, evaluation images, gates.

`write_bundle` makes one from an onnx artifact; `load_bundle` reads it back on the device, every hash checked
before a byte is parsed. A bundle never changes: engines go to the cache, reports to their own folder.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgemim.artifact import Artifact, create_artifact, load_artifact
from edgemim.errors import ArtifactError, ConfigError, DataError
from edgemim.preprocess import Pixels, Preprocess, read_image
from edgemim.runtime.candidates import Candidate, make_candidates, read_candidate, shipped_flavours
from edgemim.runtime.evaluation import Evaluation, open_evaluation, write_evaluation
from edgemim.runtime.gates import check_limits, check_names
from edgemim.runtime.nvidia.ahead import AheadEngine
from edgemim.runtime.nvidia.host_check import not_checked
from edgemim.runtime.targets import TARGETS
from edgemim.runtime.targets._base import Target

# Raised when a bundle of an older edgemim can no longer be read.
SCHEMA_VERSION = 2
EVALUATION = "evaluation.zip"
GALLERY = "gallery.zip"
GOLDEN_IMAGES = "golden/images.zip"
# The classes of a gallery are its own, not the model's.
_ANY_CLASSES = 2**31

# What a graph may take: dtype and layout by encoding.
_INPUTS = {"pixels": ("uint8", "NHWC"), "normalised": ("float32", "NCHW")}

Floats = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[Any]]


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
        allow_unmeasured: Gates that are kept where a device cannot measure them.
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
    allow_unmeasured: tuple[str, ...]
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
    allow_unmeasured: Sequence[str] = (),
    evaluation: Iterable[tuple[bytes, int | None]] | None = None,
    gallery: Iterable[tuple[bytes, int | None]] | None = None,
    choice: Mapping[str, Any] | None = None,
    host_check: Sequence[Mapping[str, Any]] | None = None,
    engines: Sequence[AheadEngine] = (),
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
        allow_unmeasured: Gates that it keeps where a device cannot measure them.
        evaluation: Encoded images with a class number each, or without any.
        gallery: Other images, with classes of their own or without any, to look for neighbours in.
        choice: What a search on the exporting machine came to, as plain values for the manifest.
        host_check: Rows of `edgemim.runtime.nvidia.host_check` for the manifest, for one of NVIDIA's targets.
        engines: Engines that were built ahead, for such a target.

    Raises:
        ArtifactError: `onnx` is another kind, or has no flavour that the target can run.
        ConfigError: An unknown gate, or a limit out of its range.
        DataError: An evaluation image cannot be read, or the labels do not fit; a golden image is another one.
        OutputError: `out` exists, or cannot be written.
    """
    if onnx.kind != "onnx":
        raise ArtifactError(f"{onnx.path} is a {onnx.kind}; a bundle is made from an onnx artifact")
    limits, allowed = check_limits(gates or {}), check_names(allow_unmeasured)
    candidates = make_candidates(onnx, target)
    out = Path(os.path.abspath(out))  # what `.` is, is replaced
    with create_artifact(out, "bundle", overwrite=overwrite) as draft:
        flavours = shipped_flavours(onnx, target)
        left = {f["file"] for f in onnx.content["flavours"]} - {f["file"] for f in flavours}
        draft.copy_from(onnx, [name for name in onnx.files if name not in left])
        for engine in engines:
            shutil.copyfile(engine.file, draft.path(engine.name))
        if golden is not None:
            write_evaluation(draft.path(GOLDEN_IMAGES), _golden_images(onnx, golden), classes=0)
        draft.content = dict(onnx.content) | {
            "bundle_schema": SCHEMA_VERSION,
            "target": target.name,
            "flavours": flavours,
            "candidates": [asdict(candidate) for candidate in candidates],
            "golden": {**onnx.content["golden"], "images": None if golden is None else GOLDEN_IMAGES},
            "evaluation": None,
            "gallery": None,
            "gates": limits,
            "allow_unmeasured": list(allowed),
            "choice": None if choice is None else dict(choice),
        }
        if target.is_nvidia:
            draft.content["host_check"] = [dict(row) for row in host_check or _unseen(candidates)]
            draft.content["engines"] = [engine.to_dict(onnx.files[engine.model].sha256) for engine in engines]
        if evaluation is not None:
            classes = int(onnx.content["num_classes"])
            facts = write_evaluation(draft.path(EVALUATION), evaluation, classes=classes)
            draft.content["evaluation"] = {"file": EVALUATION, **facts}
        if gallery is not None:
            facts = write_evaluation(draft.path(GALLERY), gallery, classes=_ANY_CLASSES)
            draft.content["gallery"] = {"file": GALLERY, **facts}
        draft.record("bundle", target=target.name, gates=limits, onnx=onnx.fingerprint)
    return load_bundle(out).artifact


def _unseen(candidates: Iterable[Candidate]) -> list[dict[str, Any]]:
    """The rows of a host check that nobody made."""
    return [not_checked(candidate.name, "nobody asked for it") for candidate in candidates]


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
        candidates=tuple(read_candidate(artifact, values) for values in content["candidates"]),
        golden=_golden(artifact, preprocess),
        gates=check_limits(content["gates"]),
        allow_unmeasured=check_names(content.get("allow_unmeasured", ())),
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
