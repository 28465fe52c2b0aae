"""What every exported graph must look like: checked after the passes, before the file is written.

Every rule is there because a device fails without it: TensorRT 8.6 parses opset 17, strongly typed TensorRT 10
opset 20; a LayerNorm in pieces overflows in FP16; `If` and `Loop` are built wrongly by some TensorRT versions; a
float32 tensor in an fp16 graph is slow where it is not needed, and an fp16 one overflows where it is; quantizers and
reports speak of torch modules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import onnx_ir as ir

from edgemim.errors import EdgemimError
from edgemim.export.passes._float_types import is_float, is_float32_by_definition
from edgemim.export.passes.lower_opset import OPSET
from edgemim.export.passes.module_names import MODULE_KEY, describe

_CONTROL_FLOW = ("If", "Loop", "Scan")


def check_structure(
    model: ir.Model, layer_norms: Mapping[str, int], *, opset: int = OPSET, islands: Collection[str] | None = None
) -> None:
    """Refuse a graph that breaks a rule.

    Args:
        model: The graph after all passes.
        layer_norms: How often each `nn.LayerNorm` runs in one forward pass, by module name.
        opset: The only opset that the graph may use.
        islands: Of an fp16 graph, names of the nodes that compute in float32; None: the graph is float32.

    Raises:
        EdgemimError: The first rule that is broken, with op and module.
    """
    _check_opset(model, opset)
    float32 = None if islands is None else frozenset(islands)
    for node in model.graph:
        if node.op_type in _CONTROL_FLOW:
            raise EdgemimError(
                f"{describe(node)} is control flow, which TensorRT builds wrongly; trace the model without it"
            )
        if MODULE_KEY not in node.metadata_props:
            raise EdgemimError(
                f"{describe(node)} cannot be traced to a torch module; export with another torch version"
            )
        _check_types(node, float32)
    _check_ends(model.graph)
    _check_shapes(model)
    _check_layer_norms(model, layer_norms)


def _check_opset(model: ir.Model, opset: int) -> None:
    found = dict(model.opset_imports)
    if found != {"": opset} or model.functions:
        raise EdgemimError(
            f"the graph must use ONNX opset {opset} alone; found {found} and {len(model.functions)} functions"
        )


def _check_types(node: ir.Node, islands: Collection[str] | None) -> None:
    """float32 everywhere, or float16 outside the islands; only a Cast stands between."""
    if node.op_type == "Cast" and islands is not None:
        return
    float32 = islands is None or node.name in islands
    wanted = ir.DataType.FLOAT if float32 else ir.DataType.FLOAT16
    read = [value for i, value in enumerate(node.inputs) if not is_float32_by_definition(node, i)]
    for value in (*read, *node.outputs):
        if value is not None and is_float(value) and value.dtype != wanted:
            raise EdgemimError(
                f"{describe(node)} must compute in {wanted.name.lower()}, but {value.name!r} is "
                f"{str(value.dtype).lower()}; report this model"
            )


def _check_ends(graph: ir.Graph) -> None:
    """What a device gives and takes is float32 in every flavour; pixels are uint8."""
    for value in (*graph.inputs, *graph.outputs):
        if value.dtype not in (ir.DataType.FLOAT, ir.DataType.UINT8):
            raise EdgemimError(f"the graph's {value.name!r} is {str(value.dtype).lower()}; it must be float")


def _check_shapes(model: ir.Model) -> None:
    for value in (*model.graph.inputs, *(output for node in model.graph for output in node.outputs)):
        producer = value.producer()
        where = describe(producer) if producer else f"input {value.name!r}"
        if value.shape is None or not value.shape.is_static():
            raise EdgemimError(
                f"{where} has the shape {value.shape}, which is not fixed; edgemim exports fixed shapes only"
            )


def _check_layer_norms(model: ir.Model, expected: Mapping[str, int]) -> None:
    norms = (node for node in model.graph if node.op_type == "LayerNormalization")
    found = Counter(node.metadata_props[MODULE_KEY] for node in norms)
    for module, count in expected.items():
        if found[module] != count:
            raise EdgemimError(
                f"LayerNorm {module!r} runs {count} times but became {found[module]} LayerNormalization "
                "nodes; in pieces it overflows in FP16: export with another torch version"
            )
