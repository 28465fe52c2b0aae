"""Turn a checkpoint into an `onnx` artifact: fixed shapes, opset 17 and on request fp16, proven equal to torch.

    artifact = export_checkpoint(load_checkpoint("student"), "student-onnx", pixels=golden)

torch's exporter works at its own opset, and our passes make every flavour of that graph
(`edgemim.export.flavours`); asking it for opset 17 fails silently. Golden inputs and torch's outputs travel with the
model, so that every later stage and every device can be compared with them.
"""

from __future__ import annotations

import io
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from edgemim.artifact import Artifact, Draft, create_artifact, load_artifact, refuse_existing, write_bytes
from edgemim.errors import ConfigError
from edgemim.export.flavours import REFERENCE, Flavour, check_names, make_flavour
from edgemim.export.half_parity import TOLERANCE as HALF_TOLERANCE
from edgemim.export.half_parity import check_half
from edgemim.export.locate import first_difference
from edgemim.export.parity import TOLERANCE, check_parity
from edgemim.export.passes import finish, prepare
from edgemim.export.passes.lower_opset import OPSET
from edgemim.export.structure import check_structure
from edgemim.export.tokens import TOKENS, with_tokens
from edgemim.export.tracing import count_layer_norms, trace
from edgemim.preprocess import Pixels, Preprocess
from edgemim.runtime.targets._base import Form

Floats = npt.NDArray[np.float32]


class Checkpoint(Protocol):
    """What export needs of `edgemim.models.checkpoint.Checkpoint`."""

    @property
    def model(self) -> torch.nn.Module: ...
    @property
    def artifact(self) -> Artifact: ...
    @property
    def preprocess(self) -> Preprocess: ...
    @property
    def class_names(self) -> tuple[str, ...] | None: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def architecture(self) -> str: ...


def export_checkpoint(
    checkpoint: Checkpoint,
    out: Path | str,
    *,
    pixels: Pixels,
    batch_size: int = 1,
    output: Literal["head", "tokens"] = "head",
    flavours: Sequence[str] = (REFERENCE,),
    form: Form = "plain",
    overwrite: bool = False,
) -> Artifact:
    """Export, lower, check and write one checkpoint.

    Args:
        checkpoint: A loaded checkpoint: float32 weights, on the CPU, in eval mode.
        out: Folder of the new artifact.
        pixels: Golden images as the preprocessing contract gives them, uint8 [G, H, W, 3], G >= 1.
        batch_size: The fixed batch of the exported graph.
        output: `tokens` adds the patch tokens as a second output; see `edgemim.export.tokens.with_tokens`.
        flavours: `fp32`, and whatever else a target takes; see `edgemim.export.flavours`.
        form: How the target wants what can be written in several ways; see `edgemim.runtime.targets._base.Target`.
        overwrite: Replace an artifact that lies at `out`.

    Returns:
        The artifact of kind `onnx`, read back and verified.

    Raises:
        ConfigError: The golden images do not fit the model, or the model has no single vector per image, or
            no tokens where they are asked for, or a flavour is unknown.
        EdgemimError: The backbone cannot be exported, or an ONNX model does not compute what torch computes;
            then the message names the first module that differs, where one can be found.
        OutputError: `out` exists, or cannot be written.
        MissingDependencyError: onnxruntime is not installed.
    """
    refuse_existing(Path(out), overwrite=overwrite)
    _check_settings(checkpoint, pixels, batch_size)
    check_names(flavours)
    inputs = checkpoint.preprocess.normalise(pixels)
    expected = _torch_outputs(checkpoint, inputs, tokens=output == "tokens")
    graph, layer_norms = _trace(checkpoint, batch_size=batch_size, tokens=output == "tokens", form=form)
    made = [make_flavour(name, graph, layer_norms, inputs) for name in flavours]
    parity: dict[str, Any] = {}
    for flavour in made:
        parity |= _check_outputs(checkpoint, flavour, inputs, expected)
    arrays: dict[str, npt.NDArray[Any]] = {
        "inputs": inputs,
        "pixels": pixels,
        "outputs": expected[_output_name(checkpoint)],
    }
    if TOKENS in expected:
        arrays["tokens"] = expected[TOKENS]
    with create_artifact(out, "onnx", overwrite=overwrite) as draft:
        for flavour in made:
            draft.path(flavour.file).write_bytes(flavour.serialized)
        for name, array in arrays.items():
            write_bytes(draft.path(_golden_file(name)), _npy(array))
        draft.content = _content(checkpoint, graph)
        draft.content |= {"flavours": [flavour.entry() for flavour in made], "parity": parity}
        draft.content["golden"] = {name: _golden_file(name) for name in arrays} | {"count": len(pixels)}
        settings = {"batch_size": batch_size, "output": output, "flavours": list(flavours), "form": form}
        _record(draft, checkpoint, settings)
    return load_artifact(out, "onnx")


def _golden_file(name: str) -> str:
    return f"golden/{name}.npy"


