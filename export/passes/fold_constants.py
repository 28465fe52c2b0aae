"""Compute what does not depend on the image.

The exporter folds most of it, but leaves some rotary tables (`Split` of a constant and all that follows) in
the graph, where TensorRT has been seen to get them wrong.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import LiftConstantsToInitializersPass

# Ops whose result is not a function of their inputs alone.
_RANDOM = frozenset(
    {
        "Bernoulli",
        "Dropout",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)

# A folded value may not make the file grow by more than this (an Expand or a Tile of something small). The position
# biases of 12 heads over 256 tokens take 3 MiB.
_LARGEST_GROWTH_BYTES = 4 << 20


def fold_constants(model: ir.Model) -> ir.Model:
    """Replace every node whose inputs are all constant by its value."""
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for node in list(model.graph):
        if _is_foldable(node):
            _fold(model, node)
    return model


def _is_foldable(node: ir.Node) -> bool:
    if node.domain not in ("", "ai.onnx") or node.op_type in _RANDOM or not node.inputs:
        return False
    if any(output.is_graph_output() for output in node.outputs):
        return False
    if any(attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attr in node.attributes.values()):
        return False
    return all(value is None or value.const_value is not None for value in node.inputs)


def _fold(model: ir.Model, node: ir.Node) -> None:
    inputs = {v.name: v.const_value.numpy() for v in node.inputs if v is not None and v.const_value is not None}
    results = _evaluate(node, inputs, model.opset_imports[""])
    growth = sum(r.nbytes for r in results) - sum(i.nbytes for i in inputs.values())
    if growth > _LARGEST_GROWTH_BYTES:
        return
    for output, result in zip(node.outputs, results, strict=True):
        folded = ir.Value(name=f"{output.name}_folded", const_value=ir.tensor(np.ascontiguousarray(result)))
        folded.shape, folded.dtype = ir.Shape(result.shape), ir.DataType.from_numpy(result.dtype)
        model.graph.register_initializer(folded)
        output.replace_all_uses_with(folded)
    model.graph.remove(node, safe=True)


def _evaluate(node: ir.Node, inputs: dict[str | None, npt.NDArray[Any]], opset: int) -> list[npt.NDArray[Any]]:
    proto = ir.serde.serialize_node(node)
    arguments = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in proto.output]
    graph = onnx.helper.make_graph([proto], "fold", arguments, outputs)
    single = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    return [np.asarray(result) for result in ReferenceEvaluator(single).run(None, inputs)]
