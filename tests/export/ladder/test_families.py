"""Backbones whose export moves weights between layers still follow torch, module by module."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgemim.export.ladder.climb import climb
from edgemim.export.ladder.runs import Golden, OnnxRung
from edgemim.export.onnx import export_graph

_FAMILIES = {
    "swin_tiny_patch4_window7_224": {
        "img_size": 32,
        "patch_size": 2,
        "embed_dim": 32,
        "depths": (2, 2),
        "num_heads": (2, 4),
        "window_size": 4,
    },
    "convnextv2_atto": {"depths": (1, 1, 2, 1)},
    "eva02_tiny_patch14_224": {"img_size": 28, "depth": 2},
    "deit3_small_patch16_224": {"img_size": 32, "depth": 2, "embed_dim": 64, "num_heads": 2},
    "mobilenetv4_conv_small": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", _FAMILIES)
def test_every_module_follows_torch_or_is_scaled_and_undone(make_checkpoint, name):
    size = _FAMILIES[name].get("img_size", 32)
    checkpoint = make_checkpoint(name, size, num_classes=10, **_FAMILIES[name])
    pixels = np.random.default_rng(0).integers(0, 256, (8, size, size, 3), dtype=np.uint8)
    golden = Golden(images=checkpoint.preprocess.normalise(pixels))
    fp32 = OnnxRung("fp32", "fp32", ir.to_proto(export_graph(checkpoint)), golden)
    (step,) = climb(fp32, [], golden, model=checkpoint.model, every_module=True).steps
    assert (step.first, step.departs_fused) == (None, False)
    assert len(step.modules) > 20
    # float32 rounds at 152 dB; some hundred roundings cost 20 to 25, and these random models amplify them a little.
    weak = {n: a.snr_db for n, a in step.modules.items() if n not in step.rescaled and a.snr_db < 100}
    assert weak == {}
