"""How much of an attention INT8 moves elsewhere, and what the quantizer makes of it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgemim.quantize import displaced as module
from edgemim.quantize.calibration import choose_calibration
from edgemim.quantize.displaced import MOST_DISPLACED, displaced, displacement_notes, displacements
from edgemim.quantize.quantizers import ptq
from edgemim.quantize.quantizers.ptq import PTQ
from edgemim.quantize.sites import Site, Unit
from edgemim.quantize.statistics.observed import Observed
from edgemim.runtime.targets import TARGETS

X86, JETSON = TARGETS.get("x86"), TARGETS.get("jetson")


def softmax(sharpness, tokens=64, rows=200):
    scores = np.random.default_rng(0).standard_normal((rows, tokens)) * sharpness
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def observe(values):
    observed = Observed.empty()
    observed.add(values)
    return observed


@pytest.mark.parametrize("sharpness", [0.1, 1.0, 4.0])
@pytest.mark.parametrize(("threshold", "levels"), [(1.0, 127), (1.0, 255), (0.3, 127)])
def test_it_is_the_mean_distance_of_total_variation(sharpness, threshold, levels):
    values = softmax(sharpness)
    step = threshold / levels
    rounded = np.minimum(np.rint(values / step), levels) * step
    expected = float(np.abs(values - rounded).sum(axis=1).mean() / 2)  # rows sum to 1
    # The histogram knows a value to 1 part in 128 only, which blurs on which side of a step it lies.
    assert displaced(observe(values), threshold, levels) == pytest.approx(expected, rel=0.05)


def test_a_diffuse_attention_on_a_fixed_step_is_spoiled_and_on_its_own_scale_not():
    values = softmax(0.3, tokens=197)  # weights about 1/197, steps of 1/127
    assert displaced(observe(values), 1.0, 127) > 4 * MOST_DISPLACED
    assert displaced(observe(values), float(values.max()), 127) < MOST_DISPLACED / 4


def test_zeros_are_moved_nowhere():
    assert displaced(observe(np.zeros(8, dtype=np.float32)), 1.0, 127) == 0.0


def _unit(name, role):
    site = Site(module=name, role=role, value="v", readers=(("n", 0),), unsigned=role == "softmax")
    return Unit(name=name, kind="attention", sites=(site,))


def test_a_unit_has_the_share_of_its_softmax_at_the_levels_that_the_target_has():
    values = softmax(3.0)
    units = [_unit("a", "softmax"), _unit("b", "input")]
    statistics = {"a:softmax": observe(values), "b:input": observe(values)}
    limits = {"a:softmax": 1.0, "b:input": 1.0}
    on_x86, on_jetson = (displacements(units, statistics, limits, target) for target in (X86, JETSON))
    assert on_x86 == {"a": displaced(statistics["a:softmax"], 1.0, 255)}
    assert on_jetson == {"a": displaced(statistics["a:softmax"], 1.0, 127)}


def test_the_sentence_names_the_worst():
    assert displacement_notes({}) == ()
    (note,) = displacement_notes({"blocks.3.attn": 0.214})
    assert note.startswith("the attention 'blocks.3.attn' stays in float")
    assert "21% of the weights elsewhere" in note
    (note,) = displacement_notes({"blocks.3.attn": 0.2, "blocks.1.attn": 0.4})
    assert note.startswith("2 attentions stay in float")
    assert "40% of the weights of 'blocks.1.attn' elsewhere" in note


@pytest.fixture
def two_sided(attention_model, write_artifact, tmp_path):
    """The attention model with a projection, so that its attention becomes INT8."""
    model = onnx.ModelProto()
    model.CopyFrom(attention_model)
    weight = np.random.default_rng(1).standard_normal((32, 32)).astype(np.float32) / 6
    model.graph.initializer.append(numpy_helper.from_array(weight, "proj_weight"))
    at = next(i for i, node in enumerate(model.graph.node) if node.output[0] == "mixed")
    proj = onnx.helper.make_node("MatMul", ["mixed", "proj_weight"], ["projected"], name="node_projected")
    proj.metadata_props.add(key="edgemim.module", value="attn.proj")
    model.graph.node.insert(at + 1, proj)
    added = next(node for node in model.graph.node if node.output[0] == "added")
    added.input[1] = "projected"
    return write_artifact(tmp_path / "onnx", onnx.shape_inference.infer_shapes(model, strict_mode=True))


@pytest.fixture
def calibration(noise_images, preprocess):
    return choose_calibration(noise_images(50), preprocess, count=16)


def test_an_attention_that_survives_is_int8(two_sided, calibration):
    prepared = PTQ(workers=1).prepare(two_sided, calibration, X86)
    assert [unit.name for unit in prepared.placed["attention"].units if unit.kind == "attention"] == ["attn"]
    assert prepared.recipes["attention"].left_out == frozenset()
    assert not any("in float, its linear layers" in note for note in prepared.notes)


def test_one_that_does_not_falls_back_to_its_linear_layers(two_sided, calibration, monkeypatch, tmp_path):
    monkeypatch.setattr(ptq, "MOST_DISPLACED", 1e-6)
    monkeypatch.setattr(module, "MOST_DISPLACED", 1e-6)
    said: list[str] = []
    quantizer = PTQ(placements=("attention",), workers=1)
    artifact = quantizer.quantize(two_sided, calibration, tmp_path / "int8", target=X86, say=said.append)
    assert said[-1].startswith("the attention 'attn' stays in float, its linear layers in INT8")
    (flavour,) = [entry for entry in artifact.content["flavours"] if entry["precision"] == "int8"]
    assert flavour["left_out"] == ["attn"]
    graph = onnx.load(artifact.file(flavour["file"])).graph
    readers = {name for node in graph.node if node.op_type == "QuantizeLinear" for name in node.input[:1]}
    assert not {name for name in readers if "attention" in name}  # the softmax is read as it is


def test_a_placement_that_comes_to_another_one_is_not_written_twice(two_sided, calibration, monkeypatch):
    monkeypatch.setattr(ptq, "MOST_DISPLACED", 1e-6)
    assert list(PTQ(workers=1).prepare(two_sided, calibration, X86).recipes) == ["linear"]
