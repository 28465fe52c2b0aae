"""The candidates of a bundle: which ONNX files a device chooses from, and in which ways it may run each.

One flavour is one file. A target may run a file in several ways, and NVIDIA's may have two files of one candidate: the
plain name is that of the strongly typed form with float16 in it; `-opset17` is the same in fp32/opset 17 for TensorRT
8.6, which chooses its own float types.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgemim.artifact import Artifact
from edgemim.errors import ArtifactError, ConfigError
from edgemim.runtime.device import FEATURES
from edgemim.runtime.targets._base import PRECISIONS, Setting, Target

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


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


def make_candidates(onnx: Artifact, target: Target) -> list[Candidate]:
    """What a bundle of `onnx` lets a device choose from, in the order of the flavours.

    Raises:
        ArtifactError: `onnx` has no flavour that the target can run.
    """
    flavours = shipped_flavours(onnx, target)
    if not flavours:
        found = ", ".join(f"{f['name']} ({f['precision']}, opset {f['opset']})" for f in onnx.content["flavours"])
        raise ArtifactError(
            f"{onnx.path} has no flavour for target {target.name!r}, which takes "
            f"{', '.join(f'{p} up to opset {o}' for p, o in target.opsets.items())}; found: {found or 'none'}; "
            f"run: edgemim export --target {target.name}"
        )
    names = _names(flavours, target)
    return [
        candidate
        for f in flavours
        for candidate in _ways(f, names[f["name"]], onnx.file(f["file"]).stat().st_size, target)
    ]


def shipped_flavours(onnx: Artifact, target: Target) -> list[Mapping[str, Any]]:
    """The flavours that the target can run, without those of which it only runs the float16 twin."""
    flavours = onnx.content["flavours"]
    taken = [f for f in flavours if target.takes(precision=f["precision"], opset=f["opset"])]
    if not target.is_nvidia or target.weakly_typed:
        return taken
    twins = _twins(taken)
    return [f for f in taken if f["name"] not in twins]


def read_candidate(artifact: Artifact, values: Mapping[str, Any]) -> Candidate:
    """A candidate as a bundle's manifest has it.

    Raises:
        ArtifactError: The bundle has no such file.
        ConfigError: A name, precision, need or option that this edgemim does not know.
    """
    candidate = Candidate(**values)
    artifact.file(candidate.file)
    if not _NAME.fullmatch(candidate.name) or candidate.precision not in PRECISIONS:
        raise ConfigError(f"candidate {candidate.name!r} of precision {candidate.precision!r} is unknown")
    if candidate.needs is not None and candidate.needs not in FEATURES:
        raise ConfigError(f"candidate {candidate.name!r} needs {candidate.needs!r}, known is {', '.join(FEATURES)}")
    if not all(isinstance(value, Setting) for value in candidate.options.values()):
        raise ConfigError(f"candidate {candidate.name!r} has the options {candidate.options!r}")
    return candidate


def _twins(flavours: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By name of an INT8 flavour in fp32, the one that quantizing made of the fp16 flavour by the same recipe."""
    names = {f["name"] for f in flavours}
    return {f["name"]: f"{f['name']}-fp16" for f in flavours if f"{f['name']}-fp16" in names}


def _names(flavours: Sequence[Mapping[str, Any]], target: Target) -> dict[str, str]:
    """What candidates are called, by flavour: on a GPU the plain name is that of the form with float16 in it."""
    names = {f["name"]: str(f["name"]) for f in flavours}
    if target.is_nvidia:
        names |= {f["name"]: f["name"].removesuffix("-fp16") for f in flavours if f["precision"] == "int8"}
        names |= {name: f"{name}-opset17" for name in _twins(flavours)}
    return names


def _ways(flavour: Mapping[str, Any], name: str, size_bytes: int, target: Target) -> list[Candidate]:
    """The plain way to run a flavour, then the target's variants of it."""
    precision = flavour["precision"]
    plain = Candidate(
        name=name,
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
