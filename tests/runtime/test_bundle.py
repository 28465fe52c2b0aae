"""`edgemim.runtime.bundle`: written from an onnx artifact, read back, refused when it is not one."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgemim.artifact import create_artifact, load_artifact, seal
from edgemim.errors import ArtifactError, ConfigError, DataError, OutputError
from edgemim.runtime.bundle import load_bundle, write_bundle
from edgemim.runtime.targets import TARGETS


def forge(folder: Path, change: Any) -> None:
    """Change the content of a manifest and seal it anew: every hash holds, as if an old edgemim had written it."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest["content"])
    seal(folder, "bundle", manifest["files"], content=manifest["content"], provenance=manifest["provenance"])


def test_what_is_written_is_read_back(world: SimpleNamespace) -> None:
    path = world.bundle(gates={"top1.max_drop": 0.01, "p99_ms": 8})
    bundle = load_bundle(path)
    assert [(c.name, c.precision, c.opset) for c in bundle.candidates] == [
        ("fp32", "fp32", 17),
        ("bf16", "bf16", 17),
        ("int8-nncf", "int8", 17),
        ("int8-nncf-bf16", "int8", 17),
    ]
    assert [c.size_bytes for c in bundle.candidates] == [(path / c.file).stat().st_size for c in bundle.candidates]
    assert bundle.target is TARGETS.get("x86")
    assert (bundle.architecture, bundle.parameters, bundle.input_shape) == ("linear", 960, (1, 3, 8, 8))
    assert dict(bundle.gates) == {"p99_ms": 8.0, "top1.max_drop": 0.01}
    assert bundle.preprocess == world.contract
    assert bundle.classifies
    assert bundle.evaluation is not None
    assert len(bundle.evaluation) == 20
    assert bundle.golden.outputs.shape == (4, 5)


def test_bf16_shares_the_file_and_says_how_and_where_it_runs(world: SimpleNamespace) -> None:
    candidates = {c.name: c for c in load_bundle(world.bundle(evaluation=None)).candidates}
    for plain, bf16 in (("fp32", "bf16"), ("int8-nncf", "int8-nncf-bf16")):
        one, other = candidates[plain], candidates[bf16]
        assert (one.backend, dict(one.options), one.needs) == (None, {}, None)
        assert (other.file, other.size_bytes) == (one.file, one.size_bytes)
        assert (other.backend, dict(other.options), other.needs) == (
            "openvino",
            {"INFERENCE_PRECISION_HINT": "bf16"},
            "bf16",
        )


def test_a_jetson_has_no_candidates_of_openvino(world: SimpleNamespace) -> None:
    bundle = load_bundle(world.bundle(target="jetson", evaluation=None))
    assert {c.backend for c in bundle.candidates} == {None, "tensorrt"}


def test_a_bundle_that_knows_of_no_options_is_still_read(world: SimpleNamespace) -> None:
    def older(content: dict[str, Any]) -> None:
        content["candidates"] = [c for c in content["candidates"] if c["backend"] is None]
        for candidate in content["candidates"]:
            del candidate["backend"], candidate["options"], candidate["needs"]

    path = world.bundle(evaluation=None)
    forge(path, older)
    assert [(c.name, dict(c.options)) for c in load_bundle(path).candidates] == [("fp32", {}), ("int8-nncf", {})]


def test_provenance_goes_on_from_the_onnx_artifact(world: SimpleNamespace) -> None:
    bundle = load_artifact(world.bundle(), "bundle")
    assert [record["stage"] for record in bundle.provenance] == ["export", "bundle"]


def test_the_input_of_a_session_is_the_normalised_image(world: SimpleNamespace) -> None:
    bundle = load_bundle(world.bundle(evaluation=None))
    pixels = world.images(1)
    arrays = bundle.arrays(pixels)
    assert list(arrays) == ["images"]
    np.testing.assert_array_equal(arrays["images"], world.contract.normalise(pixels))
    assert arrays["images"].shape == bundle.input_shape


def test_a_graph_that_takes_pixels_is_given_the_pixels_themselves(world: SimpleNamespace) -> None:
    bundle = load_bundle(world.bundle(evaluation=None, encoding="pixels"))
    pixels = world.images(1)
    arrays = bundle.arrays(pixels)
    assert list(arrays) == ["pixels"]
    assert arrays["pixels"].dtype == np.uint8
    np.testing.assert_array_equal(arrays["pixels"], pixels)
    assert arrays["pixels"].shape == bundle.input_shape


