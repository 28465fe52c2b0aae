"""A bundle from a checkpoint: whose images it carries, what it was calibrated on, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from edgemim.artifact import Artifact, load_artifact
from edgemim.config import build
from edgemim.data.images import Images
from edgemim.data.open import open_splits
from edgemim.errors import ConfigError, DataError, OutputError
from edgemim.models.build import build_backbone
from edgemim.models.checkpoint import load_checkpoint, save_checkpoint
from edgemim.pipeline.make_bundle import BundleSettings, make_bundle
from edgemim.preprocess import read_image
from edgemim.runtime.bundle import load_bundle
from edgemim.runtime.check import check_bundle
from edgemim.runtime.nvidia import host_check

SEED = 5  # of the classifier's run


def bundle(checkpoint: Path, out: Path, said: list[str] | None = None, **settings: Any) -> Artifact:
    values = {"calibration_count": 8, **settings}
    return make_bundle(checkpoint, out, build(BundleSettings, values), say=(said if said is not None else []).append)


def hashes(images: Images) -> list[str]:
    return [hashlib.sha256(images.encoded(i)).hexdigest() for i in range(len(images))]


def carried(artifact: Artifact) -> tuple[list[str], list[int] | None]:
    """sha256 of every evaluation image in a bundle, and their labels."""
    with zipfile.ZipFile(artifact.file("evaluation.zip")) as archive:
        names = sorted(name for name in archive.namelist() if name.startswith("images/"))
        return [hashlib.sha256(archive.read(n)).hexdigest() for n in names], json.loads(archive.read("labels.json"))


@pytest.fixture(scope="module")
def made(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, list[str]]:
    """An INT8 bundle with a gate, and what the user was told."""
    said: list[str] = []
    out = tmp_path_factory.mktemp("made") / "bundle"
    return bundle(classifier, out, said, gates={"top1.max_drop": 0.02, "p99_ms": 50.0}), said


def test_the_evaluation_images_are_those_that_the_run_held_out(made: tuple[Artifact, list[str]], classes: Path) -> None:
    splits = open_splits(str(classes), seed=SEED)
    images, labels = carried(made[0])
    assert images == hashes(splits.test)
    assert splits.test.labels is not None
    assert labels == splits.test.labels.tolist()
    assert not set(images) & set(hashes(splits.train))
    # Another seed holds out others: the one of the run counts, not the bundle's own.
    assert images != hashes(open_splits(str(classes), seed=0).test)


def test_the_calibration_record_names_training_images_only(made: tuple[Artifact, list[str]], classes: Path) -> None:
    artifact, _ = made
    record = json.loads(artifact.file("calibration.json").read_text("utf-8"))
    train = hashes(open_splits(str(classes), seed=SEED).train)
    assert record["count"] == len(record["images"]) == 8
    assert [image["sha256"] for image in record["images"]] == [train[image["index"]] for image in record["images"]]
    assert len({image["index"] for image in record["images"]}) == 8
    assert artifact.content["calibration"] == {"file": "calibration.json", "images": 8, "synthetic": False}


def test_the_user_hears_that_the_calibration_images_are_few(made: tuple[Artifact, list[str]]) -> None:
    artifact, said = made
    assert said[0] == "calibration on 8 images is unreliable; use 128 or more"
    assert said == json.loads(artifact.file("calibration.json").read_text("utf-8"))["notes"]


def test_a_gallery_is_of_training_images(classifier: Path, classes: Path, tmp_path: Path) -> None:
    made = bundle(classifier, tmp_path / "bundle", precision="fp32", gallery=str(classes), gallery_count=6)
    loaded = load_bundle(made.path)
    assert loaded.gallery is not None
    assert loaded.gallery.labels is not None
    found = [hashlib.sha256(data).hexdigest() for data in loaded.gallery.encoded()]
    assert len(set(found)) == 6
    assert set(found) <= set(hashes(open_splits(str(classes), seed=SEED).train))


def test_a_gallery_without_evaluation_images_is_refused(classifier: Path, classes: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gallery is for evaluation images, and there are none; give some"):
        bundle(classifier, tmp_path / "bundle", gallery=str(classes), evaluation="none")
    assert not list(tmp_path.iterdir())


def test_an_export_that_was_interrupted_goes_on_after_its_calibration(
    classifier: Path, made: tuple[Artifact, list[str]], tmp_path: Path
) -> None:
    out, calls = tmp_path / "bundle", list[tuple[int, int]]()
    values = {"calibration_count": 8, "gates": {"top1.max_drop": 0.02, "p99_ms": 50.0}}
    settings = build(BundleSettings, values)

    def stop_after_calibration(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_bundle(classifier, out, settings, say=print, progress=stop_after_calibration)
    assert [path.name for path in tmp_path.iterdir()] == [".bundle.work"]
    artifact = make_bundle(classifier, out, settings, say=print, progress=lambda *done: calls.append(done))
    assert not calls  # no image was run again
    assert artifact.content == made[0].content
    assert artifact.files == made[0].files
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.slow
def test_noise_is_calibrated_on_only_when_it_is_asked_for_and_the_bundle_says_so(
    classifier: Path, tmp_path: Path
) -> None:
    settings = BundleSettings(calibration="random:8", calibration_count=8, evaluation="none")
    said: list[str] = []
    artifact = make_bundle(classifier, tmp_path / "bundle", settings, say=said.append)
    assert artifact.content["calibration"]["synthetic"] is True
    assert any("random" in line for line in said), said
    report = check_bundle(artifact.path, tmp_path / "report", runs=1, seconds=0.01)
    assert any("calibrated on noise" in caveat for caveat in report["caveats"])


def test_gates_and_candidates_land_in_the_bundle(made: tuple[Artifact, list[str]]) -> None:
    content = load_artifact(made[0].path, "bundle").content
    assert content["gates"] == {"top1.max_drop": 0.02, "p99_ms": 50.0}
    assert [c["name"] for c in content["candidates"]] == [
        "fp32",
        "bf16",
        "int8-linear",
        "int8-linear-bf16",
        "int8-attention",
        "int8-attention-bf16",
    ]
    assert content["class_names"] == ["columns", "rows"]


def test_every_stage_is_in_the_provenance(made: tuple[Artifact, list[str]]) -> None:
    assert [r["stage"] for r in made[0].provenance] == ["finetune", "export", "quantize", "pixels", "bundle"]


def test_the_graphs_take_pixels_and_the_quantizer_never_saw_them(made: tuple[Artifact, list[str]]) -> None:
    artifact, _ = made
    assert artifact.content["input"] == {
        "name": "pixels",
        "dtype": "uint8",
        "layout": "NHWC",
        "shape": [1, 32, 32, 3],
        "encoding": "pixels",
    }
    for flavour in artifact.content["flavours"]:
        (source,) = onnx.load(artifact.file(flavour["file"])).graph.input
        assert (source.name, source.type.tensor_type.elem_type) == ("pixels", onnx.TensorProto.UINT8)


def test_golden_images_travel_as_files_and_as_what_the_contract_makes_of_them(
    made: tuple[Artifact, list[str]], classes: Path
) -> None:
    loaded = load_bundle(made[0].path)
    assert loaded.golden.images is not None
    files = list(loaded.golden.images.encoded())
    train = hashes(open_splits(str(classes), seed=SEED).train)
    assert [hashlib.sha256(data).hexdigest() for data in files] == [train[i * len(train) // 8] for i in range(8)]
    for data, pixels in zip(files, loaded.golden.pixels, strict=True):
        np.testing.assert_array_equal(loaded.preprocess.pixels(read_image(data)), pixels)


def test_float_leaves_the_graphs_as_they_were(classifier: Path, tmp_path: Path) -> None:
    artifact = bundle(classifier, tmp_path / "bundle", precision="fp32", evaluation="none", input="float")
    assert artifact.content["input"]["encoding"] == "normalised"
    assert artifact.content["input"]["shape"] == [1, 3, 32, 32]
    assert [r["stage"] for r in artifact.provenance] == ["finetune", "export", "bundle"]


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("x86", ["fp32", "bf16"]),
        ("jetson-thor", ["fp32", "fp16"]),
        ("jetson-orin-nano", ["fp32", "fp16-opset17", "fp16"]),
    ],
)
def test_float_candidates_come_without_a_quantizer(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, names: list[str]
) -> None:
    monkeypatch.setattr(host_check, "installed", lambda: ())  # whose builds are not asked about here
    artifact = bundle(classifier, tmp_path / "bundle", target=target, precision="float", evaluation="none")
    assert [c["name"] for c in artifact.content["candidates"]] == names
    assert [r["stage"] for r in artifact.provenance] == ["finetune", "export", "pixels", "bundle"]
    assert artifact.content["calibration"] is None


@pytest.mark.slow
def test_int8_in_batches_passes_the_check_of_its_golden_images(classifier: Path, tmp_path: Path) -> None:
    artifact = bundle(classifier, tmp_path / "bundle", batch=3, output="tokens")
    assert artifact.content["input"]["shape"] == [3, 32, 32, 3]
    assert artifact.content["tokens"] == {"name": "tokens", "shape": [3, 16, 32]}
    report = check_bundle(artifact.path, tmp_path / "report", backends=["onnxruntime"], threads=1, runs=1, seconds=0)
    rows = [row for row in report["candidates"] if row["backend"] == "onnxruntime"]
    assert {row["precision"] for row in rows} >= {"fp32", "int8"}
    assert [row["disqualified"] for row in rows] == [None] * len(rows)
    assert rows[0]["accuracy"]["n"] == 4
    assert report["protocol"]["batch"] == 3
    assert report["preprocessing"].items() >= {"exact": True, "max_levels": 0, "max_abs": None}.items()


def test_no_scratch_folder_is_left(made: tuple[Artifact, list[str]]) -> None:
    assert [p.name for p in made[0].path.parent.iterdir()] == ["bundle"]


def test_none_means_no_evaluation_images(classifier: Path, tmp_path: Path) -> None:
    artifact = bundle(classifier, tmp_path / "bundle", precision="fp32", evaluation="none")
    assert artifact.content["evaluation"] is None
    assert "evaluation.zip" not in artifact.files


def test_fewer_evaluation_images_are_a_seeded_part(classifier: Path, tmp_path: Path, classes: Path) -> None:
    settings = {"precision": "fp32", "evaluation_count": 2, "seed": 1}
    images, labels = carried(bundle(classifier, tmp_path / "bundle", **settings))
    held_out = open_splits(str(classes), seed=SEED).test
    rows = sorted(np.random.default_rng(1).permutation(len(held_out))[:2].tolist())
    assert images == hashes(held_out.select(rows))
    assert labels == held_out.select(rows).require_labels("here").tolist()


def test_a_backbone_carries_images_without_labels(backbone: Path, classes: Path, tmp_path: Path) -> None:
    settings = {"precision": "fp32", "calibration": str(classes), "evaluation": str(classes)}
    artifact = bundle(backbone, tmp_path / "bundle", **settings)
    assert artifact.content["evaluation"] == {"file": "evaluation.zip", "count": 4, "labelled": False}
    assert carried(artifact)[1] is None


def test_unlabelled_images_are_carried_for_agreement(classifier: Path, classes: Path, tmp_path: Path) -> None:
    artifact = bundle(classifier, tmp_path / "bundle", precision="fp32", evaluation=str(classes / "rows"))
    assert artifact.content["evaluation"]["labelled"] is False


def _converted(backbone: Path, out: Path, num_classes: int, provenance: tuple[dict[str, Any], ...] = ()) -> Path:
    """The backbone's architecture with a head whose classes have no names, as from a public file."""
    info = dataclasses.replace(load_checkpoint(backbone).info, num_classes=num_classes)
    model = build_backbone(info.architecture, info.model_args, num_classes=num_classes)
    save_checkpoint(out, model, info, provenance=provenance)
    return out


