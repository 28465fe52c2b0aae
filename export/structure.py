"""What every exported graph must look like: checked after the passes, before the file is written.

Every rule is there because a device fails without it: TensorRT 8.6 parses opset 17; a LayerNorm in pieces
overflows in FP16; `If` and `Loop` are built wrongly by some TensorRT versions; quantizers and reports speak
of torch modules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import onnx_ir as ir

from edgemim.errors import EdgemimError
from edgemim.export.passes.lower_opset import OPSET
from edgemim.export.passes.module_names import MODULE_KEY, describe

_CONTROL_FLOW = ("If", "Loop", "Scan")


def check_structure(model: ir.Model, layer_norms: Mapping[str, int]) -> None:
    """Refuse a graph that breaks a rule.

    Args:
        model: The graph after all passes.
        layer_norms: How often each `nn.LayerNorm` runs in one forward pass, by module name.

    Raises:
        EdgemimError: The first rule that is broken, with op and module.
    """
    _check_opset(model)
    for node in model.graph:
        if node.op_type in _CONTROL_FLOW:
            raise EdgemimError(
                f"{describe(node)} is control flow, which TensorRT builds wrongly; trace the model without it"
            )
        if MODULE_KEY not in node.metadata_props:
            raise EdgemimError(
                f"{describe(node)} cannot be traced to a torch module; export with another torch version"
            )
    _check_shapes(model)
    _check_layer_norms(model, layer_norms)


def _check_opset(model: ir.Model) -> None:
    found = dict(model.opset_imports)
    if found != {"": OPSET} or model.functions:
        raise EdgemimError(
            f"the graph must use ONNX opset {OPSET} alone; found {found} and {len(model.functions)} functions"
        )


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
