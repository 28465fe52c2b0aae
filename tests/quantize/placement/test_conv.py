"""Convolutions, and what a residual addition gets from the side."""

from __future__ import annotations

import numpy as np
import pytest

from edgemim.quantize.insert import insert_qdq
from edgemim.quantize.placement import PLACEMENTS


def _place(model, target):
    return PLACEMENTS.get("conv")().place(model.graph, target)


def _adds(placed):
    return {unit.name: [site.key for site in unit.sites] for unit in placed.units if unit.kind == "add"}


def test_convolutions_are_units_and_layers_on_one_position_stay_in_float(convnet, jetson):
    placed = _place(convnet, jetson)
    assert [(unit.name, unit.kind) for unit in placed.units] == [
        ("stem.conv", "conv"),
        ("layer1.0.conv1", "conv"),
        ("layer1.0.conv2", "conv"),
        ("layer1.0.add", "add"),
        ("layer2.0.dw", "depthwise"),
        ("layer2.0.pw", "conv"),
    ]
    assert placed.remarks == ()


def test_a_weight_has_a_scale_per_output_channel_also_where_it_is_depthwise(convnet, x86):
    units = {unit.name: unit for unit in _place(convnet, x86).units}
    thresholds = {site.key: 1.0 for unit in units.values() for site in unit.sites}
    insert_qdq(convnet, units.values(), thresholds, unsigned=True)
    for name in ("stem.conv", "layer2.0.dw"):
        weight = units[name].sites[1].value
        stored = convnet.graph.initializers[f"{weight}_int8"].const_value.numpy()
        assert convnet.graph.initializers[f"{weight}_scale"].shape == [8]
        # Every channel reaches the end of its range, so each has its own scale.
        assert (np.abs(stored).max(axis=(1, 2, 3)) == 127).all()