def test_classes_by_name_are_not_taken_for_the_first_of_many_without_names(
    backbone: Path, classes: Path, tmp_path: Path
) -> None:
    settings = {"precision": "fp32", "calibration": str(classes), "evaluation": str(classes)}
    with pytest.raises(DataError, match="has 2 classes by name, the checkpoint 5 without names: nobody knows which"):
        bundle(_converted(backbone, tmp_path / "five", 5), tmp_path / "bundle", **settings)
    assert not (tmp_path / "bundle").exists()
    made = bundle(_converted(backbone, tmp_path / "two", 2), tmp_path / "bundle", **settings)
    assert made.content["evaluation"]["labelled"] is True


def test_a_checkpoint_of_a_stream_takes_the_images_that_it_is_given(
    backbone: Path, classes: Path, tmp_path: Path
) -> None:
    record = {"stage": "pretrain", "data": {"spec": "stream:/shards"}, "settings": {"seed": 0}}
    checkpoint = _converted(backbone, tmp_path / "streamed", 0, (record,))
    with pytest.raises(ConfigError, match="was trained on stream:/shards, which only pretrain and distill read; give"):
        bundle(checkpoint, tmp_path / "bundle")
    made = bundle(checkpoint, tmp_path / "bundle", precision="fp32", calibration=str(classes))
    assert made.content["evaluation"] is None


