"""An artifact whose graphs take pixels, made from one whose graphs take normalised floats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgemim.artifact import Artifact, create_artifact, load_artifact
from edgemim.errors import ArtifactError, ConfigError, EdgemimError, OutputError
from edgemim.export.parity import run_onnx
from edgemim.export.pixels import accept_pixels


def quantize_input(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model behind an int8 image: as far as the pixel input can tell, an INT8 flavour."""
    for name, array in (("step", np.float32(0.02)), ("zero", np.int8(0))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    for node in model.graph.node:
        node.input[:] = ["image_read" if name == "images" else name for name in node.input]
    for op, source, result in (
        ("DequantizeLinear", "image_kept", "image_read"),
        ("QuantizeLinear", "images", "image_kept"),
    ):
        model.graph.node.insert(0, onnx.helper.make_node(op, [source, "step", "zero"], [result], name=f"node_{result}"))
    return onnx.shape_inference.infer_shapes(model)


@pytest.fixture(scope="module")
def exported(exported_tokens, tmp_path_factory) -> Artifact:
    """A tiny ViT with its tokens, fp32 and INT8."""
    folder, fp32 = tmp_path_factory.mktemp("pixels") / "both", exported_tokens
    with create_artifact(folder, "onnx") as draft:
        draft.copy_from(fp32)
        quantized = quantize_input(onnx.load(fp32.file("fp32.onnx")))
        draft.path("int8-input.onnx").write_bytes(quantized.SerializeToString())
        entry = {"name": "int8-input", "precision": "int8", "opset": 17, "file": "int8-input.onnx"}
        draft.content = {**fp32.content, "flavours": [*fp32.content["flavours"], entry]}
    return load_artifact(folder, "onnx")


@pytest.fixture(scope="module")
def accepted(exported, tmp_path_factory) -> Artifact:
    return accept_pixels(exported, tmp_path_factory.mktemp("accepted") / "out")


def golden(artifact: Artifact, name: str) -> np.ndarray:
    return np.load(artifact.file(f"golden/{name}.npy"))


def test_the_manifest_says_what_the_graphs_take_now(exported, accepted):
    assert accepted.content["input"] == {
        "name": "pixels",
        "dtype": "uint8",
        "layout": "NHWC",
        "shape": [1, 32, 32, 3],
        "encoding": "pixels",
    }
    other = ("input", "parity")
    assert {k: v for k, v in accepted.content.items() if k not in other} == {
        k: v for k, v in exported.content.items() if k not in other
    }


@pytest.mark.parametrize("output", ["outputs", "tokens"])
def test_fp32_gives_the_golden_outputs_for_the_golden_pixels(exported, accepted, output):
    expected = golden(accepted, output)
    name = accepted.content["output" if output == "outputs" else "tokens"]["name"]
    found = run_onnx(accepted.file("fp32.onnx"), golden(accepted, "pixels"), output=name)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    before, after = (artifact.content["parity"] for artifact in (exported, accepted))
    assert before.keys() == after.keys()
    assert after["torch_vs_onnxruntime"]["max_abs"] == pytest.approx(
        np.abs(run_onnx(accepted.file("fp32.onnx"), golden(accepted, "pixels")) - golden(accepted, "outputs")).max(),
        abs=1e-9,
    )


def test_int8_computes_what_it_did(exported, accepted):
    before = run_onnx(exported.file("int8-input.onnx"), golden(exported, "inputs"))
    after = run_onnx(accepted.file("int8-input.onnx"), golden(accepted, "pixels"))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())


def test_golden_files_stay(exported, accepted):
    names = [name for name in exported.files if name.startswith("golden/")]
    assert len(names) == 4
    assert {name: accepted.files[name] for name in names} == {name: exported.files[name] for name in names}


def test_the_step_is_in_the_provenance(exported, accepted):
    *before, record = accepted.provenance
    assert [r["stage"] for r in before] == [r["stage"] for r in exported.provenance]
    assert (record["stage"], record["source"]) == ("pixels", exported.fingerprint)
    assert record["settings"] == {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def test_every_node_still_names_its_module(accepted):
    for node in onnx.load(accepted.file("fp32.onnx")).graph.node:
        assert [entry.key for entry in node.metadata_props] == ["edgemim.module"]


def test_the_same_artifact_gives_the_same_bytes(exported, accepted, out):
    assert accept_pixels(exported, out).fingerprint == accepted.fingerprint


def test_pixels_are_not_accepted_twice(accepted, out):
    with pytest.raises(ConfigError, match="takes pixels already"):
        accept_pixels(accepted, out)


def test_another_kind_of_artifact_is_refused(checkpoint_artifact, out):
    with pytest.raises(ArtifactError, match="is a checkpoint; here an onnx artifact is needed"):
        accept_pixels(checkpoint_artifact, out)


def test_an_existing_folder_is_refused(exported, out):
    out.mkdir()
    (out / "mine").write_text("keep")
    with pytest.raises(OutputError, match="exists"):
        accept_pixels(exported, out)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("fp32.onnx", "does not compute what torch computes"),
        ("int8-input.onnx", "flavour 'int8-input' does not compute what it did"),
    ],
)
def test_a_graph_that_computes_something_else_afterwards_writes_nothing(exported, tmp_path: Path, file, message):
    """The contract of the manifest is not the one that the golden inputs were normalised with."""
    with create_artifact(tmp_path / "forged", "onnx") as draft:
        draft.copy_from(exported)
        flavours = [flavour for flavour in exported.content["flavours"] if flavour["file"] == file]
        preprocess = exported.content["preprocess"] | {"mean": [0.1, 0.9, 0.5]}
        draft.content = {**exported.content, "flavours": flavours, "preprocess": preprocess}
    with pytest.raises(EdgemimError, match=message):
        accept_pixels(load_artifact(tmp_path / "forged"), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["forged"]


def test_the_file_is_valid(accepted):
    model = onnx.load(accepted.file("fp32.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert ir.from_proto(model).graph.inputs[0].dtype == ir.DataType.UINT8
