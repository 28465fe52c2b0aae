"""The fp16 flavour of tiny models: what it computes, where it stays in float32, and what the artifact says of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from _parts import nvidia

from edgemim.errors import ConfigError, EdgemimError
from edgemim.export.flavours import Flavour, make_flavour
from edgemim.export.half_parity import HalfParity, check_half
from edgemim.export.onnx import export_checkpoint
from edgemim.export.parity import run_onnx
from edgemim.export.passes import finish, prepare
from edgemim.export.passes.remove_unused import remove_unused
from edgemim.export.passes.to_half import to_half
from edgemim.export.rounding import round_every_value
from edgemim.export.tracing import count_layer_norms, trace

_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 1, "num_heads": 2, "num_classes": 10}
_WINDOWS = {"img_size": 64, "embed_dim": 32, "depths": (2, 1), "num_heads": (2, 4), "window_size": 4}
_ROPE = {"img_size": 28, "depth": 1, "embed_dim": 32, "num_heads": 2}


@dataclass(frozen=True, kw_only=True)
class Family:
    name: str
    size: int
    arguments: dict[str, object]


FAMILIES = {
    "layer scale": Family(name="vit_tiny_patch16_224", size=32, arguments=_VIT | {"init_values": 0.1}),
    "response norm": Family(
        name="convnextv2_atto", size=32, arguments={"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
    ),
}
SLOW_FAMILIES = {
    "vit": Family(name="vit_tiny_patch16_224", size=32, arguments=_VIT),
    "rotary positions": Family(name="eva02_tiny_patch14_224", size=28, arguments=_ROPE),
    "cosine attention": Family(name="swinv2_tiny_window8_256", size=64, arguments=_WINDOWS),
    "linear attention": Family(name="efficientvit_b0", size=64, arguments={}),
}


class Small(torch.nn.Module):
    """A patch embedding, an MLP with a residual connection, a norm, an average and a head: quick to trace."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = torch.nn.Conv2d(3, 16, 8, 8)
        self.norm = torch.nn.LayerNorm(16)
        self.fc1, self.fc2 = torch.nn.Linear(16, 32), torch.nn.Linear(32, 16)
        self.last_norm = torch.nn.LayerNorm(16)
        self.head = torch.nn.Linear(16, 10)
        with torch.no_grad():
            for parameter in self.fc2.parameters():
                parameter.mul_(scale)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = x + self.fc2(torch.nn.functional.gelu(self.fc1(self.norm(x))))
        return self.head(self.last_norm(x).mean(1))


@dataclass(frozen=True, kw_only=True)
class Made:
    """A tiny model, golden images, what torch computes, and the graph before and after it became a flavour."""

    images: np.ndarray
    expected: np.ndarray
    prepared: ir.Model
    flavour: Flavour

    def parity(self) -> HalfParity:
        expected = {"logits": self.expected}
        flavour = self.flavour
        return check_half(flavour.graph, flavour.serialized, self.images, expected, explain=lambda: "")["logits"]

    def ops_in_float32(self) -> set[tuple[str, str]]:
        return {(island["module"], island["op"]) for island in self.flavour.notes["islands"]}


def _make(model: torch.nn.Module, size: int) -> Made:
    images = np.random.default_rng(0).standard_normal((3, 3, size, size)).astype(np.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            # Some heads start near zero, and give nothing to compare.
            if parameter.abs().max() < 1e-3:
                parameter.normal_(std=0.1)
        expected = model(torch.from_numpy(images)).numpy()
    one = torch.zeros(1, 3, size, size)
    prepared = prepare(trace(model, one, input_name="images", output_name="logits"))
    flavour = make_flavour("fp16", prepared, count_layer_norms(model, one), images)
    return Made(images=images, expected=expected, prepared=prepared, flavour=flavour)


@pytest.fixture(
    scope="module", params=[*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_FAMILIES)]
)
def made(request, make_checkpoint):
    family = (FAMILIES | SLOW_FAMILIES)[request.param]
    checkpoint = make_checkpoint(family.name, family.size, **{"num_classes": 10} | family.arguments)
    return _make(checkpoint.model, family.size)


