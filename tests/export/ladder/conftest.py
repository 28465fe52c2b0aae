"""A tiny ViT, its export, and flavours of it made by hand: damaged, half precision, INT8."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper

from edgemim.export.ladder.runs import Golden, OnnxRung
from edgemim.export.onnx import export_graph

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 2, "num_classes": 10}


@pytest.fixture(scope="session")
def vit(make_checkpoint, pixels) -> SimpleNamespace:
    """`model`, `proto` (its fp32 export), `preprocess` and `golden` images."""
    checkpoint = make_checkpoint("vit_tiny_patch16_224", **VIT)
    with torch.no_grad():
        for name, parameter in checkpoint.model.named_parameters():
            # As drawn, the layers add almost nothing to the sum that they add to.
            if parameter.ndim == 2 and name.startswith("blocks"):
                parameter.mul_(5)
    return SimpleNamespace(
        model=checkpoint.model,
        preprocess=checkpoint.preprocess,
        proto=ir.to_proto(export_graph(checkpoint)),
        golden=Golden(images=checkpoint.preprocess.normalise(pixels), pixels=pixels),
    )


@pytest.fixture
def rung(vit) -> Callable[..., OnnxRung]:
    """`rung(proto, name="other", precision="int8")`: a model on the golden images."""

    def make(proto: onnx.ModelProto, name: str = "other", precision: str = "int8") -> OnnxRung:
        return OnnxRung(name, precision, proto, vit.golden)

    return make


def copy_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def module_of(node: onnx.NodeProto) -> str:
    return next((entry.value for entry in node.metadata_props if entry.key == "edgemim.module"), "")


def constants_of(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def with_weight(
    proto: onnx.ModelProto, module: str, change: Callable[[np.ndarray], None], position: int = 1
) -> onnx.ModelProto:
    """A copy in which one constant of the first node of a module is another one; nobody else reads that."""
    copy, constants = copy_of(proto), constants_of(proto)
    node = next(node for node in copy.graph.node if module_of(node) == module)
    values = constants[node.input[position]].copy()
    change(values)
    name = f"{module}_{position}_of_{len(constants)}"
    copy.graph.initializer.append(numpy_helper.from_array(values, name))
    node.input[position] = name
    return copy


def quantized(
    proto: onnx.ModelProto,
    images: np.ndarray,
    *,
    activation: Mapping[str, float] | None = None,
    weight: Mapping[str, np.ndarray | float] | None = None,
) -> onnx.ModelProto:
    """A copy with INT8 linears: one scale per activation, one per output channel of a weight.

    Args:
        proto: The fp32 model.
        images: What the ranges are measured on.
        activation, weight: Factors on the scales of some modules, which make them wrong.
    """
    copy, constants = copy_of(proto), constants_of(proto)
    linears = [n for n in copy.graph.node if n.op_type in ("MatMul", "Gemm") and n.input[1] in constants]
    ranges = _largest(proto, images, {node.input[0] for node in linears})
    nodes = []
    for node in copy.graph.node:
        if any(node is linear for linear in linears):
            module = module_of(node)
            factor = (activation or {}).get(module, 1.0)
            scale = np.float32(ranges[node.input[0]] / 127 * factor)
            nodes += _qdq(copy, node, 0, scale, axis=None)
            axis = 0 if node.op_type == "Gemm" else 1
            values = constants[node.input[1]]
            scales = np.abs(values).max(axis=1 - axis) / np.float32(127)
            nodes += _qdq(copy, node, 1, scales, axis=axis, wrong=(weight or {}).get(module, 1.0))
        nodes.append(node)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _qdq(
    proto: onnx.ModelProto,
    node: onnx.NodeProto,
    position: int,
    scale: np.ndarray,
    *,
    axis: int | None,
    wrong: np.ndarray | float = 1.0,
) -> list[onnx.NodeProto]:
    """QuantizeLinear and DequantizeLinear before an input of `node`, under its module; `wrong` is for the latter."""
    stem, value = f"{node.name}_{position}", node.input[position]
    tensors = {
        "q_scale": np.float32(scale),
        "dq_scale": np.float32(scale * wrong),
        "zero": np.zeros(np.shape(scale), np.int8),
    }
    for name, array in tensors.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), f"{stem}_{name}"))
    attributes = {} if axis is None else {"axis": axis}
    make, zero = onnx.helper.make_node, f"{stem}_zero"
    quantize = make("QuantizeLinear", [value, f"{stem}_q_scale", zero], [f"{stem}_q"], f"{stem}_quantize", **attributes)
    inputs = [f"{stem}_q", f"{stem}_dq_scale", zero]
    dequantize = make("DequantizeLinear", inputs, [f"{stem}_dq"], f"{stem}_dequantize", **attributes)
    for new in (quantize, dequantize):
        new.metadata_props.add(key="edgemim.module", value=module_of(node))
    node.input[position] = f"{stem}_dq"
    return [quantize, dequantize]


def _largest(proto: onnx.ModelProto, images: np.ndarray, values: set[str]) -> dict[str, float]:
    import onnxruntime

    probed = copy_of(proto)
    for name in sorted(values):
        probed.graph.output.add(name=name)
    session = onnxruntime.InferenceSession(probed.SerializeToString(), providers=["CPUExecutionProvider"])
    found = [session.run(sorted(values), {"images": image[None]}) for image in images]
    return {name: max(float(np.abs(row[i]).max()) for row in found) for i, name in enumerate(sorted(values))}
