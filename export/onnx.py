"""Turn a checkpoint into an `onnx` artifact: fp32, opset 17, fixed shapes, proven equal to torch.

    artifact = export_checkpoint(load_checkpoint("student"), "student-onnx", pixels=golden)

torch's exporter works at its own opset and our passes lower the graph (`edgemim.export.passes`); asking it
for opset 17 fails silently. Golden inputs and torch's outputs travel with the model, so that every later
stage and every device can be compared with them.
"""

from __future__ import annotations

import io
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from edgemim.artifact import Artifact, Draft, create_artifact, load_artifact, refuse_existing, write_bytes
from edgemim.errors import ConfigError
from edgemim.export.locate import first_difference
from edgemim.export.parity import TOLERANCE, Parity, check_parity
from edgemim.export.passes import apply_passes
from edgemim.export.passes.lower_opset import OPSET
from edgemim.export.structure import check_structure
from edgemim.export.tracing import count_layer_norms, trace
from edgemim.preprocess import Pixels, Preprocess

Floats = npt.NDArray[np.float32]

FP32_FILE = "fp32.onnx"


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
    overwrite: bool = False,
) -> Artifact:
    """Export, lower, check and write one checkpoint.

    Args:
        checkpoint: A loaded checkpoint: float32 weights, on the CPU, in eval mode.
        out: Folder of the new artifact.
        pixels: Golden images as the preprocessing contract gives them, uint8 [G, H, W, 3], G >= 1.
        batch_size: The fixed batch of the exported graph.
        overwrite: Replace an artifact that lies at `out`.

    Returns:
        The artifact of kind `onnx`, read back and verified.

    Raises:
        ConfigError: The golden images do not fit the model, or the model has no single vector per image.
        EdgemimError: The backbone cannot be exported, or the ONNX model does not compute what torch computes;
            then the message names the first module that differs, where one can be found.
        OutputError: `out` exists, or cannot be written.
        MissingDependencyError: onnxruntime is not installed.
    """
    refuse_existing(Path(out), overwrite=overwrite)
    _check_settings(checkpoint, pixels, batch_size)
    inputs = checkpoint.preprocess.normalise(pixels)
    outputs = _torch_outputs(checkpoint, inputs)
    graph = export_graph(checkpoint, batch_size=batch_size)
    serialized = ir.to_proto(graph).SerializeToString(deterministic=True)
    batch = np.resize(inputs, (batch_size, *inputs.shape[1:]))
    parity = check_parity(
        serialized,
        inputs,
        outputs,
        explain=lambda: first_difference(checkpoint.model, graph, batch, tolerance=TOLERANCE),
    )
    with create_artifact(out, "onnx", overwrite=overwrite) as draft:
        draft.path(FP32_FILE).write_bytes(serialized)
        for name, array in (("inputs", inputs), ("pixels", pixels), ("outputs", outputs)):
            write_bytes(draft.path(f"golden/{name}.npy"), _npy(array))
        draft.content = _content(checkpoint, graph, parity, golden=len(pixels))
        _record(draft, checkpoint, batch_size)
    return load_artifact(out, "onnx")


def _npy(array: npt.NDArray[Any]) -> bytes:
    """An array as a .npy file in memory: numpy's own writing hides why a disk refused."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def export_graph(checkpoint: Checkpoint, *, batch_size: int = 1) -> ir.Model:
    """The fp32 graph after all passes and structure checks, not yet compared with torch.

    Raises:
        EdgemimError: The backbone cannot be exported; the message names the op and the torch module.
    """
    images = torch.zeros(batch_size, 3, *checkpoint.preprocess.size)
    layer_norms = count_layer_norms(checkpoint.model, images)
    model = trace(checkpoint.model, images, input_name="images", output_name=_output_name(checkpoint))
    model = apply_passes(model)
    check_structure(model, layer_norms)
    return model


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


def _torch_outputs(checkpoint: Checkpoint, inputs: Floats) -> Floats:
    """What torch computes, one image at a time so that the batch does not change the order of additions."""
    with torch.no_grad():
        rows = [checkpoint.model(torch.from_numpy(image[None])) for image in inputs]
    shape = tuple(rows[0].shape) if isinstance(rows[0], torch.Tensor) else type(rows[0]).__name__
    if not isinstance(shape, tuple) or len(shape) != 2:
        raise ConfigError(
            f"{checkpoint.architecture} must return one vector per image, [1, K]; got {shape}; "
            "give the backbone a pooling, for instance --set backbone.global_pool=avg"
        )
    return torch.cat(rows).numpy().astype(np.float32, copy=False)


def _output_name(checkpoint: Checkpoint) -> str:
    return "logits" if checkpoint.num_classes else "embedding"


def _content(checkpoint: Checkpoint, graph: ir.Model, parity: Parity, *, golden: int) -> dict[str, Any]:
    source, result = graph.graph.inputs[0], graph.graph.outputs[0]
    assert source.shape is not None
    assert result.shape is not None
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
            "shape": list(source.shape.numpy()),
            "encoding": "normalised",
        },
        "output": {"name": result.name, "shape": list(result.shape.numpy())},
        "flavours": [{"name": "fp32", "precision": "fp32", "opset": OPSET, "file": FP32_FILE}],
        "golden": {
            "inputs": "golden/inputs.npy",
            "pixels": "golden/pixels.npy",
            "outputs": "golden/outputs.npy",
            "count": golden,
        },
        "parity": {"torch_vs_onnxruntime": {"max_abs": parity.max_abs, "tolerance": parity.tolerance}},
        "calibration": None,
    }


def _record(draft: Draft, checkpoint: Checkpoint, batch_size: int) -> None:
    draft.provenance = [dict(record) for record in checkpoint.artifact.provenance]
    packages = ("torch", "timm", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy")
    draft.record(
        "export",
        checkpoint=checkpoint.artifact.fingerprint,
        settings={"batch_size": batch_size, "opset": OPSET, "flavours": ["fp32"]},
        versions={"python": platform.python_version(), **{name: version(name) for name in packages}},
    )