@pytest.fixture(scope="module")
def loud():
    """A residual stream that reaches about 1e5, with weights that half can hold."""
    model = Small(scale=3e5).eval()
    assert max(float(parameter.detach().abs().max()) for parameter in model.parameters()) < 65504
    return _make(model, 32)


@pytest.fixture(scope="module")
def small(make_checkpoint):
    """`small(scale=1)`: a checkpoint of the small model."""

    def make(scale: float = 1) -> object:
        return replace(make_checkpoint(**_VIT), model=Small(scale).eval())

    return make


def test_a_flavour_is_half_of_opset_20_and_computes_what_torch_computes(made):
    model = onnx.load_from_string(made.flavour.serialized)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert {tensor.data_type for tensor in model.graph.initializer} >= {onnx.TensorProto.FLOAT16}
    parity = made.parity()
    # Far less than what is accepted: one block rounds about twenty times, half a step of 2^-11 each at most.
    assert 1e-5 < parity.max_relative < 20 * 2**-12
    assert np.ptp(made.expected) > 0.1


def test_every_layer_norm_is_one_half_node(made):
    norms = [node for node in made.flavour.graph.graph if node.op_type == "LayerNormalization"]
    assert norms
    assert {value.dtype for node in norms for value in (*node.inputs, *node.outputs)} == {ir.DataType.FLOAT16}


def test_only_what_needs_it_stays_in_float32(made, request):
    found = made.ops_in_float32()
    if "response norm" in request.node.name:
        # Response normalisation: a norm over the whole image, divided by its mean over the channels.
        for block in ("stages.0.blocks.0.mlp.grn", "stages.1.blocks.0.mlp.grn"):
            assert {(block, op) for op in ("ReduceL2", "ReduceMean", "Add", "Div", "Mul")} <= found
    heavy = {op for _, op in found} & {"Conv", "MatMul", "LayerNormalization", "Softmax", "Gelu"}
    assert not heavy


def test_making_a_flavour_leaves_the_graph_for_the_next_one(made):
    fp32 = finish(made.prepared, "fp32")
    assert not any(value.dtype == ir.DataType.FLOAT16 for node in fp32.graph for value in node.outputs)
    data = ir.to_proto(fp32).SerializeToString()
    np.testing.assert_allclose(run_onnx(data, made.images), made.expected, atol=1e-5)


@pytest.mark.tensorrt
def test_nvidia_s_parser_takes_the_flavour(made):
    pytest.importorskip("tensorrt_rtx")
    verdict = nvidia.judge(made.flavour.serialized)
    assert verdict.parsed, verdict.reason
    assert verdict.built, verdict.reason


def test_a_residual_stream_beyond_half_stays_in_float32_from_where_it_is_made(loud):
    islands = {(i["module"], i["op"]): i for i in loud.flavour.notes["islands"]}
    assert [place for place, island in islands.items() if island["reason"] == "value"] == [
        ("fc2", "MatMul"),
        ("fc2", "Add"),
        ("", "Add"),
        ("last_norm", "LayerNormalization"),
    ]
    assert 65504 < islands["", "Add"]["largest"] <= loud.flavour.notes["largest"]["value"]
    # A LayerNormalization in float32 has its scale and bias in float32; the one before the MLP is half.
    norms = {node.metadata_props["edgemim.module"]: node for node in loud.flavour.graph.graph if "Norm" in node.op_type}
    assert {value.dtype for value in norms["last_norm"].inputs} == {ir.DataType.FLOAT}
    assert {value.dtype for value in norms["norm"].inputs} == {ir.DataType.FLOAT16}