def test_without_data_there_is_nothing_to_calibrate_on(backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not say what it was trained on; give some with --calibration"):
        bundle(backbone, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("folders", "message"),
    [(("a", "b", "c"), "has 3 classes, the checkpoint 2"), (("rows", "spots"), "the classes rows, spots, the")],
)
def test_images_of_other_classes_are_refused(
    classifier: Path, classes: Path, tmp_path: Path, folders: tuple[str, ...], message: str
) -> None:
    for name in folders:
        (tmp_path / "other" / name).mkdir(parents=True)
        for file in sorted((classes / "rows").iterdir())[:4]:
            (tmp_path / "other" / name / file.name).symlink_to(file)
    with pytest.raises(DataError, match=message):
        bundle(classifier, tmp_path / "bundle", evaluation=str(tmp_path / "other"))
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "x87"}, "unknown target 'x87'; did you mean 'x86'"),
        ({"gates": {"p99": 1.0}}, "unknown gate 'p99'"),
        ({"quantizer": "nnfc"}, "unknown quantizer 'nnfc'; did you mean 'nncf'"),
        ({"ranges": "percentil"}, "unknown range estimator 'percentil'; did you mean 'percentile'"),
        ({"placements": ["linaer"]}, "unknown placement 'linaer'; did you mean 'linear'"),
        ({"quantizer": "nncf", "ranges": "max"}, "quantizer 'nncf' chooses its ranges itself"),
        ({"quantizer": "nncf", "placements": ["linear"]}, "quantizer 'nncf' chooses its placements itself"),
        ({"quantizer": "nncf", "precision": "auto"}, "searches among edgemim's own placements; got quantizer 'nncf'"),
        ({"ranges": "max", "precision": "fp32"}, "--precision fp32 quantizes nothing"),
        ({"placements": ["linear"], "precision": "float"}, "--precision float quantizes nothing"),
        ({"precision": "int4"}, "'precision' must be one of 'fp32', 'float', 'int8', 'auto'; got 'int4'"),
        ({"input": "bgr"}, "'input' must be one of 'pixels', 'float'; got 'bgr'"),
        ({"output": "all"}, "'output' must be one of 'head', 'tokens'; got 'all'"),
        ({"batch": 0}, "batch must be at least 1; got 0"),
    ],
)
def test_an_unknown_name_leaves_nothing(
    classifier: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        bundle(classifier, tmp_path / "bundle", **settings)
    assert list(tmp_path.iterdir()) == []


def test_placements_and_ranges_are_those_that_were_asked_for(classifier: Path, tmp_path: Path) -> None:
    asked = {"placements": ["everything", "linear", "linear"], "ranges": "max"}
    made = bundle(classifier, tmp_path / "bundle", evaluation="none", **asked)
    assert {c["file"] for c in made.content["candidates"]} == {"fp32.onnx", "int8-everything.onnx", "int8-linear.onnx"}
    record = next(r for r in made.provenance if r["stage"] == "quantize")
    assert record["settings"]["ranges"] == "max"


def test_another_quantizer_can_be_asked_for(classifier: Path, tmp_path: Path) -> None:
    made = bundle(classifier, tmp_path / "bundle", quantizer="nncf", evaluation="none")
    assert {c["file"] for c in made.content["candidates"]} == {"fp32.onnx", "int8-nncf.onnx"}


def test_a_folder_that_exists_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "file").touch()
    with pytest.raises(OutputError, match="exists; choose another --out"):
        bundle(tmp_path / "no-such-checkpoint", tmp_path / "out")
