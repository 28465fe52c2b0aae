"""Layers that exist only for training are merged, exactly, and the caller's model stays as it was."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
import torch
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from timm.models.levit import LevitStage
from timm.models.levit import Stem8 as LevitStem
from torch import nn

from edgemim.export.onnx import export_graph
from edgemim.export.parity import run_onnx
from edgemim.export.reparameterise import reparameterise


def _settled(model):
    """Batch norms that do something, in eval mode."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
    return model.eval()


def _branches():
    """RepVGG's and MobileOne's blocks: a 3x3, a 1x1 and an identity branch, and two 3x3 branches."""
    blocks = (ByoBlockCfg(type="rep", d=2, c=8, s=2), ByoBlockCfg(type="one", d=2, c=8, s=1))
    return _settled(ByobNet(ByoModelCfg(blocks=blocks, stem_chs=4, stem_type="3x3"), num_classes=5))


def _linears():
    """LeViT's: a batch norm behind each convolution and each linear."""
    stage = LevitStage(32, 32, key_dim=8, depth=1, num_heads=2, resolution=(4, 4), act_layer=nn.Hardswish)
    return _settled(nn.Sequential(LevitStem(3, 32, act_layer=nn.Hardswish), Flat(), stage))


class Flat(nn.Module):
    def forward(self, x):
        return x.flatten(2).transpose(1, 2)


@pytest.mark.parametrize("build", [_branches, _linears])
def test_the_merged_model_computes_the_same_with_fewer_layers(build):
    model = build()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = model(images)
        merged = reparameterise(model)
        # Merged weights are float32: each rounds by 6e-8 of values that are below 100 here.
        torch.testing.assert_close(merged(images), before, atol=1e-4, rtol=1e-5)
        assert torch.equal(model(images), before), "the caller's model was changed"
    norms = [m for m in merged.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) < len([m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)])
    assert not any(module.training for module in merged.modules())


def test_a_model_without_such_layers_is_not_copied(make_checkpoint):
    model = make_checkpoint().model
    assert reparameterise(model) is model


def test_the_export_is_the_merged_model_and_names_modules_of_the_original(make_checkpoint):
    checkpoint = dataclasses.replace(make_checkpoint(), model=_branches(), num_classes=5)
    graph = export_graph(checkpoint)
    convolutions = [node.metadata_props["edgemim.module"] for node in graph.graph if node.op_type == "Conv"]
    blocks = [f"stages.{stage}.{block}" for stage in (0, 1) for block in (0, 1)]
    assert convolutions[1:] == blocks, "one convolution per block, after that of the stem"
    for node in graph.graph:
        checkpoint.model.get_submodule(node.metadata_props["edgemim.module"])
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = checkpoint.model(images).numpy()
    found = run_onnx(ir.to_proto(graph).SerializeToString(), images.numpy())
    np.testing.assert_allclose(found, expected, atol=1e-4)
