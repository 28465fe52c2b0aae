"""The float flavours of one checkpoint, each made from the same trace.

`fp32` is opset 17: what TensorRT 8.6, OpenVINO and ONNX Runtime read, what is quantized, and the reference for all
others. `fp16` is opset 20 with float16 baked in, for strongly typed TensorRT from 10.0 on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from edgemim.errors import ConfigError
from edgemim.export.parity import Floats
from edgemim.export.passes import PER_FLAVOUR, finish
from edgemim.export.passes.float32_islands import find_islands
from edgemim.export.passes.module_names import MODULE_KEY
from edgemim.export.passes.remove_unused import remove_unused
from edgemim.export.passes.to_half import to_half
from edgemim.export.ranges import largest_values
from edgemim.export.structure import check_structure

REFERENCE = "fp32"


@dataclass(frozen=True, kw_only=True)
class Flavour:
    """One ONNX model of an artifact, not yet compared with torch.

    Attributes:
        name: `fp32` or `fp16`, also its precision.
        graph: After all passes and structure checks.
        serialized: The file's bytes; the same for the same checkpoint.
        notes: What the manifest says of it beyond name, precision, opset and file.
    """

    name: str
    graph: ir.Model
    serialized: bytes
    notes: Mapping[str, Any]

    @property
    def file(self) -> str:
        """Its file in the artifact."""
        return f"{self.name}.onnx"

    def entry(self) -> dict[str, Any]:
        """Its entry in the manifest."""
        opset = self.graph.opset_imports[""]
        return {"name": self.name, "precision": self.name, "opset": opset, "file": self.file, **self.notes}


def check_names(flavours: Sequence[str]) -> None:
    """Refuse flavours that cannot be made.

    Raises:
        ConfigError: An unknown name, one given twice, or no fp32.
    """
    unknown = [name for name in flavours if name not in PER_FLAVOUR]
    if unknown:
        raise ConfigError(f"there is no flavour {unknown[0]!r}; known: {', '.join(PER_FLAVOUR)}")
    if REFERENCE not in flavours or len(set(flavours)) < len(flavours):
        raise ConfigError(
            f"flavours must name {REFERENCE}, which the others are compared with, and each once; got {list(flavours)}"
        )


def make_flavour(name: str, prepared: ir.Model, layer_norms: Mapping[str, int], images: Floats) -> Flavour:
    """One flavour of a traced model.

    Args:
        name: A key of `edgemim.export.passes.PER_FLAVOUR`.
        prepared: What `edgemim.export.passes.prepare` returned; it is not changed.
        layer_norms: How often each `nn.LayerNorm` runs in one forward pass, by module name.
        images: Golden images, float32 [G, 3, H, W], on which fp16 measures what float16 cannot hold.

    Raises:
        EdgemimError: The graph cannot be written in the flavour's opset, or breaks a rule.
        MissingDependencyError: onnxruntime is not installed.
    """
    graph = finish(prepared, name)
    notes = _bake_half(graph, layer_norms, images) if name == "fp16" else {}
    if name == REFERENCE:
        check_structure(graph, layer_norms)
    serialized = ir.to_proto(graph).SerializeToString(deterministic=True)
    return Flavour(name=name, graph=graph, serialized=serialized, notes=notes)


def _bake_half(graph: ir.Model, layer_norms: Mapping[str, int], images: Floats) -> dict[str, Any]:
    """Make a float32 graph of opset 20 float16, in place; returns what the manifest says of it."""
    largest = largest_values(graph, images)
    islands = find_islands(graph, largest)
    notes = {"islands": _describe(islands, largest), "largest": _largest(graph, largest)}
    remove_unused(to_half(graph, islands))
    check_structure(graph, layer_norms, opset=graph.opset_imports[""], islands=[str(node.name) for node in islands])
    return notes


def _describe(islands: Mapping[ir.Node, str], largest: Mapping[str, float]) -> list[dict[str, Any]]:
    """One entry per module, op and reason, in the graph's order, with the largest magnitude read or made there."""
    entries: dict[tuple[str, str, str], float] = {}
    for node, reason in islands.items():
        key = (node.metadata_props[MODULE_KEY], node.op_type, reason)
        values = (largest.get(value.name or "", 0.0) for value in (*node.inputs, *node.outputs) if value is not None)
        entries[key] = max(entries.get(key, 0.0), *values)
    return [
        {"module": module, "op": op, "reason": reason, "largest": _rounded(value)}
        for (module, op, reason), value in entries.items()
    ]


def _largest(graph: ir.Model, largest: Mapping[str, float]) -> dict[str, Any]:
    """The largest magnitude of all, and where it was made."""
    nodes = [node for node in graph.graph if node.outputs[0].name in largest]
    node = max(nodes, key=lambda node: largest[str(node.outputs[0].name)])
    value = largest[str(node.outputs[0].name)]
    return {"module": node.metadata_props[MODULE_KEY], "op": node.op_type, "value": _rounded(value)}


def _rounded(value: float) -> float:
    """Three digits: the last ones differ between machines."""
    return float(f"{value:.3g}")