@pytest.mark.parametrize("encoding", ["pixels", "normalised"])
def test_golden_images_come_in_full_batches_and_say_how_many_are_real(world: SimpleNamespace, encoding: str) -> None:
    bundle = load_bundle(world.bundle(evaluation=None, encoding=encoding, batch=3))
    (first, count), (last, rest) = bundle.golden_batches()
    golden = bundle.golden.pixels if encoding == "pixels" else bundle.golden.inputs
    assert (bundle.batch, count, rest) == (3, 3, 1)
    np.testing.assert_array_equal(first[bundle.input_name], golden[:3])
    np.testing.assert_array_equal(last[bundle.input_name], golden[[3, 3, 3]])


def test_golden_images_travel_as_the_files_they_were(world: SimpleNamespace) -> None:
    bundle = load_bundle(world.bundle(evaluation=None))
    assert list(bundle.golden.images.encoded()) == world.golden
    assert bundle.artifact.content["golden"]["images"] == "golden/images.zip"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files[:-1], "was compared on 4 golden images; got 3"),
        (lambda files: [*files, files[0]], "golden image 4 is not the one that"),
        (lambda files: [files[1], files[0], *files[2:]], "golden image 0 is not the one that"),
    ],
    ids=["too few", "too many", "another order"],
)
def test_golden_images_that_are_not_those_of_the_export_are_refused(
    world: SimpleNamespace, change: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        world.bundle(evaluation=None, golden=change(world.golden))
    assert [p.name for p in world.tmp.iterdir()] == ["bundle-onnx"]


def test_a_bundle_of_an_older_schema_gets_one_clear_line(world: SimpleNamespace) -> None:
    path = world.bundle(evaluation=None)
    forge(path, lambda content: content.pop("bundle_schema"))
    with pytest.raises(ArtifactError, match=r"is a bundle of schema 1, this edgemim reads 2; run: edgemim export"):
        load_bundle(path)


def test_a_bundle_without_images_has_no_evaluation(world: SimpleNamespace) -> None:
    bundle = load_bundle(world.bundle(evaluation=None))
    assert (bundle.evaluation, bundle.gallery) == (None, None)


def test_a_gallery_has_classes_of_its_own(world: SimpleNamespace) -> None:
    images = [(data, 1000 + i) for i, (data, _) in enumerate(world.labelled(3))]  # the model knows five
    gallery = load_bundle(world.bundle(gallery=images)).gallery
    assert gallery is not None
    assert gallery.labels is not None
    assert gallery.labels.tolist() == [1000, 1001, 1002]
    assert list(gallery.encoded()) == [data for data, _ in images]


def test_a_bundle_from_before_there_were_galleries_is_read(world: SimpleNamespace) -> None:
    path = world.bundle()
    forge(path, lambda content: content.pop("gallery"))
    assert load_bundle(path).gallery is None


def test_flavours_that_the_target_cannot_take_are_no_candidates(world: SimpleNamespace) -> None:
    def newer(content: dict[str, Any]) -> None:
        content["flavours"][1]["opset"] = 20

    assert [c.name for c in load_bundle(world.bundle(change=newer)).candidates] == ["fp32", "bf16"]


def test_an_artifact_without_a_fitting_flavour_says_what_was_found(world: SimpleNamespace) -> None:
    def newer(content: dict[str, Any]) -> None:
        for flavour in content["flavours"]:
            flavour["opset"] = 20

    with pytest.raises(ArtifactError, match=r"fp32 \(fp32, opset 20\).* edgemim export --target x86"):
        world.bundle(change=newer)
    assert not (world.tmp / "bundle").exists()


def test_another_kind_of_artifact_is_refused(world: SimpleNamespace, tmp_path: Path) -> None:
    with create_artifact(tmp_path / "checkpoint", "checkpoint") as draft:
        draft.path("config.json").write_text("{}")
    checkpoint = load_artifact(tmp_path / "checkpoint")
    with pytest.raises(ArtifactError, match="is a checkpoint; a bundle is made from an onnx artifact"):
        write_bundle(checkpoint, tmp_path / "out", target=TARGETS.get("x86"))
    with pytest.raises(ArtifactError, match="is a checkpoint; here a bundle is needed"):
        load_bundle(tmp_path / "checkpoint")


def test_nothing_is_left_behind_when_an_evaluation_image_is_bad(world: SimpleNamespace) -> None:
    with pytest.raises(DataError, match="not an image"):
        world.bundle(evaluation=[(b"junk", 0)])
    assert [p.name for p in world.tmp.iterdir()] == ["bundle-onnx"]


def test_an_unknown_gate_is_refused_before_anything_is_written(world: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match=r"unknown gate 'top1\.drop'; did you mean"):
        world.bundle(gates={"top1.drop": 0.01})
    assert not (world.tmp / "bundle").exists()


def test_an_output_folder_that_exists_is_refused(world: SimpleNamespace) -> None:
    path = world.bundle(evaluation=None)
    artifact = world.onnx("again")
    with pytest.raises(OutputError, match="exists"):
        write_bundle(artifact, path, target=TARGETS.get("x86"), golden=world.golden)
    write_bundle(artifact, path, target=TARGETS.get("jetson"), golden=world.golden, overwrite=True)
    assert load_bundle(path).target.name == "jetson-orin-nano"


@pytest.mark.parametrize("name", ["fp32.onnx", "evaluation.zip", "golden/outputs.npy", "golden/images.zip"])
def test_an_altered_file_is_refused(world: SimpleNamespace, name: str) -> None:
    path = world.bundle()
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (path / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{name} was altered"):
        load_bundle(path)


def _set(*keys: Any, value: Any) -> Any:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


FORGERIES = {
    "no target": (lambda content: content.pop("target"), "lacks 'target'"),
    "unknown target": (_set("target", value="x68"), "unknown target 'x68'; did you mean 'x86'"),
    "another encoding": (
        _set("input", "encoding", value="pixels"),
        r"pixels \(float32 NCHW\), known is pixels \(uint8",
    ),
    "an unknown encoding": (_set("input", "encoding", value="bgr"), "its input is bgr"),
    "a shape of three": (_set("input", "shape", value=[3, 8, 8]), "does not fit images of 8 x 8"),
    "another size": (_set("input", "shape", value=[1, 3, 9, 9]), "does not fit images of 8 x 8"),
    "a batch of none": (_set("input", "shape", value=[0, 3, 8, 8]), "does not fit images of 8 x 8"),
    "another contract": (_set("preprocess", "size", value=[9, 9]), "does not fit images of 9 x 9"),
    "other golden tensors": (_set("golden", "inputs", value="golden/pixels.npy"), "golden tensors .* do not fit"),
    "golden images are another zip": (_set("golden", "images", value="evaluation.zip"), "holds 20 images"),
    "no golden images": (lambda content: content["golden"].pop("images"), "lacks 'images'"),
    "a file of its own": (_set("candidates", 0, "file", value="/etc/passwd"), "has no file '/etc/passwd'"),
    "an odd name": (_set("candidates", 0, "name", value="| fp32"), r"candidate '\| fp32'"),
    "an unknown precision": (_set("candidates", 0, "precision", value="int2"), "precision 'int2'"),
    "an unknown need": (_set("candidates", 1, "needs", value="fp4"), "'bf16' needs 'fp4', known is bf16"),
    "a nested option": (_set("candidates", 1, "options", value={"A": []}), "'bf16' has the options"),
    "an unknown gate": (_set("gates", value={"p98": 1}), "unknown gate 'p98'"),
    "more images": (_set("evaluation", "count", value=21), "holds 20 images, the manifest says 21"),
    "unlabelled": (_set("evaluation", "labelled", value=False), "labelled=False"),
    "fewer classes": (_set("num_classes", value=1), "class numbers below 1"),
    "golden is no array": (_set("golden", "inputs", value="fp32.onnx"), "golden tensors|cannot be read"),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_a_manifest_that_contradicts_itself_is_refused(world: SimpleNamespace, case: str) -> None:
    change, message = FORGERIES[case]
    path = world.bundle()
    forge(path, change)
    with pytest.raises(ArtifactError, match=message):
        load_bundle(path)


def test_pickled_golden_tensors_are_refused_and_never_run(world: SimpleNamespace, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    path = world.bundle()
    np.save(path / "golden/inputs.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    forge(path, lambda content: None)
    with pytest.raises(ArtifactError, match=r"golden/inputs\.npy is not an array that can be read"):
        load_bundle(path)
    assert not (tmp_path / "ran").exists()
