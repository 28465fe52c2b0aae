"""What is asked of an ONNX file on a device that has no onnx package: its opset, and its nodes with their modules.

An ONNX file is a protocol buffer: fields, each a number, a wire type and a value. Only the few fields below are
read; the weights are stepped over.

Source: onnx/onnx, onnx/onnx.proto (field numbers); https://protobuf.dev/programming-guides/encoding (wire format)
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# The key under which export notes the torch module of a node.
MODULE_KEY = "edgemim.module"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_GRAPH, _MODEL_OPSETS = 7, 8
_GRAPH_NODE = 1
_NODE_NAME, _NODE_OPERATOR, _NODE_METADATA = 3, 4, 9
_KEY, _VALUE = 1, 2
_DOMAIN, _VERSION = 1, 2

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class OnnxNode:
    """A node: its name, its operator, and the torch module it came from (None where that is not noted)."""

    name: str
    operator: str
    module: str | None

    def __str__(self) -> str:
        """`op 'Mish' of module 'blocks.0.mlp.act'`, for messages."""
        where = f"module {self.module!r}" if self.module else "the model itself" if self.module == "" else None
        return f"op {self.operator!r} of {where or f'node {self.name!r}'}"


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """Opset of the default domain, and the nodes in the file's order; those of subgraphs are not listed."""

    opset: int
    nodes: tuple[OnnxNode, ...]

    @property
    def operators(self) -> Counter[str]:
        """How often each operator occurs."""
        return Counter(node.operator for node in self.nodes)


def read_onnx(path: Path) -> OnnxFile:
    """Read opset and nodes.

    Raises:
        ValueError: Not an ONNX file.
    """
    with path.open("rb") as stream:
        if not path.stat().st_size:
            raise ValueError(f"{path.name} is empty")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _model(data)
            except (IndexError, UnicodeDecodeError) as error:
                raise ValueError(f"{path.name} is no ONNX file") from error


def _model(data: mmap.mmap) -> OnnxFile:
    opset, nodes = 0, []
    for number, value in _fields(data, (0, len(data))):
        if number == _MODEL_OPSETS:
            entry = dict(_fields(data, _span(value)))
            # The default domain is written as an empty string, or not at all.
            if not _text(data, entry.get(_DOMAIN, (0, 0))):
                opset = _integer(entry.get(_VERSION, 0))
        elif number == _MODEL_GRAPH:
            nodes = [_node(data, _span(v)) for n, v in _fields(data, _span(value)) if n == _GRAPH_NODE]
    if not opset or not nodes:
        raise ValueError("no ONNX file: it has no opset or no node")
    return OnnxFile(opset=opset, nodes=tuple(nodes))


def _node(data: mmap.mmap, span: Span) -> OnnxNode:
    name, operator, module = "", "", None
    for number, value in _fields(data, span):
        if number == _NODE_NAME:
            name = _text(data, value)
        elif number == _NODE_OPERATOR:
            operator = _text(data, value)
        elif number == _NODE_METADATA:
            entry = dict(_fields(data, _span(value)))
            if _text(data, entry.get(_KEY, (0, 0))) == MODULE_KEY:
                module = _text(data, entry.get(_VALUE, (0, 0)))
    return OnnxNode(name=name, operator=operator, module=module)


def _fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, int | Span]]:
    """Number and value of every field: an integer, or the place of its bytes."""
    position, end = span
    while position < end:
        key, position = _varint(data, position)
        kind = key & 7
        if kind == _VARINT:
            value, position = _varint(data, position)
            yield key >> 3, value
        elif kind == _BYTES:
            size, position = _varint(data, position)
            if position + size > end:
                raise ValueError("no ONNX file: a field is longer than what holds it")
            yield key >> 3, (position, position + size)
            position += size
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"no ONNX file: a field of the unknown kind {kind}")


def _varint(data: mmap.mmap, position: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
        if shift > 63:
            raise ValueError("no ONNX file: a number of more than 64 bits")


def _span(value: int | Span) -> Span:
    if isinstance(value, int):
        raise ValueError("no ONNX file: a number where a message should be")  # noqa: TRY004  (of the file, not the caller)
    return value


def _integer(value: int | Span) -> int:
    if not isinstance(value, int):
        raise ValueError("no ONNX file: a message where a number should be")  # noqa: TRY004  (as above)
    return value


def _text(data: mmap.mmap, value: int | Span) -> str:
    start, end = _span(value)
    return data[start:end].decode()
