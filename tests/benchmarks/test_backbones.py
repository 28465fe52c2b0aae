"""The backbones of the table: weights that hide nothing, and a page that says what one cannot do."""

from __future__ import annotations

import pytest
import timm
import torch
from _parts.backbones import BACKBONES, Backbone, build, outputs
from backbone_tables import coverage

SMALL = Backbone(family="a small ResNet", name="test_resnet")


def test_timm_has_every_backbone_and_none_stands_there_twice():
    names = [backbone.name for backbone in BACKBONES]
    assert len(set(names)) == len(names) >= 30
    assert [name for name in names if not timm.is_model(name)] == []


def test_outputs_differ_between_images_and_the_largest_is_one():
    model, images = build(SMALL)
    found = outputs(model, images)
    # Batch norms see one image at a time here and all of them before: a few roundings lie between.
    assert found.abs().max().item() == pytest.approx(1, abs=1e-3)
    assert found.std(dim=0).min() > 0.05
    assert torch.equal(outputs(build(SMALL)[0], images), found), "the same weights each time"


def test_every_layer_matters():
    """What a wrong graph could get wrong unseen: a layer without influence."""
    model, images = build(SMALL)
    before = outputs(model, images[:2])
    for name, parameter in model.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.mul_(1.1).add_(0.1)
            changed = (outputs(model, images[:2]) - before).abs().max()
            parameter.copy_(kept)
        assert changed > 1e-3, name


def _row(name, **stages):
    passed = {"max_abs": 2e-6, "reason": None}
    built = {"parsed": True, "built": True, "kernels": 7, "cpu_seconds": 1.0, "reason": None}
    return {
        "family": name.title(),
        "name": name,
        "input_size": [224, 224],
        "parameters": 1_200_000,
        "commit": "0123456789abcdef",
        "export": {"cpu_seconds": 9.6, "nodes": 12, "reason": None},
        "onnxruntime": passed,
        "openvino": passed,
        "nvidia_fp32": built,
        "nvidia_fp16": built,
        **stages,
    }


def _page(*rows):
    return coverage({"rows": rows, "command": "run it", "device": {"cpu": "a CPU"}, "versions": {"torch": "2.0"}})


def test_a_backbone_that_does_everything_is_one_line():
    page = _page(_row("one"))
    assert "| One | `one` | 224 | 1.2 M | 12 | 10 | 2.0e-06 | 2.0e-06 | 7 | 7 |" in page
    assert "Of 1 backbones 1 are exported, 1 are right in ONNX Runtime, 1 in OpenVINO" in page
    assert "There is nothing that one cannot do." in page
    assert "Made by `run it` on a CPU with torch 2.0, at commit `0123456789ab`." in page


def test_what_one_cannot_do_is_said_by_name():
    refused = {"export": {"reason": "op 'Mish' is too new"}, **dict.fromkeys(("onnxruntime", "openvino"))}
    wrong = {"openvino": {"max_abs": 0.02, "reason": "differs from torch by 0.02"}}
    unbuilt = {"nvidia_fp16": {"parsed": True, "built": False, "kernels": None, "reason": "cannot be built"}}
    page = _page(
        _row("one", **refused, nvidia_fp32=None, nvidia_fp16=None), _row("two", **wrong), _row("three", **unbuilt)
    )
    assert "- `one` cannot be exported: op 'Mish' is too new" in page
    assert "- `two` is wrong in OpenVINO, or not run by it: differs from torch by 0.02" in page
    assert "- `three` is not built by NVIDIA's builder as fp16: cannot be built" in page
    assert "| One | `one` | 224 | 1.2 M | no |  |  |  |  |  |" in page
    assert "Of 3 backbones 2 are exported, 2 are right in ONNX Runtime, 1 in OpenVINO" in page
    assert "takes 1 in both flavours" in page
