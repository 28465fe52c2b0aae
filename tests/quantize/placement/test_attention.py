"""Which attentions become INT8, where their Q/DQ go, and what is said of the others."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from edgemim.quantize.insert import insert_qdq
from edgemim.quantize.placement import PLACEMENTS

ATTENTION = "blocks.0.attn"


def _place(model, target):
    return PLACEMENTS.get("attention")().place(model.graph, target)


def _attentions(placed):
    return [unit for unit in placed.units if unit.kind == "attention"]


def _is_linear(placed, model, target):
    return placed.units == PLACEMENTS.get("linear")().place(model.graph, target).units


def test_an_attention_has_one_site_after_the_bias_of_qkv_and_one_on_the_softmax(block_of, x86):
    placed = _place(block_of(), x86)
    assert placed.remarks == ()
    (unit,) = _attentions(placed)
    assert (unit.name, unit.block) == (ATTENTION, "blocks.0")
    output, softmax = unit.sites
    assert (output.key, output.value) == ("blocks.0.attn.qkv:output", "b")
    assert output.readers == (("node_q", 0),)
    assert (softmax.key, softmax.value, softmax.readers) == ("blocks.0.attn:softmax", "p", (("node_o", 0),))
    assert (output.unsigned, softmax.unsigned) == (False, True)


def test_every_product_of_the_attention_reads_dequantized_values(block_of, x86):
    model = block_of()
    placed = _place(model, x86)
    thresholds = {site.key: 1.0 for unit in placed.units for site in unit.sites}
    insert_qdq(model, placed.units, thresholds, unsigned=True)
    types = {}
    for node in model.graph:
        if node.op_type == "MatMul":
            for position, value in enumerate(node.inputs):
                maker = value.producer()
                while maker.op_type in ("Mul", "Transpose", "Reshape", "Split"):
                    maker = maker.inputs[0].producer()
                assert maker.op_type == "DequantizeLinear"
                types[node.name, position] = maker.inputs[0].dtype
    assert types.pop(("node_o", 0)) == ir.DataType.UINT8
    assert types.pop(("node_i", 0)) == ir.DataType.UINT8  # after a ReLU
    assert set(types.values()) == {ir.DataType.INT8}
    assert len(types) == 10


# Forms that stay whole: what comes between the parts does not touch the INT8 inputs of the products.
WHOLE = {
    "scale folded away": {"query": "", "scores": "s = MatMul (qh, kt)"},
    "scale on queries and keys": {
        "query": "qs = Mul (qh, scale)  ks = Mul (kt, scale)",
        "scores": "s = MatMul (qs, ks)",
    },
    "scale on the scores": {"query": "", "scores": "t = MatMul (qh, kt)  s = Mul (t, scale)"},
    "relative position bias": {"scores": "t = MatMul (qs, kt)  s = Add (t, bias)", "bias": (1, 2, 8, 8)},
    "a bias that is not folded": {
        "scores": "t = MatMul (qs, kt)  u = Gather <axis = 0> (table, index)  s = Add (u, t)",
        "table": (3, 1, 2, 8, 8),
        "index": np.int64(1),
    },
    "bias and mask of shifted windows": {
        "scores": """
            t = MatMul (qs, kt)  u = Add (t, bias)  v1 = Reshape (u, windows)
            v2 = Add (v1, mask)  s = Reshape (v2, together)""",
        "bias": (1, 2, 8, 8),
        "mask": (1, 1, 1, 8, 8),
        "windows": np.int64([1, 1, 2, 8, 8]),
        "together": np.int64([1, 2, 8, 8]),
    },
    "a mask by Where": {
        "scores": "t = MatMul (qs, kt)  s = Where (keep, t, low)",
        "keep": np.ones((8, 8), bool),
        "low": np.float32(-1e4),
    },
    "layout after the softmax": {
        "mixing": "pt = Transpose <perm = [0, 1, 3, 2]> (p)  vt = Transpose <perm = [0, 1, 3, 2]> (vh)  "
        "o1 = MatMul (vt, pt)  o = Transpose <perm = [0, 1, 3, 2]> (o1)",
    },
    "a softmax in float32 between casts": {
        "softmax": "s32 = Cast <to = 1> (s)  p32 = Softmax <axis = -1> (s32)  p = Cast <to = 1> (p32)",
    },
    "LayerScale after proj": {"residual": "ls = Mul (e, gamma)  r = Add (x, ls)"},
}


@pytest.mark.parametrize("pieces", WHOLE.values(), ids=WHOLE)
def test_these_forms_are_placed_on_every_target(block_of, x86, jetson, pieces):
    model = block_of(modules={"p32": "blocks.0.attn.softmax"}, **pieces)
    for target in (x86, jetson):
        placed = _place(model, target)
        assert placed.remarks == ()
        (unit,) = _attentions(placed)
        assert unit.name == ATTENTION
        assert [site.key for site in unit.sites] == ["blocks.0.attn.qkv:output", "blocks.0.attn:softmax"]
        assert unit.sites[1].unsigned


def test_separate_layers_for_queries_keys_and_values_share_one_input_and_have_an_output_each(block_of, x86):
    qkv = "q = MatMul (n, w_q)  k = MatMul (n, w_k)  v = MatMul (n, w_v)"
    names = {name: f"{ATTENTION}.{name}_proj" for name in "qkv"}
    model = block_of(qkv=qkv, modules=names, w_q=(32, 32), w_k=(32, 32), w_v=(32, 32))
    placed = _place(model, x86)
    (unit,) = _attentions(placed)
    outputs = [site.key for site in unit.sites if site.role == "output"]
    assert outputs == [f"{ATTENTION}.{name}_proj:output" for name in "qkv"]
    thresholds = {site.key: 1.0 for unit in placed.units for site in unit.sites}
    insert_qdq(model, placed.units, thresholds, unsigned=True)
    quantized = [node for node in model.graph if node.op_type == "QuantizeLinear" and node.inputs[0].name == "n"]
    assert len(quantized) == 1


def test_the_swin_softmax_is_a_module_but_the_attention_keeps_its_own_name(block_of, x86):
    placed = _place(block_of(modules={"p": "blocks.0.attn.softmax"}), x86)
    (unit,) = _attentions(placed)
    assert (unit.name, unit.sites[1].key) == (ATTENTION, "blocks.0.attn:softmax")


def test_an_attention_and_its_functional_linears_have_different_names(block_of, x86):
    placed = _place(block_of(modules=dict.fromkeys(("a", "b", "d", "e"), ATTENTION)), x86)
    names = [unit.name for unit in placed.units]
    assert len(set(names)) == len(names) == 5
    (unit,) = _attentions(placed)
    assert [site.key for site in unit.sites] == [f"{ATTENTION}:output", f"{ATTENTION}:softmax"]


# Forms that the placement must leave alone, with the reason that it gives.
PARTIAL = {
    "RoPE": (
        {
            "query": "qc = Mul (qh, cos)  qn = Neg (qh)  qn2 = Mul (qn, cos)  qs = Add (qc, qn2)",
            "cos": (8, 16),
        },
        "do not come straight from a linear layer",
    ),
    "a sum after the linear layer that is no bias": (
        {
            "qkv": "a = MatMul (n, w_qkv)  b = Add (a, table)  q, k, v = Split <axis = -1> (b, thirds)",
            "table": (8, 96),
        },
        "do not come straight from a linear layer",
    ),
    "norm of the queries": (
        {"query": "qs = LayerNormalization <axis = -1> (qh, gain)", "gain": np.ones(16, np.float32)},
        "do not come straight from a linear layer",
    ),
    "a factor per channel": (
        {"query": "qs = Mul (qh, factors)", "factors": (16,)},
        "do not come straight from a linear layer",
    ),
    "queries that do not depend on the image": (
        {"query": "", "scores": "s = MatMul (latent, kt)", "latent": (1, 2, 8, 16)},
        "the scores are no product of queries and keys",
    ),
    "a softmax read twice": (
        {"mixing": "p2 = Mul (p, p)  o1 = MatMul (p, vh)  o2 = MatMul (p2, vh)  o = Add (o1, o2)"},
        "the softmax is not read by one product alone",
    ),
    "talking heads": (
        {
            "scores": "t = MatMul (qs, kt)  s = Conv <kernel_shape = [1, 1]> (t, talk)",
            "talk": (2, 2, 1, 1),
        },
        "the scores are no product of queries and keys",
    ),
    "an activation before proj": (
        {"proj": "c1 = HardSwish (c)  d = MatMul (c1, w_proj)  e = Add (d, b_proj)"},
        "no linear layer reads the result as it is",
    ),
}


@pytest.mark.parametrize(("pieces", "reason"), PARTIAL.values(), ids=PARTIAL)
def test_what_cannot_be_whole_stays_in_float_and_is_named_with_the_reason(block_of, x86, pieces, reason):
    model = block_of(**pieces)
    placed = _place(model, x86)
    assert _is_linear(placed, model, x86)
    stays, fallback = placed.remarks
    assert stays.startswith(f"the attention {ATTENTION!r} stays in float: ")
    assert stays.endswith(reason)
    assert fallback == "no attention became INT8: this is the placement 'linear'"


def test_queries_of_a_convolution_stay_in_float(graph_of, x86):
    text = """(float[1, 32, 4, 4] x) => (float[1, 16, 32] y) {
        q = Conv (x, w_q)  k = Conv (x, w_k)  v = Conv (x, w_v)
        qr = Reshape (q, flat)  kr = Reshape (k, flat)  vr = Reshape (v, flat)
        qt = Transpose <perm = [0, 2, 1]> (qr)  vt = Transpose <perm = [0, 2, 1]> (vr)
        s = MatMul (qt, kr)  p = Softmax <axis = -1> (s)  o = MatMul (p, vt)  y = MatMul (o, w_proj) }"""
    kernels = dict.fromkeys(("w_q", "w_k", "w_v"), (32, 32, 1, 1))
    model = graph_of(text, flat=np.int64([1, 32, 16]), w_proj=(32, 32), **kernels)
    placed = _place(model, x86)
    assert _is_linear(placed, model, x86)
    assert "do not come straight from a linear layer" in placed.remarks[0]


def test_small_linears_around_keep_the_attention_in_float(block_of, x86):
    model = block_of(width=7)
    placed = _place(model, x86)
    assert not _attentions(placed)
    assert placed.remarks[0].endswith("a linear layer beside it is too small for INT8")


def test_a_model_without_attention_says_so_and_is_the_placement_linear(convnet, graph_of, x86):
    # A softmax over classes is no attention.
    model = graph_of("(float[4, 32] x) => (float[4, 32] p) { y = MatMul (x, w)  p = Softmax (y) }", w=(32, 32))
    nothing = "no attention was found in this model: this is the placement 'linear'"
    assert _place(model, x86).remarks == (nothing,)
    assert len(_place(model, x86).units) == 1
    assert _place(convnet, x86).remarks == (nothing, "no linear layer is large enough for INT8")


def test_many_attentions_with_one_reason_are_one_remark(graph_of, x86):
    body, last = [], "x"
    modules = {}
    for i in range(12):
        body.append(f"n{i} = Neg ({last})  s{i} = MatMul (n{i}, x)  p{i} = Softmax (s{i})  y{i} = MatMul (p{i}, x)")
        modules |= dict.fromkeys((f"s{i}", f"p{i}", f"y{i}"), f"blocks.{i}.attn")
        last = f"y{i}"
    text = f"(float[1, 16, 16] x) => (float[1, 16, 16] y11) {{ {' '.join(body)} }}"
    placed = _place(graph_of(text, modules=modules), x86)
    assert placed.remarks == (
        "12 attentions, 'blocks.0.attn' to 'blocks.11.attn', stay in float: "
        "queries, keys or values do not come straight from a linear layer",
        "no attention became INT8: this is the placement 'linear'",
        "no linear layer is large enough for INT8",
    )


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"int8_head_dims": (32, 64)}, "jetson-orin-nano fuses INT8 heads of width 32 or 64 alone"),
        ({"int8_tokens": 7}, "jetson-orin-nano fuses INT8 attention over 7 tokens at most"),
        ({"int8_head_dims": (16,), "int8_tokens": 8}, None),
        ({"int8_head_dims": (), "int8_tokens": 0}, None),
    ],
)
def test_a_target_s_limits_hold(block_of, jetson, limits, reason):
    model = block_of()
    placed = _place(model, dataclasses.replace(jetson, **limits))
    assert len(_attentions(placed)) == (reason is None)
    if reason is not None:
        assert _is_linear(placed, model, jetson)
        assert placed.remarks[0] == f"the attention {ATTENTION!r} stays in float: {reason}"


def test_the_width_of_the_values_counts_too(block_of, jetson):
    # Values twice as wide as queries and keys.
    model = block_of(
        qkv="""qk = MatMul (n, w_qk)  q, k = Split <axis = -1> (qk, halves)  v = MatMul (n, w_v)""",
        modules={"qk": f"{ATTENTION}.qk", "v": f"{ATTENTION}.v"},
        mixing="o = MatMul (p, vh)",
        merge="ot = Transpose <perm = [0, 2, 1, 3]> (o)  c = Reshape (ot, wide)",
        heads="""
            qr = Reshape (q, to_heads)  qh = Transpose <perm = [0, 2, 1, 3]> (qr)
            kr = Reshape (k, to_heads)  kt = Transpose <perm = [0, 2, 3, 1]> (kr)
            vr = Reshape (v, value_heads)  vh = Transpose <perm = [0, 2, 1, 3]> (vr)""",
        w_qk=(32, 64),
        w_v=(32, 256),
        w_proj=(256, 32),
        halves=np.int64([32, 32]),
        value_heads=np.int64([1, 8, 2, 128]),
        wide=np.int64([1, 8, 256]),
    )
    assert not _attentions(_place(model, jetson))
    assert len(_attentions(_place(model, dataclasses.replace(jetson, int8_head_dims=(16, 128))))) == 1


def test_who_reads_the_output_of_qkv_for_something_else_keeps_the_float(block_of, x86):
    residual = "extra = Relu (b)  e2 = ReduceMean <axes = [2], keepdims = 1> (extra)  e1 = Mul (e, e2)  r = Add (x, e1)"
    model = block_of(residual=residual)
    (unit,) = _attentions(_place(model, x86))
    assert unit.sites[0].readers == (("node_q", 0),)


def test_a_module_that_attends_twice_has_numbered_units_and_sites(block_of, x86):
    second = """
        a2 = MatMul (y1, w_qkv)  b2 = Add (a2, b_qkv)  q2, k2, v2 = Split <axis = -1> (b2, thirds)
        q3 = Reshape (q2, to_heads)  q4 = Transpose <perm = [0, 2, 1, 3]> (q3)
        k3 = Reshape (k2, to_heads)  k4 = Transpose <perm = [0, 2, 3, 1]> (k3)
        v3 = Reshape (v2, to_heads)  v4 = Transpose <perm = [0, 2, 1, 3]> (v3)
        s2 = MatMul (q4, k4)  p2 = Softmax <axis = -1> (s2)  o2 = MatMul (p2, v4)
        t2 = Transpose <perm = [0, 2, 1, 3]> (o2)  c2 = Reshape (t2, to_tokens)  y = MatMul (c2, w_proj)"""
    again = {"a2": f"{ATTENTION}.qkv", "b2": f"{ATTENTION}.qkv", "y": f"{ATTENTION}.proj"}
    model = block_of(mlp=f"y1 = Neg (r) {second}", modules=again)
    units = _attentions(_place(model, x86))
    assert [unit.name for unit in units] == [ATTENTION, f"{ATTENTION}#1"]
    assert [site.key for site in units[1].sites] == [f"{ATTENTION}.qkv:output.1", f"{ATTENTION}:softmax.1"]
