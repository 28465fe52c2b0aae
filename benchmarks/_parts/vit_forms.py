"""A ViT as ONNX, node by node, with a choice of how its linears and its attention are written in INT8.

Weights are random, and larger than those that training starts from, so that the attention is not uniform. Scales
are the maxima over a few random images: good enough for speed, and for what an integer product does to a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]

CONTRIB = "com.microsoft"
SIZE, PATCH, CLASSES = 224, 16, 1000
TOKENS = (SIZE // PATCH) ** 2 + 1
_HEAD = 64
_BIG = 127


@dataclass(frozen=True, kw_only=True)
class Form:
    """How a graph is written.

    Attributes:
        linear: Of the four linears per block: `float`; `qdq` (MatMul between Q/DQ, bias float); `qdq-uint8` (the same
            with activations in uint8, zero point 128); `qgemm` (Gemm in 2-D between Q/DQ, bias int32);
            `integer` (com.microsoft MatMulIntegerToFloat), `integer-uint8` (the same with uint8 weights);
            `dynamic` (DynamicQuantizeMatMul: activations are quantized by each run's own range);
            `blocks` (MatMulNBits: weights in blocks of 32, activations by each run's own range).
        attention: `float`; `fused` (com.microsoft MultiHeadAttention in float); `fused-qkv` (QAttention, with
            the qkv linear in it); `qdq` (int8 q, k and v, uint8 softmax).
        per_channel: One scale per output channel of a weight, or one in all.
        weight_steps: Largest integer that a weight takes.
    """

    linear: str = "float"
    attention: str = "float"
    per_channel: bool = True
    weight_steps: int = _BIG


def build_vit(form: Form, *, width: int, depth: int = 12, ranges: Mapping[str, float] | None = None) -> onnx.ModelProto:
    """images float32 [1, 3, 224, 224] to logits [1, 1000]; opset 17, heads of 64.

    Args:
        ranges: Largest absolute value of each activation, as `measure_ranges` gives; not needed for float.
    """
    return _Writer(form, width, ranges or {}).write(depth)


def measure_ranges(
    *, width: int, depth: int = 12, run: Callable[[onnx.ModelProto, list[str]], Iterator[list[Array]]]
) -> dict[str, float]:
    """Largest absolute value of every tensor that some form quantizes.

    Args:
        run: Values of the named tensors, image by image.
    """
    writer = _Writer(Form(), width, {})
    model = writer.write(depth)
    names = list(writer.taps.values())
    largest = [0.0] * len(names)
    for values in run(model, names):
        largest = [max(old, float(np.abs(value).max())) for old, value in zip(largest, values, strict=True)]
    return dict(zip(writer.taps, largest, strict=True))


@dataclass
class _Writer:
    """Nodes and constants of one graph, as they are added."""

    form: Form
    width: int
    ranges: Mapping[str, float]
    taps: dict[str, str] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def write(self, depth: int) -> onnx.ModelProto:
        d = self.width
        kernel = {"kernel_shape": [PATCH, PATCH], "strides": [PATCH, PATCH]}
        x = self._add("Conv", ["images", self._constant(self._random(d, 3, PATCH, PATCH))], **kernel)
        x = self._add("Reshape", [x, self._integers(1, d, TOKENS - 1)])
        x = self._add("Transpose", [x], perm=[0, 2, 1])
        x = self._add("Concat", [self._constant(self._random(1, 1, d)), x], axis=1)
        x = self._add("Add", [x, self._constant(self._random(1, TOKENS, d))])
        for block in range(depth):
            y = self._attention(self._norm(x), f"{block}")
            x = self._add("Add", [x, self._linear(y, d, d, f"{block}.proj")])
            y = self._gelu(self._linear(self._norm(x), d, 4 * d, f"{block}.fc1"))
            x = self._add("Add", [x, self._linear(y, 4 * d, d, f"{block}.fc2")])
        x = self._add("Gather", [self._norm(x), self._constant(np.int64(0))], axis=1)
        head = [self._constant(self._random(d, CLASSES)), self._constant(self._random(CLASSES))]
        self.nodes.append(helper.make_node("Gemm", [x, *head], ["logits"], name="head"))
        graph = helper.make_graph(
            self.nodes,
            "vit",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
            self.constants,
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def _linear(self, x: str, rows: int, columns: int, name: str) -> str:
        weights, bias = self._random(rows, columns), self._random(columns)
        return self._product(x, weights, bias, name)

    def _product(self, x: str, weights: Array, bias: Array, name: str) -> str:
        """x times weights plus bias, in the form's way."""
        self.taps[name] = x
        linear = self.form.linear
        if linear == "float":
            return self._add("Add", [self._add("MatMul", [x, self._constant(weights)]), self._constant(bias)])
        if linear == "blocks":
            return self._in_blocks(x, weights, bias)
        whole, steps = self._quantize(weights)
        zeros = np.zeros(steps.shape, np.int8)
        if linear == "dynamic":
            inputs = [self._constant(value) for value in (whole, steps, zeros, bias)]
            return self._add("DynamicQuantizeMatMul", [x, *inputs], CONTRIB)
        if linear.startswith("integer"):
            if linear == "integer-uint8":
                whole, zeros = (whole.astype(np.int16) + 128).astype(np.uint8), np.full(steps.shape, 128, np.uint8)
            q, step, zero = self._quantized(x, name, np.uint8(128))
            inputs = [self._constant(value) for value in (whole, steps, zeros, bias)]
            order = [q, inputs[0], step, inputs[1], zero, inputs[2], inputs[3]]
            return self._add("MatMulIntegerToFloat", order, CONTRIB)
        q, step, zero = self._quantized(x, name, np.uint8(128) if linear == "qdq-uint8" else np.int8(0))
        x = self._add("DequantizeLinear", [q, step, zero])
        axis = {"axis": 1} if steps.ndim else {}
        w = self._add("DequantizeLinear", [self._constant(v) for v in (whole, steps, zeros)], **axis)
        if linear == "qgemm":
            return self._gemm(x, w, bias, np.float32(self.ranges[name] / _BIG) * steps, weights.shape)
        return self._add("Add", [self._add("MatMul", [x, w]), self._constant(bias)])

    def _gemm(self, x: str, w: str, bias: Array, steps: Array, shape: tuple[int, ...]) -> str:
        whole = np.round(bias / steps).astype(np.int32)
        axis = {"axis": 0} if steps.ndim else {}
        b = self._add("DequantizeLinear", [self._constant(whole), self._constant(steps.astype(np.float32))], **axis)
        flat = self._add("Reshape", [x, self._integers(TOKENS, shape[0])])
        y = self._add("Gemm", [flat, w, b])
        return self._add("Reshape", [y, self._integers(1, TOKENS, shape[1])])

    def _in_blocks(self, x: str, weights: Array, bias: Array) -> str:
        block = 32
        rows, columns = weights.shape
        parts = weights.T.reshape(columns, rows // block, block)
        steps = np.abs(parts).max(axis=2) / _BIG
        whole = np.round(parts / steps[..., None]) + 128
        inputs = [x, self._constant(whole.astype(np.uint8)), self._constant(steps.reshape(-1).astype(np.float32))]
        # accuracy_level 4: the activations are quantized to int8 as well.
        settings = {"K": rows, "N": columns, "bits": 8, "block_size": block, "accuracy_level": 4}
        return self._add("MatMulNBits", [*inputs, "", "", self._constant(bias)], CONTRIB, **settings)

    def _attention(self, x: str, block: str) -> str:
        d, heads = self.width, self.width // _HEAD
        weights, bias = 1.5 * self._random(d, 3 * d), self._random(3 * d)
        if self.form.attention == "fused-qkv":
            whole, steps = self._quantize(weights)
            q, step, zero = self._quantized(x, f"{block}.qkv", np.uint8(128))
            zeros = self._constant(np.zeros(steps.shape, np.int8))
            inputs = [q, self._constant(whole), self._constant(bias), step, self._constant(steps), "", zero, zeros]
            return self._add("QAttention", inputs, CONTRIB, num_heads=heads)
        qkv = self._product(x, weights, bias, f"{block}.qkv")
        if self.form.attention == "fused":
            parts = self._split(qkv, 3, axis=2, size=d)
            return self._add("MultiHeadAttention", parts, CONTRIB, num_heads=heads, scale=_HEAD**-0.5)
        return self._plain_attention(qkv, block)

    def _plain_attention(self, qkv: str, block: str) -> str:
        d, heads = self.width, self.width // _HEAD
        qkv = self._around(qkv, f"{block}.q_k_v", np.int8(0))
        qkv = self._add("Reshape", [qkv, self._integers(1, TOKENS, 3, heads, _HEAD)])
        qkv = self._add("Transpose", [qkv], perm=[2, 0, 3, 1, 4])
        parts = self._split(qkv, 3, axis=0, size=1)
        q, k, v = (self._add("Squeeze", [part, self._integers(0)]) for part in parts)
        q = self._add("Mul", [q, self._constant(np.float32(_HEAD**-0.5))])
        scores = self._add("MatMul", [q, self._add("Transpose", [k], perm=[0, 1, 3, 2])])
        shares = self._around(self._add("Softmax", [scores], axis=-1), f"{block}.softmax", np.uint8(0))
        y = self._add("Transpose", [self._add("MatMul", [shares, v])], perm=[0, 2, 1, 3])
        return self._add("Reshape", [y, self._integers(1, TOKENS, d)])

    def _around(self, x: str, name: str, zero: np.integer) -> str:
        """The tensor through Q/DQ, if the form quantizes the attention."""
        self.taps[name] = x
        if self.form.attention != "qdq":
            return x
        return self._add("DequantizeLinear", list(self._quantized(x, name, zero)))

    def _quantized(self, x: str, name: str, zero: np.integer) -> tuple[str, str, str]:
        """QuantizeLinear of a tensor, and the names of its scale and zero point."""
        largest = np.iinfo(zero.dtype).max - int(zero)
        step = self._constant(np.float32(self.ranges[name] / largest))
        point = self._constant(zero)
        return self._add("QuantizeLinear", [x, step, point]), step, point

    def _quantize(self, weights: Array) -> tuple[Array, Array]:
        """Symmetric int8 weights [K, N] and their scales, [N] or a scalar."""
        steps = np.abs(weights).max(axis=0 if self.form.per_channel else None) / self.form.weight_steps
        return np.round(weights / steps).astype(np.int8), np.asarray(steps, np.float32)

    def _norm(self, x: str) -> str:
        gain, bias = np.ones(self.width, np.float32), np.zeros(self.width, np.float32)
        return self._add("LayerNormalization", [x, self._constant(gain), self._constant(bias)], axis=-1, epsilon=1e-6)

    def _gelu(self, x: str) -> str:
        root, one, half = (self._constant(np.float32(value)) for value in (2**0.5, 1, 0.5))
        gate = self._add("Add", [self._add("Erf", [self._add("Div", [x, root])]), one])
        return self._add("Mul", [self._add("Mul", [x, gate]), half])

    def _random(self, *shape: int) -> Array:
        return (self._rng.standard_normal(shape) * 0.04).astype(np.float32)

    def _integers(self, *values: int) -> str:
        return self._constant(np.array(values, np.int64))

    def _split(self, x: str, parts: int, *, axis: int, size: int) -> list[str]:
        names = [f"{x}_part{i}" for i in range(parts)]
        sizes = self._integers(*[size] * parts)
        self.nodes.append(helper.make_node("Split", [x, sizes], names, name=f"Split_{x}", axis=axis))
        return names

    def _constant(self, value: Array | np.generic) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _add(self, op: str, inputs: list[str], domain: str = "", **attributes: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, domain=domain, **attributes))
        return name
