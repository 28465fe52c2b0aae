"""Real backbones: the graph computes what torch computes, and other engines take it.

The default run lowers four tiny ones. Slow: whole backbones of the table in docs/backbones.md, one for each thing that
made an export hard; each is exported once for all its tests. `benchmarks/backbones.py` does the same with all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import timm
import torch
from _parts import nvidia
from _parts.backbones import BACKBONES, Backbone, build, outputs
from _parts.coverage import TOLERANCE, export, run_openvino

from edgemim.export.parity import run_onnx
from edgemim.export.passes import apply_passes
from edgemim.export.structure import check_structure
from edgemim.export.tracing import count_layer_norms, trace

_WINDOWS = {"img_size": 64, "embed_dim": 32, "depths": (2, 1), "num_heads": (2, 4), "window_size": 4}
_STAGES = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}

TINY = [
    (
        "vit_tiny_patch16_224",
        32,
        {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2},
    ),
    ("swin_tiny_patch4_window7_224", 64, _WINDOWS),
    pytest.param("convnextv2_atto", 64, _STAGES, marks=pytest.mark.slow),
    ("resnet10t", 32, {}),
]


HARD = (
    "vit_tiny_patch16_224",
    "beit_base_patch16_224",  # position biases
    "eva02_tiny_patch14_224",  # rotary positions
    "cait_xxs24_224",  # talking heads
    "xcit_nano_12_p16_224",  # attention over channels
    "swin_tiny_patch4_window7_224",  # windows
    "hiera_tiny_224",
    "halonet26t",  # windows that overlap
    "levit_128s",  # merged norms
    "efficientformerv2_s0",
    "fastvit_t8",  # merged branches
    "convnextv2_atto",
    "mobilenetv4_conv_small",
    "ghostnet_050",
)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A backbone, what torch computes, and its graph."""

    model: torch.nn.Module
    images: np.ndarray
    expected: np.ndarray
    graph: ir.Model
    fp32: bytes
    fp16: bytes


def _tiny(name: str, size: int, arguments: dict[str, object]) -> torch.nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=10, **arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Some heads start at zero, and give nothing to compare.
            if not parameter.any():
                parameter.normal_(std=0.1)
    return model


@pytest.mark.parametrize(("name", "size", "arguments"), TINY, ids=lambda value: str(value)[:20])
def test_lowering_keeps_the_numbers(name, size, arguments):
    model = _tiny(name, size, arguments)
    images = torch.zeros(1, 3, size, size)
    norms = count_layer_norms(model, images)
    graph = trace(model, images, input_name="images", output_name="logits")
    inputs = np.random.default_rng(0).standard_normal((2, 3, size, size)).astype(np.float32)
    before = run_onnx(ir.to_proto(graph).SerializeToString(), inputs)
    assert np.ptp(before) > 0, "constant outputs would make the comparison empty"
    lowered = apply_passes(graph)
    check_structure(lowered, norms)
    after = ir.to_proto(lowered)
    onnx.checker.check_model(after, full_check=True)
    _check_nodes(lowered, model)
    scale = max(1, np.abs(before).max())
    np.testing.assert_allclose(run_onnx(after.SerializeToString(), inputs), before, atol=1e-5 * scale)


@pytest.mark.tensorrt
@pytest.mark.parametrize("flavour", ["fp32", "fp16"])
@pytest.mark.parametrize(("name", "size", "arguments"), TINY[:2], ids=lambda value: str(value)[:20])
def test_nvidia_parses_and_builds_tiny_ones(name, size, arguments, flavour):
    pytest.importorskip("tensorrt_rtx")
    done = export(_tiny(name, size, arguments), torch.randn(1, 3, size, size))
    verdict = nvidia.judge(getattr(done, flavour))
    assert verdict.built, verdict.reason


@pytest.fixture(scope="module", params=[b for b in BACKBONES if b.name in HARD], ids=lambda backbone: backbone.name)
def exported(request: pytest.FixtureRequest) -> Exported:
    """One of the backbones of the table; those of one backbone's tests come one after another."""
    backbone: Backbone = request.param
    model, images = build(backbone)
    done = export(model, images)
    return Exported(
        model=model,
        images=images.numpy(),
        expected=outputs(model, images).numpy(),
        graph=done.graph,
        fp32=done.fp32,
        fp16=done.fp16,
    )


@pytest.mark.slow
def test_the_graph_computes_what_torch_computes(exported):
    # What the tolerance is relative to: the largest output is 1, and each differs between images by far more than 1e-4.
    assert np.abs(exported.expected).max() == pytest.approx(1, abs=1e-3)
    assert exported.expected.std(axis=0).min() > 0.02
    np.testing.assert_allclose(run_onnx(exported.fp32, exported.images), exported.expected, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_every_node_has_a_module_and_depends_on_the_image(exported):
    onnx.checker.check_model(exported.fp32, full_check=True)
    _check_nodes(exported.graph, exported.model)


@pytest.mark.slow
def test_openvino_runs_it(exported):
    pytest.importorskip("openvino")
    np.testing.assert_allclose(run_openvino(exported.fp32, exported.images), exported.expected, rtol=0, atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.tensorrt
@pytest.mark.parametrize("flavour", ["fp32", "fp16"])
def test_nvidia_parses_and_builds_it(exported, flavour):
    pytest.importorskip("tensorrt_rtx")
    verdict = nvidia.judge(getattr(exported, flavour))
    assert verdict.built, verdict.reason


def _check_nodes(graph: ir.Model, model: torch.nn.Module) -> None:
    for node in graph.graph:
        model.get_submodule(node.metadata_props["edgemim.module"])
        # Everything that does not depend on the image is computed beforehand.
        assert any(value is not None and value.const_value is None for value in node.inputs), node.name