@pytest.mark.parametrize(("group", "kind"), [(1, "conv"), (2, "conv"), (8, "depthwise")])
def test_only_one_channel_per_group_is_depthwise(graph_of, x86, group, kind):
    text = f"""(float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] z) {{
        y = Conv <kernel_shape = [1, 1], group = {group}> (x, w)  z = Relu (y) }}"""
    (unit,) = _place(graph_of(text, w=(8, 8 // group, 1, 1)), x86).units
    assert (unit.kind, unit.sites[1].axis) == (kind, 0)


@pytest.mark.parametrize("group", [1, 2])
def test_a_transposed_convolution_has_its_output_channels_on_the_second_axis(graph_of, x86, group):
    text = f"""(float[1, 8, 4, 4] x) => (float[1, 8, 5, 5] y) {{
        y = ConvTranspose <kernel_shape = [2, 2], group = {group}> (x, w) }}"""
    (unit,) = _place(graph_of(text, w=(8, 8 // group, 2, 2)), x86).units
    assert unit.sites[1].axis == 1


def test_the_skip_before_a_relu_is_the_input_that_went_around(convnet, x86):
    placed = _place(convnet, x86)
    assert _adds(placed) == {"layer1.0.add": ["layer1.0:skip"]}
    (skip,) = next(unit for unit in placed.units if unit.kind == "add").sites
    assert (skip.value, skip.readers, skip.unsigned) == ("b", (("node_f", 1),), True)


def test_the_skip_shares_its_pair_with_the_convolution_that_reads_the_same_tensor(convnet, x86):
    placed = _place(convnet, x86)
    thresholds = {site.key: 1.0 for unit in placed.units for site in unit.sites}
    insert_qdq(convnet, placed.units, thresholds, unsigned=True)
    (pair,) = [node for node in convnet.graph if node.op_type == "QuantizeLinear" and node.inputs[0].name == "b"]
    readers = {use.node.name for use in pair.outputs[0].uses()[0].node.outputs[0].uses()}
    assert readers == {"node_c", "node_f"}


# Two convolutions on the branch, one or none beside it; the sum may be written either way.
_DOWNSAMPLE = """(float[1, 8, 8, 8] x) => (float[1, 8, 8, 8] y) {{
    r = Relu (x)
    a = Conv <kernel_shape = [1, 1]> (r, w_a)
    b = Relu (a)
    c = Conv <kernel_shape = [1, 1]> (b, w_b)
    d = Conv <kernel_shape = [1, 1]> (r, w_d)
    e = Add ({sum})
    y = {after} (e)
}}"""
_KERNELS = dict.fromkeys(("w_a", "w_b", "w_d"), (8, 8, 1, 1))


@pytest.mark.parametrize(("order", "position"), [("c, d", 1), ("d, c", 0)])
def test_the_shorter_way_is_the_skip_where_both_end_in_a_convolution(graph_of, x86, order, position):
    model = graph_of(_DOWNSAMPLE.format(sum=order, after="Relu"), modules={"e": "layer2.0"}, **_KERNELS)
    (skip,) = next(unit for unit in _place(model, x86).units if unit.kind == "add").sites
    assert (skip.key, skip.value, skip.readers) == ("layer2.0:skip", "d", (("node_e", position),))
    assert not skip.unsigned


def test_the_longest_way_counts_where_a_branch_has_short_cuts(graph_of, x86):
    # The gate makes the branch's shortest way to the image as short as that of the pooled skip.
    text = """(float[1, 8, 8, 8] x) => (float[1, 8, 8, 8] y) {
        r = Relu (x)  a = Conv <kernel_shape = [1, 1]> (r, w_a)  g1 = Sigmoid (x)  b = Mul (a, g1)
        c = Conv <kernel_shape = [1, 1]> (b, w_b)
        p = AveragePool <kernel_shape = [1, 1]> (r)  d = Conv <kernel_shape = [1, 1]> (p, w_d)
        e = Add (d, c)  y = Relu (e) }"""
    (skip,) = next(unit for unit in _place(graph_of(text, **_KERNELS), x86).units if unit.kind == "add").sites
    assert skip.value == "d"


@pytest.mark.parametrize("after", ["Identity", "HardSwish", "Sigmoid"])
def test_a_sum_that_feeds_no_relu_is_left_alone(graph_of, x86, after):
    model = graph_of(_DOWNSAMPLE.format(sum="c, d", after=after), **_KERNELS)
    assert _adds(_place(model, x86)) == {}


def test_a_clipped_relu_counts_as_one(graph_of, x86):
    text = _DOWNSAMPLE.format(sum="c, d", after="Relu").replace("y = Relu (e)", "y = Clip (e, low, high)")
    model = graph_of(text, modules={"e": "b"}, low=np.float32(0), high=np.float32(6), **_KERNELS)
    assert _adds(_place(model, x86)) == {"b.add": ["b:skip"]}


def test_the_residual_additions_of_a_transformer_are_left_alone(block_of, x86):
    placed = _place(block_of(), x86)
    assert {unit.kind for unit in placed.units} == {"qkv", "proj", "fc1", "fc2"}
    assert placed.remarks == ("no convolution was found: this is the placement 'linear'",)
    assert placed.units == PLACEMENTS.get("linear")().place(block_of().graph, x86).units


@pytest.mark.parametrize(
    ("text", "weights", "kind"),
    [
        ("y = Conv <kernel_shape = [4, 4], strides = [4, 4]> (x, w)", {"w": (8, 3, 4, 4)}, "patch_embed"),
        # Normalisation inside the graph does not hide that these are pixels.
        (
            "a = Sub (x, m)  b = Mul (a, m)  y = Conv <kernel_shape = [4, 4], strides = [4, 4]> (b, w)",
            {"w": (8, 3, 4, 4), "m": (1, 3, 1, 1)},
            "patch_embed",
        ),
        ("y = Conv <kernel_shape = [3, 3], strides = [4, 4], pads = [1, 1, 1, 1]> (x, w)", {"w": (8, 3, 3, 3)}, "conv"),
        (
            "a = Relu (x)  y = Conv <kernel_shape = [4, 4], strides = [4, 4]> (a, w)",
            {"w": (8, 3, 4, 4)},
            "conv",
        ),
    ],
    ids=["patches", "normalised in the graph", "overlapping", "not of the image"],
)
def test_a_convolution_that_cuts_the_image_into_patches_is_the_patch_embedding(graph_of, x86, text, weights, kind):
    model = graph_of(f"(float[1, 3, 16, 16] x) => (float[1, 8, 4, 4] z) {{ {text}  z = Relu (y) }}", **weights)
    (unit,) = _place(model, x86).units
    assert unit.kind == kind
