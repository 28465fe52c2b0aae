"""Which linear layers become INT8, and under which names."""

from __future__ import annotations

import numpy as np
import pytest

from edgemim.quantize.placement import PLACEMENTS


def _place(model, target):
    return PLACEMENTS.get("linear")().place(model.graph, target)


def test_the_four_linears_of_a_block_are_units_of_input_and_weight(block_of, x86):
    placed = _place(block_of(), x86)
    assert [(unit.name, unit.kind, unit.block) for unit in placed.units] == [
        ("blocks.0.attn.qkv", "qkv", "blocks.0"),
        ("blocks.0.attn.proj", "proj", "blocks.0"),
        ("blocks.0.mlp.fc1", "fc1", "blocks.0"),
        ("blocks.0.mlp.fc2", "fc2", "blocks.0"),
    ]
    assert placed.remarks == ()
    data, weight = placed.units[0].sites
    assert (data.key, data.value, data.readers, data.axis) == ("blocks.0.attn.qkv:input", "n", (("node_a", 0),), None)
    assert (weight.key, weight.value, weight.readers) == ("blocks.0.attn.qkv:weight", "w_qkv", (("node_a", 1),))


def test_what_a_relu_gives_is_unsigned_and_what_a_layer_norm_gives_is_not(block_of, x86):
    inputs = {unit.kind: unit.sites[0].unsigned for unit in _place(block_of(), x86).units}
    assert inputs == {"qkv": False, "proj": False, "fc1": False, "fc2": True}


@pytest.mark.parametrize(
    ("text", "shape", "axis"),
    [
        ("y = MatMul (x, w)", (32, 48), 1),
        ("y = Gemm (x, w)", (32, 48), 1),
        ("y = Gemm <transB = 1> (x, w)", (48, 32), 0),
    ],
)
def test_a_weight_has_one_scale_per_output_channel_however_it_is_stored(graph_of, x86, text, shape, axis):
    model = graph_of(f"(float[4, 32] x) => (float[4, 48] y) {{ {text} }}", w=shape)
    assert _place(model, x86).units[0].sites[1].axis == axis


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "placed"),
    [(4, 16, 16, 1), (1, 64, 64, 0), (4, 15, 64, 0), (4, 64, 15, 0)],
    ids=["smallest", "one row", "narrow input", "narrow output"],
)
def test_small_products_stay_in_float_and_that_is_said(graph_of, x86, rows, inputs, outputs, placed):
    text = f"(float[1, {rows}, {inputs}] x) => (float[1, {rows}, {outputs}] y) {{ y = MatMul (x, w) }}"
    found = _place(graph_of(text, w=(inputs, outputs)), x86)
    assert len(found.units) == placed
    assert found.remarks == (() if placed else ("no linear layer is large enough for INT8",))


def test_products_of_activations_and_left_constants_are_no_linear_layers(graph_of, x86):
    text = """(float[1, 32, 32] x) => (float[1, 32, 32] z) {
        t = Transpose <perm = [0, 2, 1]> (x)  y = MatMul (x, t)  z = MatMul (w, y) }"""
    assert _place(graph_of(text, w=(32, 32)), x86).units == ()


def test_a_module_that_runs_twice_has_numbered_sites(graph_of, x86):
    text = """(float[1, 4, 32] x) => (float[1, 4, 32] z) {
        y = MatMul (x, w)  a = Relu (y)  z = MatMul (a, w) }"""
    model = graph_of(text, modules={"y": "block.fc", "z": "block.fc"}, w=(32, 32))
    units = _place(model, x86).units
    assert [unit.name for unit in units] == ["block.fc", "block.fc#1"]
    assert [site.key for unit in units for site in unit.sites] == [
        "block.fc:input",
        "block.fc:weight",
        "block.fc:input.1",
        "block.fc:weight.1",
    ]


def test_the_number_of_a_run_does_not_depend_on_the_runs_that_stay_in_float(graph_of, x86):
    # The first run has one row.
    text = """(float[1, 32] x, float[4, 32] y) => (float[1, 32] a, float[4, 32] b) {
        a = MatMul (x, w)  b = MatMul (y, w) }"""
    model = graph_of(text, modules={"a": "fc", "b": "fc"}, w=(32, 32))
    (unit,) = _place(model, x86).units
    assert unit.sites[0].key == "fc:input.1"


def test_a_layer_without_a_submodule_is_named_after_what_it_is_for(block_of, x86):
    # BEiT adds the bias of q and v itself: no module is its own for the product.
    modules = dict.fromkeys(("a", "b", "d", "e"), "blocks.0.attn")
    placed = _place(block_of(modules=modules), x86)
    assert [(unit.name, unit.kind) for unit in placed.units[:2]] == [
        ("blocks.0.attn.qkv", "qkv"),
        ("blocks.0.attn.proj", "proj"),
    ]
    assert [unit.sites[0].key for unit in placed.units[:2]] == ["blocks.0.attn:input", "blocks.0.attn:input.1"]


def test_a_number_at_the_end_of_a_module_s_name_is_not_its_kind(graph_of, x86):
    text = "(float[4, 32] x) => (float[4, 32] z) { y = MatMul (x, w)  z = Relu (y) }"
    (unit,) = _place(graph_of(text, modules={"y": "projs.0.2"}, w=(32, 32)), x86).units
    assert unit.kind == "projs"


def test_the_layer_that_gives_the_output_is_the_head(graph_of, x86):
    text = "(float[4, 32] x) => (float[4, 32] z) { y = MatMul (x, w)  z = Add (y, b) }"
    model = graph_of(text, modules={"y": "last", "z": "last"}, w=(32, 32), b=np.ones(32, np.float32))
    assert [(unit.name, unit.kind) for unit in _place(model, x86).units] == [("last", "head")]