def test_the_islands_keep_right_what_plain_half_loses(loud):
    assert loud.parity().max_relative < 20 * 2**-12
    plain = remove_unused(to_half(finish(loud.prepared, "fp16"), ()))
    rounded = run_onnx(ir.to_proto(round_every_value(plain)).SerializeToString(), loud.images)
    assert not np.isfinite(rounded).all()


def test_a_loss_names_the_module(small, pixels, out, monkeypatch):
    # As if the golden images had not shown what others bring: nothing is known to be large.
    monkeypatch.setattr("edgemim.export.flavours.largest_values", lambda _graph, _images: {"logits": 0.0})
    with pytest.raises(EdgemimError, match=r"fp16 model is further .* first module whose output differs is 'fc2'"):
        export_checkpoint(small(scale=3e5), out, pixels=pixels, flavours=("fp32", "fp16"))
    assert not out.exists()


@pytest.fixture(scope="module")
def exported(small, pixels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flavours")
    return [export_checkpoint(small(), folder / n, pixels=pixels, flavours=("fp32", "fp16")) for n in "ab"]


def test_the_manifest_has_both_flavours_and_what_was_lost(exported):
    content = exported[0].content
    fp32, fp16 = content["flavours"]
    assert fp32 == {"name": "fp32", "precision": "fp32", "opset": 17, "file": "fp32.onnx"}
    assert {key: fp16[key] for key in fp32} == {"name": "fp16", "precision": "fp16", "opset": 20, "file": "fp16.onnx"}
    # The head, a product and a sum, comes right after the mean: nothing is rounded between the two.
    reasons = {(island["module"], island["op"]): island["reason"] for island in fp16["islands"]}
    assert (reasons.pop(("", "ReduceMean")), reasons.pop(("head", "ReduceSum"))) == ("op", "op")
    assert {module for module, _ in reasons} == {"head"}
    assert set(reasons.values()) == {"between"}
    assert set(fp16["largest"]) == {"module", "op", "value"}
    assert 1 < fp16["largest"]["value"] < 100
    parity = content["parity"]["torch_vs_fp16"]
    assert 0 < parity["max_relative"] < parity["tolerance"] < 1
    assert parity["least_cosine"] < parity["cosine_worst"] < 1
    assert exported[0].provenance[-1]["settings"]["flavours"] == ["fp32", "fp16"]
    # A device gives the same arrays to both.
    assert content["input"]["dtype"] == "float32"
    assert run_onnx(exported[0].file("fp16.onnx"), np.zeros((1, 3, 32, 32), np.float32)).dtype == np.float32


def test_two_exports_are_the_same_bytes_and_hold_no_local_path(exported):
    first, second = exported
    assert first.files == second.files
    data = first.file("fp16.onnx").read_bytes()
    assert len(data) < 0.65 * len(first.file("fp32.onnx").read_bytes())
    assert b"site-packages" not in data
    assert b".py" not in data


@pytest.mark.parametrize(
    ("flavours", "complaint"),
    [(("fp32", "bf16"), "no flavour 'bf16'; known: fp32, fp16"), (("fp16",), "must name fp32"), ((), "must name fp32")],
)
def test_flavours_that_cannot_be_made_are_refused_before_any_work(small, pixels, out, flavours, complaint):
    with pytest.raises(ConfigError, match=complaint):
        export_checkpoint(small(), out, pixels=pixels, flavours=flavours)


@pytest.mark.slow
def test_a_flavour_keeps_its_batch_and_its_second_output(make_checkpoint, pixels, out):
    artifact = export_checkpoint(
        make_checkpoint(**_VIT), out, pixels=pixels, batch_size=2, output="tokens", flavours=("fp32", "fp16")
    )
    model = onnx.load(artifact.file("fp16.onnx"))
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"images": [2, 3, 32, 32], "logits": [2, 10], "tokens": [2, 16, 64]}
    assert "tokens_torch_vs_fp16" in artifact.content["parity"]
