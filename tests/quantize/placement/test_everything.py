"""The naive baseline takes all that can become INT8, and its units say what they are."""

from __future__ import annotations

from edgemim.quantize.placement import PLACEMENTS


def _place(model, target):
    return PLACEMENTS.get("everything")().place(model.graph, target)


def _kinds(placed):
    return {unit.name: unit.kind for unit in placed.units}


def test_a_block_has_its_layers_its_attention_and_both_additions(block_of, x86):
    placed = _place(block_of(), x86)
    assert _kinds(placed) == {
        "blocks.0.attn.qkv": "qkv",
        "blocks.0.attn": "attention",
        "blocks.0.attn.proj": "proj",
        "blocks.0.add": "add",
        "blocks.0.mlp.fc1": "fc1",
        "blocks.0.mlp.fc2": "fc2",
        "blocks.0.add#1": "add",
    }
    adds = [site.key for unit in placed.units if unit.kind == "add" for site in unit.sites]
    assert adds == ["blocks.0:skip", "blocks.0:branch", "blocks.0:skip.1", "blocks.0:branch.1"]


def test_a_convnet_has_its_gates_its_head_and_additions_without_relu(convnet, x86):
    assert _kinds(_place(convnet, x86)) == {
        "stem.conv": "conv",
        "layer1.0.conv1": "conv",
        "layer1.0.conv2": "conv",
        "layer1.0.add": "add",
        "layer2.0.dw": "depthwise",
        "layer2.0.se.fc": "conv",
        "layer2.0.pw": "conv",
        "layer2.0.add": "add",
        "head.fc": "head",
    }


def test_an_attention_found_whole_has_the_sites_of_the_placement_attention(block_of, x86):
    model = block_of()
    ours, theirs = (
        next(unit for unit in placed.units if unit.kind == "attention")
        for placed in (_place(model, x86), PLACEMENTS.get("attention")().place(model.graph, x86))
    )
    assert ours == theirs


def test_both_products_of_an_attention_that_is_not_whole_are_quantized_at_their_inputs(block_of, x86):
    rope = "qc = Mul (qh, cos)  qn = Neg (qh)  qn2 = Mul (qn, cos)  qs = Add (qc, qn2)"
    placed = _place(block_of(query=rope, cos=(8, 16)), x86)
    (unit,) = [unit for unit in placed.units if unit.kind == "attention"]
    assert unit.name == "blocks.0.attn"
    assert {site.key: (site.value, site.readers) for site in unit.sites} == {
        "blocks.0.attn:left": ("qs", (("node_s", 0),)),
        "blocks.0.attn:right": ("kt", (("node_s", 1),)),
        "blocks.0.attn:left.1": ("p", (("node_o", 0),)),
        "blocks.0.attn:right.1": ("vh", (("node_o", 1),)),
    }
    assert [site.unsigned for site in unit.sites] == [False, False, True, False]


def test_a_sum_of_two_forms_of_one_tensor_is_no_residual_addition(block_of, x86):
    rope = "qc = Mul (qh, cos)  qn = Transpose <perm = [0, 1, 2, 3]> (qh)  qn2 = Mul (qn, cos)  qs = Add (qc, qn2)"
    placed = _place(block_of(query=rope, cos=(8, 16)), x86)
    assert [unit.name for unit in placed.units if unit.kind == "add"] == ["blocks.0.add", "blocks.0.add#1"]


def test_layer_scale_does_not_hide_a_residual_addition(block_of, x86):
    placed = _place(block_of(residual="ls = Mul (e, gamma)  r = Add (ls, x)"), x86)
    add = next(unit for unit in placed.units if unit.name == "blocks.0.add")
    assert {site.role: site.value for site in add.sites} == {"skip": "x", "branch": "ls"}


def test_no_limit_of_a_target_holds(block_of, jetson):
    placed = _place(block_of(width=7), jetson)
    assert "attention" in _kinds(placed).values()


def test_a_model_of_nothing_says_so(graph_of, x86):
    placed = _place(graph_of("(float[1, 4] x) => (float[1, 4] y) { y = Relu (x) }"), x86)
    assert placed.units == ()
    assert placed.remarks == ("nothing in this model can become INT8",)
