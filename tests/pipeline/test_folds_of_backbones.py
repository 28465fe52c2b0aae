"""Factors that move between layers leave real backbones as they are, in the graphs that export writes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import timm
import torch

from edgemim.export.passes import apply_passes
from edgemim.export.tracing import trace
from edgemim.quantize.folds import find_folds

pytestmark = pytest.mark.slow

# Settings that make it small, and the number of linear layers whose inputs can be smoothed.
BACKBONES = {
    "vit_tiny_patch16_224": ({"img_size": 64, "depth": 2}, 7),  # qkv, proj, fc1 of each block, and the head
    "beit_base_patch16_224": ({"img_size": 64, "depth": 1}, 4),
    "cait_xxs24_224": ({"img_size": 64, "depth": 1}, None),
    "convit_tiny": ({"depth": 2}, 9),
    "deit3_small_patch16_224": ({"img_size": 64, "depth": 1}, 4),
    "swin_tiny_patch4_window7_224": ({"img_size": 112, "depths": (2, 1), "num_heads": (3, 6)}, None),
    "eva02_tiny_patch14_224": ({"img_size": 56, "depth": 1}, None),
    "convnextv2_atto": ({}, None),
    "resnet18": ({}, 0),
}


def _export(name: str, settings: dict) -> onnx.ModelProto:
    torch.manual_seed(0)
    model = timm.create_model(name, **settings).eval()
    size = settings.get("img_size", 224)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 1:  # layer scales, norms and biases that are not what they started as
                parameter.add_(0.1 * torch.randn_like(parameter))
        for head in model.modules():
            if isinstance(head, torch.nn.Linear) and head.out_features == 1000:  # some start at almost nothing
                head.weight.normal_(std=0.1)
    graph = trace(model, torch.zeros(1, 3, size, size), input_name="images", output_name="logits")
    return ir.to_proto(apply_passes(graph))


def _run(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return np.asarray(session.run(None, {"images": image})[0])


@pytest.mark.parametrize("name", BACKBONES)
def test_random_factors_do_not_change_the_outputs(name):
    settings, readers = BACKBONES[name]
    model = _export(name, settings)
    changed = ir.from_proto(model)
    folds = find_folds(changed.graph)
    found = sum(len(fold.readers) for fold in folds)
    assert found == readers if readers is not None else found > 0
    rng = np.random.default_rng(1)
    for fold in folds:
        factors = np.exp2(rng.uniform(-2, 2, len(fold.free)))
        fold.divide(np.where(fold.free, factors, 1.0))
    expected = _run(model)
    # Rounding of float32 in other places; a factor that is missing anywhere gives differences near 1.
    assert np.abs(_run(ir.to_proto(changed)) - expected).max() < 2e-5 * np.abs(expected).max()
