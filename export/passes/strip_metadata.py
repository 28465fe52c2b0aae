"""Remove what the exporter notes for debugging, so that one checkpoint always gives the same bytes.

Stack traces hold local paths, and the graph's notes hold the printed torch program. Only `edgemim.module`
stays.
"""

from __future__ import annotations

import onnx_ir as ir

from edgemim.export.passes.module_names import MODULE_KEY


def strip_metadata(model: ir.Model) -> ir.Model:
    """Drop all metadata and doc strings but `edgemim.module`."""
    graph = model.graph
    model.doc_string = None
    graph.doc_string = None
    model.metadata_props.clear()
    graph.metadata_props.clear()
    for node in graph:
        module = node.metadata_props.get(MODULE_KEY)
        node.doc_string = None
        node.metadata_props.clear()
        if module is not None:
            node.metadata_props[MODULE_KEY] = module
        for value in node.outputs:
            _clear(value)
    for value in (*graph.inputs, *graph.initializers.values()):
        _clear(value)
    return model


def _clear(value: ir.Value) -> None:
    value.doc_string = None
    value.metadata_props.clear()
