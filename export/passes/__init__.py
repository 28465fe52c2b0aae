"""What is done to every exported graph, in this order: first what all flavours share, then what each needs.

A pass takes an `onnx_ir.Model` and returns it, changed in place, with the same function of its inputs. It
looks at weights and structure only, never at data. One step needs data, and is not in these lists: the fp16 flavour
leaves them in float32, and `edgemim.export.flavours` measures it before `to_half`.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from edgemim.export.passes.equalise_heads import equalise_heads
from edgemim.export.passes.expand_col2im import expand_col2im
from edgemim.export.passes.expand_gelu import expand_gelu
from edgemim.export.passes.fold_attention_scale import fold_attention_scale
from edgemim.export.passes.fold_constants import fold_constants
from edgemim.export.passes.fold_layer_norm import fold_layer_norm
from edgemim.export.passes.fold_layer_scale import fold_layer_scale
from edgemim.export.passes.lower_opset import lower_opset
from edgemim.export.passes.module_names import module_names
from edgemim.export.passes.raise_opset import raise_opset
from edgemim.export.passes.remove_unused import remove_unused
from edgemim.export.passes.split_attention_scale import lift_attention_scale, split_attention_scale
from edgemim.export.passes.strip_metadata import strip_metadata
from edgemim.export.passes.sum_last_layer import sum_last_layer
from edgemim.runtime.targets._base import Form

GraphPass = Callable[[ir.Model], ir.Model]

_FIRST: tuple[GraphPass, ...] = (module_names, fold_constants, expand_col2im, remove_unused)
_WEIGHTS: tuple[GraphPass, ...] = (fold_layer_scale, fold_layer_norm, equalise_heads)

# Names come first, since the later passes copy them to the nodes they add. Passes that rewrite weights come last, at
# the exporter's own opset, and after what is unused has gone: they leave a layer alone that something else reads, dead
# or not. The scale of an attention goes before other factors, which would go into the queries whole; the heads come
# last, since they are judged by the final weights; then a scale that is to be seen may come back.
SHARED: dict[Form, tuple[GraphPass, ...]] = {
    "plain": (*_FIRST, fold_attention_scale, *_WEIGHTS),
    "tensorrt": (*_FIRST, lift_attention_scale, *_WEIGHTS, split_attention_scale),
}

# Metadata goes last.
PER_FLAVOUR: dict[str, tuple[GraphPass, ...]] = {
    "fp32": (expand_gelu, lower_opset, remove_unused, strip_metadata),
    "fp16": (raise_opset, sum_last_layer, remove_unused, strip_metadata),
}


def apply_passes(model: ir.Model, flavour: str = "fp32", *, form: Form = "plain") -> ir.Model:
    """All passes of one flavour on what the exporter returned: `prepare`, then `finish`."""
    return finish(prepare(model, form=form), flavour)


def prepare(model: ir.Model, *, form: Form = "plain") -> ir.Model:
    """The passes that all flavours share, on what the exporter returned."""
    for graph_pass in SHARED[form]:
        model = graph_pass(model)
    return model


def finish(model: ir.Model, flavour: str) -> ir.Model:
    """The passes of one flavour on a copy of a prepared graph, so that the next flavour starts where this one did.

    Args:
        model: What `prepare` returned; it is not changed. Weights are shared with the copy, not doubled.
        flavour: A key of `PER_FLAVOUR`.

    Raises:
        EdgemimError: The graph holds something that the flavour's opset lacks; the message names op and module.
    """
    model = model.clone()
    for graph_pass in PER_FLAVOUR[flavour]:
        model = graph_pass(model)
    return model
