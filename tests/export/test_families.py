"""Lowering on real backbones: the same numbers before and after, and every node traced to a module."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import timm
import torch

from edgemim.export.parity import run_onnx
from edgemim.export.passes import apply_passes
from edgemim.export.structure import check_structure
from edgemim.export.tracing import count_layer_norms, trace

_WINDOWS = {"img_size": 64, "embed_dim": 32, "depths": (2, 1), "num_heads": (2, 4), "window_size": 4}
_STAGES = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}

FAMILIES = [
    (
        "vit_tiny_patch16_224",
        32,
        {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
    ),
    ("swin_tiny_patch4_window7_224", 64, _WINDOWS),
    ("convnextv2_atto", 64, _STAGES),
    ("resnet10t", 32, {}),
]
SLOW_FAMILIES = [
    (
        "beit_base_patch16_224",
        32,
        {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 64, "num_heads": 2},
    ),
    ("caformer_s18", 64, {}),
    ("convnext_atto", 64, _STAGES),
    ("efficientnet_lite0", 64, {}),
    ("efficientvit_b0", 64, {}),
    # Its rotary table is a Split of a constant, which the exporter leaves in the graph.
    ("eva02_tiny_patch14_224", 28, {"img_size": 28, "depth": 1, "embed_dim": 32, "num_heads": 2}),
    ("hiera_tiny_224", 224, {}),
    ("maxvit_rmlp_pico_rw_256", 64, {"img_size": 64}),
    ("mobilenetv4_conv_small_050", 64, {}),
    ("mobilenetv4_hybrid_medium", 64, {}),
    ("swinv2_tiny_window8_256", 64, _WINDOWS),
    # It fills a cache of attention biases at its first run.
    ("tiny_vit_5m_224", 224, {}),
    ("vit_small_patch14_reg4_dinov2", 28, {"img_size": 28, "depth": 2, "embed_dim": 64, "num_heads": 2}),
    ("vit_small_patch16_dinov3", 32, {"img_size": 32, "depth": 2, "embed_dim": 64, "num_heads": 2}),
]


def _traced(name, size, arguments):
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=10, **arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Some heads start at zero, and give nothing to compare.
            if not parameter.any():
                parameter.normal_(std=0.1)
    images = torch.zeros(1, 3, size, size)
    norms = count_layer_norms(model, images)
    program = trace(model, images, input_name="images", output_name="logits")
    return SimpleNamespace(model=model, graph=program, norms=norms, size=size)


def _check(traced):
    images = np.random.default_rng(0).standard_normal((2, 3, traced.size, traced.size)).astype(np.float32)
    before = ir.to_proto(traced.graph).SerializeToString()
    lowered = apply_passes(traced.graph)
    check_structure(lowered, traced.norms)
    after = ir.to_proto(lowered)
    onnx.checker.check_model(after, full_check=True)
    for node in lowered.graph:
        traced.model.get_submodule(node.metadata_props["edgemim.module"])
        # Everything that does not depend on the image is computed beforehand.
        assert any(value is not None and value.const_value is None for value in node.inputs), node.name
    expected = run_onnx(before, images)
    assert np.isfinite(expected).all()
    assert np.ptp(expected) > 0, "constant outputs would make the comparison empty"
    scale = np.abs(expected).max()
    np.testing.assert_allclose(run_onnx(after.SerializeToString(), images), expected, atol=1e-5 * max(1, scale))


@pytest.mark.parametrize(("name", "size", "arguments"), FAMILIES, ids=lambda value: str(value)[:20])
def test_lowering_keeps_the_numbers(name, size, arguments):
    _check(_traced(name, size, arguments))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "arguments"), SLOW_FAMILIES, ids=lambda value: str(value)[:20])
def test_lowering_keeps_the_numbers_of_more_families(name, size, arguments):
    _check(_traced(name, size, arguments))
