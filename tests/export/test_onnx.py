"""Export of whole checkpoints."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
import timm
import torch

from edgemim.artifact import load_artifact
from edgemim.errors import ConfigError, OutputError
from edgemim.export.onnx import export_checkpoint
from edgemim.export.parity import run_onnx


@pytest.fixture(scope="module")
def exported(make_checkpoint, pixels, tmp_path_factory):
    checkpoint = make_checkpoint()
    out = tmp_path_factory.mktemp("exports") / "vit"
    return checkpoint, export_checkpoint(checkpoint, out, pixels=pixels)


def test_the_manifest_says_what_the_model_takes_and_gives(exported):
    checkpoint, artifact = exported
    content = artifact.content
    assert content["architecture"] == "vit_tiny_patch16_224"
    assert content["num_classes"] == 10
    assert content["class_names"] is None
    assert content["parameters"] == sum(p.numel() for p in checkpoint.model.parameters())
    assert content["preprocess"] == checkpoint.preprocess.to_dict()
    assert content["input"] == {
        "name": "images",
        "dtype": "float32",
        "layout": "NCHW",
        "shape": [1, 3, 32, 32],
        "encoding": "normalised",
    }
    assert content["output"] == {"name": "logits", "shape": [1, 10]}
    assert content["tokens"] is None
    assert content["flavours"] == [{"name": "fp32", "precision": "fp32", "opset": 17, "file": "fp32.onnx"}]
    assert content["calibration"] is None
    assert content["golden"]["count"] == 3


def test_the_provenance_of_the_checkpoint_travels_on(exported):
    checkpoint, artifact = exported
    stages = [record["stage"] for record in artifact.provenance]
    assert stages == ["finetune", "export"]
    export = artifact.provenance[-1]
    assert export["checkpoint"] == checkpoint.artifact.fingerprint
    settings = {"batch_size": 1, "output": "head", "opset": 17, "flavours": ["fp32"], "form": "plain"}
    assert export["settings"] == settings
    assert export["versions"]["torch"] == torch.__version__.split("+")[0]
    assert set(export["versions"]) >= {"python", "timm", "onnx", "onnxruntime"}


def test_golden_files_hold_the_contract_s_inputs_and_torch_s_outputs(exported, pixels):
    checkpoint, artifact = exported
    load = {name: np.load(artifact.file(f"golden/{name}.npy")) for name in ("inputs", "pixels", "outputs")}
    np.testing.assert_array_equal(load["pixels"], pixels)
    np.testing.assert_array_equal(load["inputs"], checkpoint.preprocess.normalise(pixels))
    with torch.no_grad():
        expected = checkpoint.model(torch.from_numpy(load["inputs"])).numpy()
    np.testing.assert_allclose(load["outputs"], expected, atol=1e-5)
    assert np.abs(expected).max() > 0.1, "outputs near zero would make every comparison pass"
    assert load["outputs"].dtype == np.float32


def test_the_file_computes_what_torch_computes(exported):
    _, artifact = exported
    inputs, outputs = (np.load(artifact.file(f"golden/{name}.npy")) for name in ("inputs", "outputs"))
    np.testing.assert_allclose(run_onnx(artifact.file("fp32.onnx"), inputs), outputs, atol=1e-5)
    parity = artifact.content["parity"]["torch_vs_onnxruntime"]
    assert 0 <= parity["max_abs"] <= parity["tolerance"]


def test_the_file_is_valid_opset_17_with_the_file_format_of_its_time(exported):
    _, artifact = exported
    model = onnx.load(artifact.file("fp32.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert model.ir_version == 8


def test_every_layer_norm_is_one_node_and_every_node_names_a_module(exported):
    checkpoint, artifact = exported
    model = onnx.load(artifact.file("fp32.onnx"))
    modules = {}
    for node in model.graph.node:
        (entry,) = node.metadata_props
        assert entry.key == "edgemim.module"
        modules[node.name] = (node.op_type, entry.value)
        checkpoint.model.get_submodule(entry.value)
    norms = sorted(module for op, module in modules.values() if op == "LayerNormalization")
    assert norms == ["blocks.0.norm1", "blocks.0.norm2", "blocks.1.norm1", "blocks.1.norm2", "norm"]
    assert ("Softmax", "blocks.1.attn") in modules.values()
    assert ("Erf", "blocks.0.mlp.act") in modules.values()


def test_the_file_holds_no_local_path(exported):
    _, artifact = exported
    data = artifact.file("fp32.onnx").read_bytes()
    assert b"site-packages" not in data
    assert b".py" not in data


def test_two_exports_of_one_checkpoint_are_the_same_bytes(exported, make_checkpoint, pixels, out):
    _, first = exported
    second = export_checkpoint(make_checkpoint(), out, pixels=pixels)
    assert second.files["fp32.onnx"] == first.files["fp32.onnx"]
    assert second.fingerprint == first.fingerprint


_PROGRAM = """
import sys, hashlib, timm, torch, onnx_ir as ir
from types import SimpleNamespace
from edgemim.export.onnx import export_graph
from edgemim.preprocess import Preprocess
torch.manual_seed(0)
arguments = dict(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=2)
model = timm.create_model("vit_tiny_patch16_224", **arguments)
checkpoint = SimpleNamespace(model=model.eval(), preprocess=Preprocess(size=(32, 32)), num_classes=1000)
data = ir.to_proto(export_graph(checkpoint)).SerializeToString(deterministic=True)
print(hashlib.sha256(data).hexdigest())
"""


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_and_nothing_else_on_stdout():
    outputs = [
        subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0].strip()) == 64


def test_a_backbone_without_a_head_gives_an_embedding_for_any_batch(make_checkpoint, pixels, out, capfd):
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 1}
    checkpoint = make_checkpoint(num_classes=0, global_pool="avg", **arguments)
    artifact = export_checkpoint(checkpoint, out, pixels=pixels, batch_size=2)
    assert artifact.content["output"] == {"name": "embedding", "shape": [2, 32]}
    assert artifact.content["input"]["shape"] == [2, 3, 32, 32]
    assert np.load(artifact.file("golden/outputs.npy")).shape == (3, 32)
    assert capfd.readouterr() == ("", "")


def test_tokens_are_a_second_output_with_golden_values_of_their_own(exported, exported_tokens):
    checkpoint, plain = exported
    artifact = exported_tokens
    assert artifact.content["output"] == {"name": "logits", "shape": [1, 10]}
    assert artifact.content["tokens"] == {"name": "tokens", "shape": [1, 16, 64]}
    inputs, outputs, tokens = (np.load(artifact.file(f"golden/{n}.npy")) for n in ("inputs", "outputs", "tokens"))
    with torch.no_grad():
        expected = checkpoint.model.forward_features(torch.from_numpy(inputs))[:, 1:].numpy()
    np.testing.assert_allclose(tokens, expected, atol=1e-5)
    np.testing.assert_allclose(run_onnx(artifact.file("fp32.onnx"), inputs, output="tokens"), expected, atol=1e-4)
    np.testing.assert_array_equal(outputs, np.load(plain.file("golden/outputs.npy")))
    for name in ("torch_vs_onnxruntime", "tokens_torch_vs_onnxruntime"):
        assert artifact.content["parity"][name]["max_abs"] <= artifact.content["parity"][name]["tolerance"]


def test_tokens_change_neither_names_nor_weights(exported, exported_tokens):
    plain, wide = (onnx.load(artifact.file("fp32.onnx")).graph for artifact in (exported[1], exported_tokens))
    assert [tensor.name for tensor in plain.initializer if "val_" not in tensor.name] == [
        tensor.name for tensor in wide.initializer if "val_" not in tensor.name
    ]
    modules = [[(node.op_type, node.metadata_props[0].value) for node in graph.node] for graph in (plain, wide)]
    assert modules[1][: len(modules[0])] == modules[0]


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 16, 16, 3), dtype=np.uint8),
        np.zeros((2, 32, 32, 3), dtype=np.float32),
        np.zeros((0, 32, 32, 3), dtype=np.uint8),
        np.zeros((32, 32, 3), dtype=np.uint8),
    ],
    ids=["size", "dtype", "none", "rank"],
)
def test_golden_images_of_another_shape_are_refused(make_checkpoint, out, bad):
    with pytest.raises(ConfigError, match=r"uint8 \[G, 32, 32, 3\]"):
        export_checkpoint(make_checkpoint(), out, pixels=bad)
    assert not out.exists()


def test_a_batch_below_one_is_refused(make_checkpoint, pixels, out):
    with pytest.raises(ConfigError, match="batch_size"):
        export_checkpoint(make_checkpoint(), out, pixels=pixels, batch_size=0)


def test_an_existing_folder_is_refused_before_any_work(make_checkpoint, pixels, out):
    out.mkdir()
    (out / "mine").write_text("keep")
    with pytest.raises(OutputError, match="exists"):
        export_checkpoint(make_checkpoint(), out, pixels=pixels)
    assert [path.name for path in out.iterdir()] == ["mine"]


def test_a_backbone_without_pooling_is_refused_with_the_cure(make_checkpoint, pixels, out):
    checkpoint = make_checkpoint(
        img_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=1, num_classes=0, global_pool=""
    )
    with pytest.raises(ConfigError, match=r"one vector per image.*\(1, 17, 32\).*global_pool"):
        export_checkpoint(checkpoint, out, pixels=pixels)


def test_a_model_in_training_mode_is_a_bug(make_checkpoint, pixels, out):
    checkpoint = make_checkpoint()
    checkpoint.model.train()
    with pytest.raises(ValueError, match="eval mode"):
        export_checkpoint(checkpoint, out, pixels=pixels)


def test_a_saved_checkpoint_can_be_exported(pixels, out, tmp_path):
    from edgemim.models.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
    from edgemim.preprocess import Preprocess

    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 1}
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **arguments)
    info = CheckpointInfo(
        architecture="vit_tiny_patch16_224",
        model_args=arguments,
        preprocess=Preprocess(size=(32, 32)),
        num_classes=3,
        class_names=("a", "b", "c"),
    )
    save_checkpoint(tmp_path / "checkpoint", model, info)
    export_checkpoint(load_checkpoint(tmp_path / "checkpoint"), out, pixels=pixels)
    assert load_artifact(out, "onnx").content["class_names"] == ["a", "b", "c"]
