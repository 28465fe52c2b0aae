"""Placements on graphs of real backbones, as export writes them, and what OpenVINO makes of the result."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import timm
import torch

from edgemim.export.passes import apply_passes
from edgemim.export.tracing import trace
from edgemim.quantize.qdq import check_qdq
from edgemim.quantize.recipe import Recipe, place, quantize_model
from edgemim.runtime.targets import TARGETS

pytestmark = pytest.mark.slow

X86 = TARGETS.get("x86")
NOT_STRAIGHT = "queries, keys or values do not come straight from a linear layer"

# Cut down to a block or two of a size that exports in seconds.
ATTENTION = {
    "vit_tiny_patch16_224": ({"img_size": 64, "depth": 2}, 2),
    "deit3_small_patch16_224": ({"img_size": 64, "depth": 1}, 1),
    "vit_small_patch14_reg4_dinov2": ({"img_size": 56, "depth": 1}, 1),
    "beit_base_patch16_224": ({"img_size": 64, "depth": 1}, 1),
    "swin_tiny_patch4_window7_224": ({"img_size": 112, "depths": (2, 1), "num_heads": (3, 6)}, 3),
    "eva02_tiny_patch14_224": ({"img_size": 56, "depth": 1}, 0),
    "xcit_nano_12_p16_224": ({"img_size": 64, "depth": 1, "cls_attn_layers": 1}, 0),
}


def _export(name: str, settings: dict) -> onnx.ModelProto:
    torch.manual_seed(0)
    model = timm.create_model(name, **settings).eval()
    size = settings.get("img_size", 64)
    graph = trace(model, torch.zeros(1, 3, size, size), input_name="images", output_name="logits")
    return ir.to_proto(apply_passes(graph))


def _run(model: onnx.ModelProto, image: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": image})


def _calibrated(model: onnx.ModelProto, placement: str, image: np.ndarray) -> Recipe:
    """The largest magnitude of every site on one image."""
    units = place(ir.from_proto(model), placement, X86).units
    sites = [site for unit in units for site in unit.sites if not site.is_weight]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    names = list(dict.fromkeys(site.value for site in sites if site.value != "images"))
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    reached = {name: float(np.abs(value).max()) for name, value in zip(names, _run(probe, image), strict=True)}
    reached["images"] = float(np.abs(image).max())
    return Recipe(placement=placement, thresholds={site.key: reached[site.value] for site in sites})


def _executed(model: onnx.ModelProto) -> list[tuple[str, str, set[str]]]:
    """Type, precision, and the names in the model, of everything that OpenVINO executes."""
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", settings)
    found = []
    for node in compiled.get_runtime_model().get_ops():
        kind, precision, names = (
            node.get_rt_info()[key].astype(str) for key in ("layerType", "runtimePrecision", "originalLayersNames")
        )
        found.append((kind, precision, set(names.split(","))))
    return found


def _in_int8(model: onnx.ModelProto, kind: str) -> int:
    return sum(found == kind and precision in ("i8", "u8") for found, precision, _ in _executed(model))


def _products(model: onnx.ModelProto) -> list[str]:
    """Names of the matrix products neither of whose factors is a weight."""
    weights = {initializer.name for initializer in model.graph.initializer}
    stored = {node.output[0] for node in model.graph.node if node.input and node.input[0] in weights}
    return [
        node.name for node in model.graph.node if node.op_type == "MatMul" and not {*weights, *stored} & {*node.input}
    ]


def _quantize(model: onnx.ModelProto, placement: str) -> tuple[onnx.ModelProto, Counter[str]]:
    """The INT8 form, proven valid and near the float one on the image it was calibrated on; its units by kind."""
    shape = [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    quantized, units = quantize_model(model, _calibrated(model, placement, image), X86)
    onnx.checker.check_model(quantized, full_check=True)
    check_qdq(quantized)
    a, b = _run(model, image)[0][0], _run(quantized, image)[0][0]
    # Random weights are the worst case for ranges by maximum; a pair in a wrong place gives far less.
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.97
    return quantized, Counter(unit.kind for unit in units)


@pytest.mark.parametrize("name", ATTENTION)
def test_attentions_are_placed_whole_or_named_and_openvino_computes_in_int8_what_was_placed(name):
    settings, attentions = ATTENTION[name]
    model = _export(name, settings)
    remarks = place(ir.from_proto(model), "attention", X86).remarks
    quantized, kinds = _quantize(model, "attention")
    assert kinds["attention"] == attentions
    assert any(NOT_STRAIGHT in remark for remark in remarks) == (attentions == 0)
    assert _in_int8(quantized, "FullyConnected") == kinds.total() - attentions
    # By what the CPU has, OpenVINO runs each of the two products for itself, or a whole attention as one subgraph.
    products = _products(quantized)
    whole = [names for _, precision, names in _executed(quantized) if precision in ("i8", "u8")]
    assert sum(any(product in names for names in whole) for product in products) == 2 * attentions
    assert len(products) >= 2 * attentions


@pytest.mark.parametrize(
    ("name", "skips"), [("resnet18", 8), ("regnety_002", 13), ("convnextv2_atto", 0), ("mobilenetv4_conv_small", 0)]
)
def test_convolutions_are_placed_and_openvino_computes_them_in_int8(name, skips):
    quantized, kinds = _quantize(_export(name, {}), "conv")
    assert kinds["add"] == skips
    convolutions = kinds["conv"] + kinds["depthwise"] + kinds["patch_embed"]
    assert convolutions >= 20
    assert _in_int8(quantized, "Convolution") == convolutions


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18"])
def test_everything_has_patch_embedding_head_and_additions(name):
    model = _export(name, ATTENTION[name][0] if name in ATTENTION else {})
    _, kinds = _quantize(model, "everything")
    assert kinds["head"] == 1
    assert kinds["add"] == (4 if name in ATTENTION else 8)
    assert kinds["patch_embed"] == (1 if name in ATTENTION else 0)
