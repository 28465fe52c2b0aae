"""INT8 linear layers and INT8 attention: one scale on the output of qkv, one on the softmax.

The output of the qkv layer is quantized once, after its bias and before it is taken apart, so one scale covers
queries, keys and values; the softmax is quantized where it meets the values. Both matrix products of the attention
then have INT8 inputs, and together with the input of proj the three places that TensorRT's fused INT8 attention asks
for are there. A partial set would take the attention apart, so an attention is placed whole or not at all.

Source: NVIDIA TensorRT documentation and issues #2981 and #4167 (where fused attention wants Q/DQ); the arrangement
with the fewest kernels was found with TensorRT-RTX's builder for SM86.

Differs: the softmax is uint8 (step max/255) where the target has it, since int8 halves its resolution; its range is
measured, because a fixed step of 1/127 is larger than most weights of a diffuse attention.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from edgemim.quantize.nodes import is_linear
from edgemim.quantize.placement import PLACEMENTS
from edgemim.quantize.placement._base import Placed, Placement
from edgemim.quantize.placement._heads import Heads, attention_module, find_heads, heads_unit
from edgemim.quantize.placement._layers import NO_LINEAR, in_order, layer_unit, layers, worth_int8
from edgemim.runtime.targets._base import Target


class Attention(Placement):
    """`linear`, plus every attention that can be found whole."""

    def place(self, graph: ir.Graph, target: Target) -> Placed:
        """See `Placement.place`."""
        known = {layer.node: layer for layer in layers(graph)}
        units = [layer_unit(layer) for node, layer in known.items() if is_linear(node) and worth_int8(node)]
        linear = len(units)
        seen: Counter[str] = Counter()
        refused: dict[str, list[str]] = {}
        for softmax in (node for node in graph if node.op_type == "Softmax"):
            found = find_heads(softmax)
            reason = _limits(found, target) if isinstance(found, Heads) else found
            if reason is not None:
                refused.setdefault(reason, []).append(attention_module(softmax))
            if isinstance(found, Heads):
                unit = heads_unit(found, known, seen)
                if reason is None:
                    units.append(unit)
        remarks = _remarks(refused, placed=len(units) > linear)
        return Placed(units=in_order(graph, units), remarks=remarks if units else (*remarks, NO_LINEAR))


def _limits(heads: Heads, target: Target) -> str | None:
    """Why an attention that was found whole stays in float."""
    if heads.projection is None:
        return "no linear layer reads the result as it is"
    if not all(worth_int8(node) for node in (*heads.sources, heads.projection)):
        return "a linear layer beside it is too small for INT8"
    if target.int8_head_dims and not heads.widths <= set(target.int8_head_dims):
        return f"{target.name} fuses INT8 heads of width {_listed(target.int8_head_dims)} alone"
    if target.int8_tokens and heads.tokens > target.int8_tokens:
        return f"{target.name} fuses INT8 attention over {target.int8_tokens} tokens at most"
    return None


def _remarks(refused: Mapping[str, Sequence[str]], *, placed: bool) -> tuple[str, ...]:
    """One sentence per reason, however many attentions it holds for."""
    remarks = []
    for reason, modules in refused.items():
        what = f"{len(modules)} attentions, {modules[0]!r} to {modules[-1]!r}, stay"
        if len(modules) == 1:
            what = f"the attention {modules[0]!r} stays"
        remarks.append(f"{what} in float: {reason}")
    if not placed:
        why = "no attention became INT8" if refused else "no attention was found in this model"
        remarks.append(f"{why}: this is the placement 'linear'")
    return tuple(remarks)


def _listed(numbers: Sequence[int]) -> str:
    *most, last = [str(number) for number in numbers]
    return f"{', '.join(most)} or {last}" if most else last


PLACEMENTS.add("attention", Attention)
