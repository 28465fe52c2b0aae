"""Ladders of a tiny ViT whose flavours are sound, damaged, or only look damaged."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from edgemim.export.ladder.climb import climb
from edgemim.export.ladder.runs import OnnxRung
from edgemim.export.ladder.words import ladder_to_dict, sentence
from edgemim.export.passes.pixel_input import pixel_input
from edgemim.export.passes.raise_opset import raise_opset
from edgemim.export.passes.set_batch import set_batch
from edgemim.export.passes.to_half import to_half
from tests.export.ladder.conftest import copy_of, module_of, quantized, with_weight


@pytest.fixture
def step_of(vit, rung):
    """`step_of(proto, precision="int8", **options)`: the step from the fp32 export to another model."""

    def climb_to(proto, precision="int8", **options):
        reference, other = rung(vit.proto, "fp32", "fp32"), rung(proto, precision=precision)
        (step,) = climb(reference, [other], vit.golden, **options).steps
        return step

    return climb_to


def _add(number):
    def change(values: np.ndarray) -> None:
        values[3, 2] += number

    return change


def test_the_export_follows_torch_in_every_block(vit, rung):
    (step,) = climb(rung(vit.proto, "fp32", "fp32"), [], vit.golden, model=vit.model).steps
    assert list(step.blocks) == ["patch_embed", "blocks.0", "blocks.1", "blocks.2", "norm", "head"]
    # float32 rounds at 152 dB; some hundred roundings cost 20 to 25.
    assert min(step.snr_db(block) for block in step.blocks) > 110
    assert (step.first, step.departs, step.departs_fused) == (None, False, False)
    assert sentence(step).startswith(f"fp32 follows torch in all {len(step.blocks)} blocks, at least 1")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_one_damaged_weight_is_found_by_block_and_module(vit, step_of, precision):
    step = step_of(with_weight(vit.proto, "blocks.1.mlp.fc2", _add(30)), precision)
    assert (step.first, step.culprit) == ("blocks.1", "blocks.1.mlp.fc2")
    assert step.blocks["blocks.0"].max_abs == 0
    assert "blocks.1 (" in sentence(step)
    assert sentence(step).endswith("look at blocks.1.mlp.fc2")


@pytest.mark.parametrize(
    ("module", "block", "number"),
    [
        ("patch_embed.proj", "patch_embed", 3),
        ("blocks.0.attn.qkv", "blocks.0", 30),
        ("blocks.1.attn.proj", "blocks.1", 30),
        ("blocks.2.mlp.fc1", "blocks.2", 30),
        ("head", "head", 3),
    ],
)
def test_damage_is_found_in_every_kind_of_layer(vit, step_of, module, block, number):
    step = step_of(with_weight(vit.proto, module, _add(number)))
    assert (step.first, step.culprit) == (block, module)


def test_damage_in_what_a_module_computes_itself_is_found_there(vit, step_of):
    # Every token would be looked at by the tokens it looks at.
    damaged = copy_of(vit.proto)
    (node,) = [n for n in damaged.graph.node if n.op_type == "Softmax" and module_of(n) == "blocks.1.attn"]
    node.attribute[0].i = 2
    step = step_of(damaged)
    assert (step.first, step.culprit) == ("blocks.1", "blocks.1.attn before proj")


def test_damaged_positions_are_found_before_the_first_block(vit, step_of):
    damaged = copy_of(vit.proto)
    positions = next(tensor for tensor in damaged.graph.initializer if tensor.name == "pos_embed")
    values = numpy_helper.to_array(positions).copy()
    values[0, 3] += 5
    positions.CopyFrom(numpy_helper.from_array(values, positions.name))
    step = step_of(damaged)
    assert (step.first, step.culprit) == ("blocks.0", "the model before blocks.0")


def test_half_precision_follows_within_its_roundings(vit, step_of):
    half = ir.to_proto(to_half(raise_opset(ir.from_proto(vit.proto)), islands=[]))
    step = step_of(half, "fp16")
    assert (step.first, step.unmatched) == (None, 0)
    # One rounding leaves 73.7 dB, a hundred 53.7.
    assert all(50 < found.snr_db < 74 for found in step.blocks.values())


def test_a_value_too_large_for_half_precision_is_named(vit, step_of):
    def grow(values: np.ndarray) -> None:
        values[:] = 80000 / 2.0

    # The sum of both biases exceeds 65504, and ONNX Runtime's CPU kernels, in float32, would not tell.
    large = with_weight(with_weight(vit.proto, "blocks.1.norm2", grow, 2), "blocks.1.norm2", grow, 1)
    half = ir.to_proto(to_half(raise_opset(ir.from_proto(large)), islands=[]))
    step = step_of(half, "fp16")
    assert (step.first, step.culprit) == ("blocks.1", "blocks.1.norm2")
    assert "blocks.1.norm2 gives values that are not finite" in sentence(step)


def test_int8_follows_within_its_roundings(vit, step_of):
    step = step_of(quantized(vit.proto, vit.golden.images))
    assert (step.first, step.unmatched) == (None, 0)
    assert step.blocks["patch_embed"].max_abs == 0, "the patch embedding is not quantized"
    assert 27 < step.blocks["blocks.2"].snr_db < 50


@pytest.mark.parametrize("factor", [1 / 30, 60], ids=["cut off", "coarse"])
def test_an_absurd_activation_scale_is_found(vit, step_of, factor):
    step = step_of(quantized(vit.proto, vit.golden.images, activation={"blocks.1.mlp.fc1": factor}))
    assert (step.first, step.culprit) == ("blocks.1", "blocks.1.mlp.fc1")


def test_weight_scales_of_the_wrong_channels_are_found(vit, step_of):
    # Every output channel is too large by its own factor, which a rescaled layer would be too.
    wrong = np.random.default_rng(0).permutation(np.geomspace(0.1, 10, 64)).astype(np.float32)
    step = step_of(quantized(vit.proto, vit.golden.images, weight={"blocks.1.mlp.fc2": wrong}))
    assert (step.first, step.culprit) == ("blocks.1", "blocks.1.mlp.fc2")


def _smoothed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """`blocks.1.norm1` divided by a factor per channel, and `blocks.1.attn.qkv` multiplied by it."""
    factors = np.geomspace(0.02, 50, 64).astype(np.float32)

    def divide(values: np.ndarray) -> None:
        values /= factors

    def multiply(values: np.ndarray) -> None:
        values *= factors[:, None]

    for position in (1, 2):
        proto = with_weight(proto, "blocks.1.norm1", divide, position)
    return with_weight(proto, "blocks.1.attn.qkv", multiply)


def test_a_rewritten_layer_is_no_error_if_the_next_one_undoes_it(vit, step_of):
    step = step_of(_smoothed(vit.proto), every_module=True)
    assert step.modules["blocks.1.norm1"].snr_db < 10
    assert step.modules["blocks.1.attn.qkv"].snr_db > 100
    assert step.first is None


def test_damage_behind_a_rewritten_layer_is_still_found(vit, step_of):
    step = step_of(with_weight(_smoothed(vit.proto), "blocks.1.mlp.fc2", _add(30)))
    assert (step.first, step.culprit) == ("blocks.1", "blocks.1.mlp.fc2")


def test_damage_in_the_layer_behind_a_rewritten_one_is_found_and_the_other_mentioned(vit, step_of):
    step = step_of(with_weight(_smoothed(vit.proto), "blocks.1.norm1", _mirror, 1))
    assert (step.first, step.culprit) == ("blocks.1", "blocks.1.attn.qkv")
    assert sentence(step).endswith("look at blocks.1.attn.qkv, and at blocks.1.norm1, whose scales it should undo")


def _mirror(values: np.ndarray) -> None:
    values[:] = values[::-1].copy()


_STRAIGHT = """
g (float[1, 3, 32, 32] images) => (float[1, 4] logits) {
    a = Conv (images, wa)
    b = Conv (a, wb)
    c = Conv (b, wc)
    logits = ReduceMean <axes = [2, 3], keepdims = 0> (c)
}
"""


def test_a_rewritten_block_is_passed_over(rung, vit):
    rng = np.random.default_rng(0)
    weights = {"wa": rng.standard_normal((8, 3, 1, 1)), "wb": rng.standard_normal((8, 8, 1, 1))}
    weights["wc"] = rng.standard_normal((4, 8, 1, 1))

    def build(**changed):
        proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {_STRAIGHT}')
        for name, values in (weights | changed).items():
            proto.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
        modules = ("blocks.0.conv", "blocks.1.conv", "blocks.2.conv", "")
        for node, module in zip(proto.graph.node, modules, strict=True):
            node.metadata_props.add(key="edgemim.module", value=module)
        return onnx.shape_inference.infer_shapes(proto)

    factors = np.geomspace(0.1, 10, 8)
    rewritten = {"wa": weights["wa"] * factors[:, None, None, None], "wb": weights["wb"] / factors[:, None, None]}
    damaged = weights["wc"].copy()
    damaged[0] *= -3
    others = [rung(build(**rewritten), "rewritten"), rung(build(**rewritten, wc=damaged), "damaged")]
    sound, broken = climb(rung(build(), "fp32", "fp32"), others, vit.golden).steps
    assert sound.blocks["blocks.0"].snr_db < 10
    assert sound.rescaled == ("blocks.0",)
    assert (sound.first, sound.departs) == (None, False)
    assert (broken.first, broken.culprit) == ("blocks.2", "blocks.2.conv")


def test_a_weight_that_is_not_a_number_is_named(vit, step_of):
    step = step_of(with_weight(vit.proto, "blocks.1.mlp.fc1", _add(np.nan)))
    assert (step.first, step.culprit) == ("blocks.1", "blocks.1.mlp.fc1")
    assert "blocks.1.mlp.fc1 gives values that are not finite" in sentence(step)


def test_the_budget_bounds_what_is_tapped_at_a_time_and_changes_no_number(vit, step_of, monkeypatch):
    damaged = with_weight(vit.proto, "blocks.1.mlp.fc2", _add(30))
    at_once = step_of(damaged)
    tapped, run = [], OnnxRung.run

    def counted(self, taps, index):
        values, output = run(self, taps, index)
        tapped.append(sum(array.nbytes for array in values.values()))
        return values, output

    monkeypatch.setattr(OnnxRung, "run", counted)
    in_parts = step_of(damaged, budget_bytes=18_000)
    # Blocks, then the modules of one.
    assert at_once.passes == 2
    # Four times a block's output of 17 x 64 floats fit: blocks 1 1 1 1 | 1 and the head, modules 1 3 | 1 1 1 1 | 4 | 4
    # | 1 1.
    assert in_parts.passes == 7
    # Two models, image by image.
    assert len(tapped) == 7 * 2 * len(vit.golden)
    assert max(tapped) == in_parts.peak_bytes == 4 * 17 * 64 * 4
    assert in_parts.blocks == at_once.blocks
    assert in_parts.modules == at_once.modules
    assert in_parts.culprit == at_once.culprit


def test_a_flavour_without_module_names_says_so_and_is_judged_by_its_output(vit, step_of):
    nameless = copy_of(with_weight(vit.proto, "head", _add(30)))
    for node in nameless.graph.node:
        del node.metadata_props[:]
    step = step_of(nameless)
    assert (step.first, step.blocks, step.departs) == (None, {}, True)
    assert sentence(step).startswith("no module of other can be compared with fp32: its nodes do not name")
    assert "its output departs" in sentence(step)


def test_a_flavour_that_cannot_be_run_is_refused_and_the_others_are_not(vit, rung):
    unknown = copy_of(vit.proto)
    unknown.graph.node[5].domain = "vendor"
    unknown.opset_import.add(domain="vendor", version=1)
    others = [rung(unknown, "strange"), rung(vit.proto, "same")]
    refused, same = climb(rung(vit.proto, "fp32", "fp32"), others, vit.golden).steps
    assert sentence(refused).startswith("strange cannot be compared here: onnxruntime cannot load strange: ")
    assert same.refusal is None
    assert same.blocks["norm"].max_abs == 0


def test_a_graph_that_takes_pixels_gets_pixels(vit, step_of):
    model = pixel_input(ir.from_proto(vit.proto), vit.preprocess)
    step = step_of(ir.to_proto(model), "fp32")
    assert step.first is None
    assert step.unmatched == 0


def test_a_graph_for_several_images_is_compared_with_torch(vit, rung):
    batched = ir.to_proto(set_batch(ir.from_proto(vit.proto), 2))
    (step,) = climb(rung(batched, "fp32", "fp32"), [], vit.golden, model=vit.model).steps
    assert step.first is None
    assert set(step.blocks) >= {"patch_embed", "blocks.0", "blocks.1", "blocks.2", "head"}


def test_without_torch_fp32_is_compared_with_torch_s_outputs(vit, rung):
    import torch

    with torch.no_grad():
        outputs = vit.model(torch.from_numpy(vit.golden.images)).numpy()
    (step,) = climb(rung(vit.proto, "fp32", "fp32"), [], vit.golden, outputs=outputs).steps
    assert not step.departs
    assert sentence(step).startswith("fp32, compared with torch's outputs alone, agrees (1")
    (step,) = climb(rung(vit.proto, "fp32", "fp32"), [], vit.golden, outputs=outputs + 1).steps
    assert step.departs


def test_the_step_to_look_at_first_is_one_that_departs(vit, rung):
    damaged = with_weight(vit.proto, "blocks.1.mlp.fc2", _add(30))
    others = [rung(vit.proto, "sound"), rung(damaged, "damaged")]
    found = ladder_to_dict(climb(rung(vit.proto, "fp32", "fp32"), others, vit.golden, model=vit.model))
    assert [step["name"] for step in found["steps"]] == ["fp32", "sound", "damaged"]
    assert [step["departs"] for step in found["steps"]] == [False, False, True]
    assert found["worst"] == found["steps"][2]["verdict"]
