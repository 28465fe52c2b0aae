"""From an ONNX file to a network of NVIDIA's library; what its parser refuses is named by node and torch module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgemim.errors import DeviceError
from edgemim.runtime.nvidia.library import Library
from edgemim.runtime.nvidia.logger import Log
from edgemim.runtime.nvidia.onnx_file import OnnxFile, OnnxNode, read_onnx

# TensorRT 10.3 gives a wrong result for some graphs with them, and edgemim exports none.
_CONTROL_FLOW = {"If", "Loop", "Scan"}
_MOST_REASONS = 3
_LONGEST_REASON = 300


@dataclass(frozen=True, kw_only=True)
class Network:
    """A parsed ONNX file.

    Attributes:
        file: What it was parsed from.
        onnx: Its opset and nodes.
        builder, definition: The library's `Builder` and `INetworkDefinition`.
        parser: Kept because the definition refers to weights that it holds.
    """

    library: Library
    log: Log
    file: Path
    onnx: OnnxFile
    builder: Any = field(repr=False)
    definition: Any = field(repr=False)
    parser: Any = field(repr=False)

    @property
    def has_qdq(self) -> bool:
        """Whether the graph says where it is INT8."""
        return "QuantizeLinear" in self.onnx.operators


def parse_onnx(library: Library, log: Log, file: Path) -> Network:
    """Parse a file into a network, strongly typed where the library can.

    Raises:
        DeviceError: `<library> cannot compile <file>: ` and why: not ONNX, an opset too new, control flow, dynamic
            shapes, or what the parser refuses, with the operator and the torch module it came from.
    """

    def refuse(reason: str) -> DeviceError:
        return DeviceError(f"{library.name} cannot compile {file.name}: {reason}")

    if library.trouble is not None:
        raise refuse(library.trouble)
    try:
        onnx = read_onnx(file)
    except ValueError as error:
        raise refuse(str(error)) from error
    reason = _trouble(onnx, library)
    if reason is not None:
        raise refuse(reason)
    trt = library.module
    log.clear()
    try:
        builder = trt.Builder(log.handle)
        definition = builder.create_network(library.network_flags())
        parser = trt.OnnxParser(definition, log.handle)
    except (RuntimeError, TypeError) as error:  # the latter is how the binding says that the library gave nothing
        raise refuse(f"{library.title} cannot start, {log.reasons()}") from error
    if not parser.parse_from_file(str(file)):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        raise refuse(_reasons(errors, onnx) or log.reasons())
    names = [i.name for i in map(definition.get_input, range(definition.num_inputs)) if -1 in tuple(i.shape)]
    if names:
        raise refuse(f"input {names[0]!r} has a dynamic shape, an edge engine needs static ones")
    return Network(
        library=library, log=log, file=file, onnx=onnx, builder=builder, definition=definition, parser=parser
    )


def _trouble(onnx: OnnxFile, library: Library) -> str | None:
    """Why a graph is not even given to the parser, or None."""
    if library.newest_opset is not None and onnx.opset > library.newest_opset:
        return f"it has opset {onnx.opset}, {library.title} reads up to {library.newest_opset}"
    branch = next((node for node in onnx.nodes if node.operator in _CONTROL_FLOW), None)
    return None if branch is None else f"{branch} is control flow, which TensorRT gets wrong in some versions"


def _reasons(errors: Sequence[Any], onnx: OnnxFile) -> str:
    """What the parser says, each thing once."""
    found = dict.fromkeys(_reason(error, onnx) for error in errors)
    more = f"; and {len(found) - _MOST_REASONS} more" if len(found) > _MOST_REASONS else ""
    return "; ".join(list(found)[:_MOST_REASONS]) + more


def _reason(error: Any, onnx: OnnxFile) -> str:
    text = " ".join(str(error.desc()).split())[:_LONGEST_REASON]
    code = getattr(error.code(), "name", str(error.code()))
    node = _node(error, onnx)
    return f"{code}, {text}" if node is None else f"{node} is refused: {code}, {text}"


def _node(error: Any, onnx: OnnxFile) -> OnnxNode | None:
    """The node that an error is about: by its name from TensorRT 10 on, before that by its place in the file."""
    if hasattr(error, "node_name"):
        name, operator = error.node_name(), error.node_operator()
        known = next((node for node in onnx.nodes if node.name == name), None)
        return known or (OnnxNode(name=name, operator=operator, module=None) if operator else None)
    index = error.node()
    return onnx.nodes[index] if 0 <= index < len(onnx.nodes) else None
