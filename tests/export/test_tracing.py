"""Running torch's exporter: the state it runs in, and what it says when it cannot."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from timm.layers import use_fused_attn

from edgemim.errors import EdgemimError
from edgemim.export.onnx import export_checkpoint, export_graph
from edgemim.export.tracing import trace


def test_fused_attention_is_off_in_the_export_and_on_again_afterwards(make_checkpoint):
    checkpoint = make_checkpoint(
        img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=1, num_classes=0, global_pool="avg"
    )
    attention = checkpoint.model.blocks[0].attn
    assert attention.fused_attn is True
    before = use_fused_attn()
    graph = export_graph(checkpoint)
    assert not any("scaled_dot_product" in node.name for node in graph.graph)
    assert attention.fused_attn is True
    assert use_fused_attn() == before


class _Branching(torch.nn.Module):
    """What the image holds decides what is computed: no fixed graph exists."""

    def forward(self, images):
        total = images.sum()
        if total > 0:
            return images.mean((2, 3))
        return images.amax((2, 3))


def test_a_model_that_cannot_be_traced_is_an_error_in_one_line(make_checkpoint, pixels, out):
    checkpoint = dataclasses.replace(make_checkpoint(), model=_Branching().eval())
    with pytest.raises(EdgemimError, match="cannot export _Branching to ONNX") as caught:
        export_checkpoint(checkpoint, out, pixels=pixels)
    assert "\n" not in str(caught.value)
    assert not out.exists()


class _Unknown(torch.nn.Module):
    def forward(self, images):
        return torch.special.bessel_j0(images)


@pytest.mark.parametrize(("layer", "words"), [(_Unknown, "bessel_j0"), (_Branching, "data-dependent")])
def test_the_message_names_the_module_and_nothing_else_is_printed(capfd, layer, words):
    model = torch.nn.Sequential()
    model.add_module("stem", torch.nn.Conv2d(3, 4, 3))
    model.add_module("act", layer())
    with pytest.raises(EdgemimError, match="module 'act' of Sequential") as caught:
        trace(model.eval(), torch.zeros(1, 3, 8, 8), input_name="images", output_name="logits")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
