"""Which values are taps, what they are called, and how they hang together."""

from __future__ import annotations

import dataclasses
import itertools

import onnx_ir as ir
import pytest

from edgemim.export.ladder.runs import TorchRung
from edgemim.export.ladder.taps import Tap, by_block, in_chunks, read_layout

# What a block of the ViT has, in the order in which it is computed.
_BLOCK = (
    "norm1",
    "attn.qkv",
    "attn before proj",
    "attn.proj",
    "attn",
    " before norm2",
    "norm2",
    "mlp.fc1",
    "mlp.act",
    "mlp.fc2",
    "mlp",
)


def test_the_taps_of_a_vit_are_its_modules_and_what_they_compute_themselves(vit):
    blocks = by_block(read_layout(ir.from_proto(vit.proto)).taps.values())
    assert list(blocks) == ["patch_embed", "blocks.0", "blocks.1", "blocks.2", "norm", "head"]
    expected = [f"blocks.1{name}" if name.startswith(" ") else f"blocks.1.{name}" for name in _BLOCK]
    assert [tap.name for tap in blocks["blocks.1"]] == [*expected, "blocks.1"]
    # The class token and the positions belong to no module.
    assert blocks["blocks.0"][0].name == "the model before blocks.0"
    assert [tap.name for tap in blocks["patch_embed"]] == ["patch_embed.proj", "patch_embed"]


def test_torch_has_every_tap_of_its_export(vit):
    taps = list(read_layout(ir.from_proto(vit.proto)).taps.values())
    torch_rung = TorchRung(vit.model, vit.golden, batch=1)
    assert torch_rung.having(taps) == taps
    values, output = torch_rung.run(taps, 0)
    assert {name: value.shape for name, value in values.items()} == {tap.name: tap.shape for tap in taps}
    assert output.shape == (1, 10)


def test_torch_lacks_a_tap_of_another_shape_and_one_of_an_unknown_module(vit):
    first, second, third = list(read_layout(ir.from_proto(vit.proto)).taps.values())[:3]
    wrong = [dataclasses.replace(first, shape=(1, 2)), dataclasses.replace(second, module="blocks.9")]
    assert TorchRung(vit.model, vit.golden, batch=1).having([*wrong, third]) == [third]


@pytest.fixture
def chain(graph):
    """`chain("a", "b.c", ...)`: the layout of a graph of one node after the other, in these modules."""

    def make(*modules):
        values = ["x", *(f"v{i}" for i in range(len(modules)))]
        ops = "\n".join(f"{after} = Relu ({before})" for before, after in itertools.pairwise(values))
        model = graph(f"g (float[1, 4] x) => (float[1, 4] {values[-1]}) {{ {ops} }}")
        for node, module in zip(model.graph, modules, strict=True):
            if module is not None:
                node.metadata_props["edgemim.module"] = module
        return read_layout(model)

    return make


def test_blocks_lie_in_stages_and_what_lies_beside_them_is_on_its_own(chain):
    layout = chain(
        "stem.0",
        "stem.1",
        "stages.0.blocks.0.conv",
        "stages.0.blocks.0.mlp.net.3",
        "stages.0.blocks.1.conv",
        "stages.1.downsample.0",
        "stages.1.downsample.1",
        "stages.1.blocks.0.conv",
        "head.fc",
    )
    assert list(by_block(layout.taps.values())) == [
        "stem",
        "stages.0.blocks.0",
        "stages.0.blocks.1",
        "stages.1.downsample",
        "stages.1.blocks.0",
        "head",
    ]


def test_a_number_far_inside_a_block_starts_no_new_block(chain):
    layout = chain("blocks.0.norm", "blocks.0.mlp.experts.main.1.fc", "blocks.0.mlp.experts.main.1.act", "head")
    assert list(by_block(layout.taps.values())) == ["blocks.0", "head"]


def test_a_quantize_node_belongs_to_the_layer_it_feeds_and_moves_no_tap(chain):
    plain, quantized = chain("a.fc", "b.fc"), chain("a.fc", "b.fc", "b.fc", "b.fc")
    assert (plain.taps["a.fc"].value, quantized.taps["a.fc"].value) == ("v0", "v0")
    assert (plain.taps["b.fc"].value, quantized.taps["b.fc"].value) == ("v1", "v3")


def test_a_graph_without_module_names_has_no_taps(chain):
    assert chain(None, None).taps == {}


def test_a_value_that_stays_inside_its_module_is_no_output_of_it(graph):
    model = graph(
        "g (float[1, 4] x) => (float[1, 4] out) { a = Relu (x)  side = Abs (a)  b = Add (a, side)  out = Relu (b) }"
    )
    for node, module in zip(model.graph, ("m", "m.inner", "m", "n"), strict=True):
        node.metadata_props["edgemim.module"] = module
    taps = read_layout(model).taps
    assert {name: tap.value for name, tap in taps.items()} == {
        "m before inner": "a",
        "m.inner": "side",
        "m": "b",
        "n": "out",
    }


def test_sources_are_the_nearest_taps_upstream(vit):
    layout = read_layout(ir.from_proto(vit.proto))
    names = ("blocks.0", "blocks.1.attn.qkv", "blocks.1.attn.proj", "blocks.1.mlp.fc2", "blocks.1", "norm")
    found = layout.sources(names)
    assert found == {
        "blocks.0": {},
        "blocks.1.attn.qkv": {"blocks.0": True},
        "blocks.1.attn.proj": {"blocks.1.attn.qkv": True},
        # One way leads through the layers, the other past them.
        "blocks.1.mlp.fc2": {"blocks.0": True, "blocks.1.attn.proj": True},
        "blocks.1": {"blocks.0": False, "blocks.1.attn.proj": False, "blocks.1.mlp.fc2": False},
        "norm": {"blocks.1": False},
    }


def test_one_number_for_all_channels_is_no_weight(vit):
    found = read_layout(ir.from_proto(vit.proto)).sources(("blocks.1.mlp.fc1", "blocks.1.mlp.act", "blocks.1.mlp.fc2"))
    assert found["blocks.1.mlp.act"] == {"blocks.1.mlp.fc1": False}
    assert found["blocks.1.mlp.fc2"] == {"blocks.1.mlp.act": True}


def _tap(size_bytes: int) -> Tap:
    return Tap(module=f"m{size_bytes}", reader="", block="m", value="v", shape=(1,), size_bytes=size_bytes)


@pytest.mark.parametrize(
    ("budget", "sizes"),
    [(100, [[30, 40, 20]]), (70, [[30, 40], [20]]), (45, [[30], [40], [20]]), (1, [[30], [40], [20]])],
)
def test_taps_are_taken_in_order_as_many_as_fit_and_at_least_one(budget, sizes):
    chunks = in_chunks([_tap(30), _tap(40), _tap(20)], budget)
    assert [[tap.size_bytes for tap in chunk] for chunk in chunks] == sizes
