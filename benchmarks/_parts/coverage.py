"""How far one backbone comes: exported, right in ONNX Runtime, run by OpenVINO, built by NVIDIA's builder."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from edgemim.errors import DeviceError, EdgemimError
from edgemim.export.flavours import make_flavour
from edgemim.export.parity import Floats, run_onnx
from edgemim.export.passes import prepare
from edgemim.export.tracing import count_layer_norms, trace
from edgemim.runtime.backends._base import vendor_failures

from . import nvidia
from .backbones import Backbone, build, outputs

STAGES = ("export", "onnxruntime", "openvino", "nvidia_fp32", "nvidia_fp16")
# Absolute; the largest output is 1.
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Export:
    """Both flavours, as files, and the graph of fp32."""

    graph: ir.Model
    exporter_opset: int
    fp32: bytes
    fp16: bytes


def export(model: torch.nn.Module, images: torch.Tensor) -> Export:
    """As `edgemim export` does, for one image at a time.

    Raises:
        EdgemimError: It cannot be exported.
    """
    one = torch.zeros_like(images[:1])
    norms = count_layer_norms(model, one)
    traced = trace(model, one, input_name="images", output_name="logits")
    opset = traced.opset_imports[""]
    prepared = prepare(traced)
    fp32, fp16 = (make_flavour(name, prepared, norms, images.numpy()) for name in ("fp32", "fp16"))
    return Export(graph=fp32.graph, exporter_opset=opset, fp32=fp32.serialized, fp16=fp16.serialized)


def run_openvino(serialized: bytes, images: Floats) -> Floats:
    """The only output for one image at a time, in float32.

    Raises:
        DeviceError: OpenVINO cannot read, compile or run the graph.
    """
    import openvino

    # The CPU computes in bf16 where it can, unless told otherwise.
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    with vendor_failures("openvino", "run the graph", RuntimeError):
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(serialized), "CPU", options)
        return np.concatenate([compiled(image[None])[0] for image in images])


def measure(backbone: Backbone) -> dict[str, Any]:
    """Everything that the table shows of one backbone.

    A stage that fails says why in `reason`, and the stages that need it are null.
    """
    model, images = build(backbone)
    row: dict[str, Any] = {
        "family": backbone.family,
        "name": backbone.name,
        "arguments": dict(backbone.arguments),
        "input_size": list(images.shape[2:]),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    stages: dict[str, Any] = dict.fromkeys(STAGES)
    expected = outputs(model, images).numpy()
    started = time.process_time()
    try:
        exported = export(model, images)
    except EdgemimError as error:
        return {**row, **stages, "export": {"reason": str(error)}}
    seconds = time.process_time() - started
    stages["export"] = _described(exported, seconds)
    stages["onnxruntime"] = _compared(run_onnx, exported.fp32, images.numpy(), expected)
    stages["openvino"] = _compared(run_openvino, exported.fp32, images.numpy(), expected)
    if nvidia.is_installed():
        stages["nvidia_fp32"] = asdict(nvidia.judge(exported.fp32))
        stages["nvidia_fp16"] = asdict(nvidia.judge(exported.fp16))
    return {**row, **stages}


def _described(exported: Export, seconds: float) -> dict[str, Any]:
    return {
        "cpu_seconds": round(seconds, 1),
        "exporter_opset": exported.exporter_opset,
        "opset": exported.graph.opset_imports[""],
        "nodes": len(list(exported.graph.graph)),
        "fp32_mib": round(len(exported.fp32) / 2**20, 1),
        "reason": None,
    }


def _compared(
    run: Callable[[bytes, Floats], Floats], serialized: bytes, images: Floats, expected: Floats
) -> dict[str, Any]:
    """The largest absolute difference to torch."""
    try:
        found = run(serialized, images)
    except DeviceError as error:
        return {"max_abs": None, "reason": str(error)}
    difference = float(np.abs(found - expected).max())
    # Written so that a NaN fails.
    right = difference <= TOLERANCE
    return {"max_abs": difference, "reason": None if right else f"differs from torch by {difference:.2g}"}