def _npy(array: npt.NDArray[Any]) -> bytes:
    """An array as a .npy file in memory: numpy's own writing hides why a disk refused."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def export_graph(
    checkpoint: Checkpoint, *, batch_size: int = 1, tokens: bool = False, form: Form = "plain"
) -> ir.Model:
    """The fp32 graph after all passes and structure checks, not yet compared with torch.

    Args:
        checkpoint: A loaded checkpoint.
        batch_size: The fixed batch.
        tokens: Whether the patch tokens are a second output.
        form: As for `export_checkpoint`.

    Raises:
        EdgemimError: The backbone cannot be exported; the message names the op and the torch module.
    """
    graph, layer_norms = _trace(checkpoint, batch_size=batch_size, tokens=tokens, form=form)
    graph = finish(graph, REFERENCE)
    check_structure(graph, layer_norms)
    return graph


def _trace(checkpoint: Checkpoint, *, batch_size: int, tokens: bool, form: Form) -> tuple[ir.Model, dict[str, int]]:
    """The graph that all flavours start from, and how often each LayerNorm runs."""
    images = torch.zeros(batch_size, 3, *checkpoint.preprocess.size)
    layer_norms = count_layer_norms(checkpoint.model, images)
    traced = with_tokens(checkpoint.model) if tokens else checkpoint.model
    graph = trace(traced, images, input_name="images", output_name=_output_name(checkpoint))
    if tokens:
        graph.graph.outputs[1].name = TOKENS
    return prepare(graph, form=form), layer_norms


def _check_settings(checkpoint: Checkpoint, pixels: Pixels, batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1; got {batch_size}")
    height, width = checkpoint.preprocess.size
    if pixels.ndim != 4 or pixels.dtype != np.uint8 or pixels.shape[1:] != (height, width, 3) or not len(pixels):
        raise ConfigError(
            f"golden images must be uint8 [G, {height}, {width}, 3] with G >= 1, as the preprocessing "
            f"contract gives them; got {pixels.dtype} {list(pixels.shape)}"
        )
    # A promise of the checkpoint loader: dropout and batch statistics would make every comparison fail.
    if checkpoint.model.training:
        raise ValueError("the model must be in eval mode")


def _torch_outputs(checkpoint: Checkpoint, inputs: Floats, *, tokens: bool) -> dict[str, Floats]:
    """What torch computes, by output, one image at a time so that the batch does not change the order of additions."""
    # The head's output is that of the model itself, so that the one with tokens is proven to have it too.
    rows = _run_torch(checkpoint.model, inputs)
    shape = tuple(rows[0].shape) if isinstance(rows[0], torch.Tensor) else type(rows[0]).__name__
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise ConfigError(
            f"{checkpoint.architecture} must return one vector per image, [1, K]; got {shape}; "
            "give the backbone a pooling, for instance --set backbone.global_pool=avg"
        )
    outputs = {_output_name(checkpoint): rows}
    if tokens:
        outputs[TOKENS] = [row[1] for row in _run_torch(with_tokens(checkpoint.model), inputs)]
    return {name: torch.cat(found).numpy().astype(np.float32, copy=False) for name, found in outputs.items()}


def _run_torch(model: torch.nn.Module, inputs: Floats) -> list[Any]:
    with torch.no_grad():
        return [model(torch.from_numpy(image[None])) for image in inputs]


def _check_outputs(
    checkpoint: Checkpoint, flavour: Flavour, inputs: Floats, expected: dict[str, Floats]
) -> dict[str, Any]:
    """Compare every output of a flavour with torch; returns what the manifest says of it."""
    batch = np.resize(inputs, _shape(flavour.graph.graph.inputs[0]))
    half = flavour.name == "fp16"

    def explain() -> str:
        limit = HALF_TOLERANCE if half else TOLERANCE
        return first_difference(checkpoint.model, flavour.graph, batch, tolerance=limit, precision=flavour.name)

    if half:
        found: Mapping[str, Any] = check_half(flavour.graph, flavour.serialized, inputs, expected, explain=explain)
    else:
        found = {
            name: check_parity(flavour.serialized, inputs, values, output=name, explain=explain)
            for name, values in expected.items()
        }
    other = "fp16" if half else "onnxruntime"
    return {f"{TOKENS}_" * (name == TOKENS) + f"torch_vs_{other}": asdict(parity) for name, parity in found.items()}


def _output_name(checkpoint: Checkpoint) -> str:
    return "logits" if checkpoint.num_classes else "embedding"


def _content(checkpoint: Checkpoint, graph: ir.Model) -> dict[str, Any]:
    """The manifest's content but for flavours, parity and golden files."""
    source = graph.graph.inputs[0]
    outputs = [{"name": value.name, "shape": _shape(value)} for value in graph.graph.outputs]
    return {
        "architecture": checkpoint.architecture,
        "num_classes": checkpoint.num_classes,
        "class_names": None if checkpoint.class_names is None else list(checkpoint.class_names),
        "parameters": sum(parameter.numel() for parameter in checkpoint.model.parameters()),
        "preprocess": checkpoint.preprocess.to_dict(),
        "input": {
            "name": source.name,
            "dtype": "float32",
            "layout": "NCHW",
            "shape": _shape(source),
            "encoding": "normalised",
        },
        "output": outputs[0],
        "tokens": outputs[1] if len(outputs) > 1 else None,
        "calibration": None,
    }


def _shape(value: ir.Value) -> list[int]:
    assert value.shape is not None
    return [int(size) for size in value.shape.numpy()]


def _record(draft: Draft, checkpoint: Checkpoint, settings: dict[str, Any]) -> None:
    draft.provenance = [dict(record) for record in checkpoint.artifact.provenance]
    packages = ("torch", "timm", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")
    draft.record(
        "export",
        checkpoint=checkpoint.artifact.fingerprint,
        settings=settings | {"opset": OPSET},
        versions={"python": platform.python_version(), **{name: version(name) for name in packages}},
    )
