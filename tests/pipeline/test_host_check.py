"""What NVIDIA's own parser and builder make of the bundles that export writes, where TensorRT-RTX is installed.

The two small backbones are part of the default run on purpose: what is promised for a Jetson rests on this check.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgemim.artifact import Artifact
from edgemim.errors import MissingDependencyError
from edgemim.pipeline import host_check
from edgemim.pipeline.make_bundle import BundleSettings, make_bundle
from edgemim.preprocess import Preprocess
from edgemim.runtime.bundle import load_bundle
from edgemim.runtime.nvidia import host_check as oracle
from edgemim.runtime.nvidia.ahead import shipped_engine
from edgemim.runtime.nvidia.library import TENSORRT_RTX, load_library

# Name in timm, image size, arguments: heads of 32 over 17 tokens; convolutions.
SMALL = {
    "vit": ("vit_tiny_patch16_224", 32, {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}),
    "convnext": ("convnextv2_atto", 64, {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)}),
}
REAL = ("vit_tiny_patch16_224", "vit_small_patch16_224", "convnextv2_atto", "mobilenetv4_conv_small")


def _checkpoint(folder: Path, name: str, size: int, arguments: dict[str, Any], *, classes: int = 10) -> Path:
    import torch

    from edgemim.models.build import build_backbone
    from edgemim.models.checkpoint import CheckpointInfo, save_checkpoint

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_backbone(name, arguments, num_classes=classes).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim <= 1:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    contract = Preprocess(size=(size, size), crop_ratio=1.0)
    info = CheckpointInfo(architecture=name, model_args=arguments, preprocess=contract, num_classes=classes)
    save_checkpoint(folder, model, info)
    return folder


def _bundle(checkpoint: Path, out: Path, target: str, **settings: Any) -> Artifact:
    chosen = {"calibration": "random:4", "calibration_count": 4, "evaluation": "none", **settings}
    return make_bundle(checkpoint, out, BundleSettings(target=target, **chosen), say=lambda _: None)


def _rows(artifact: Artifact) -> dict[str, dict[str, Any]]:
    return {row["candidate"]: row for row in artifact.content["host_check"]}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("small")
    return {key: _checkpoint(folder / key, *values) for key, values in SMALL.items()}


@pytest.mark.parametrize("name", ["vit", pytest.param("convnext", marks=pytest.mark.slow)])
def test_nvidia_builds_every_candidate_of_a_small_backbone(small: dict[str, Path], tmp_path: Path, name: str) -> None:
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    rows = _rows(_bundle(small[name], tmp_path / "bundle", "jetson"))
    kinds = {"vit": ("int8-linear", "int8-attention"), "convnext": ("int8-conv",)}[name]
    assert {"fp32", "fp16", "fp16-opset17", *kinds} <= set(rows)
    for row in rows.values():
        assert (row["parsed"], row["error"], row["stands_for"]) == (True, None, "8.7")
        assert row["kernels"] > 0
    if name == "vit":
        assert rows["fp16"]["mha_inputs"] == {"blocks.0.attn": "Half", "blocks.1.attn": "Half"}
        assert rows["int8-attention"]["mha_inputs"] == {"blocks.0.attn": "Int8", "blocks.1.attn": "Int8"}
        assert [rows[kind]["int8_gemms"] for kind in kinds] == [8, 8]
        assert rows["int8-linear"]["int8_convolutions"] == 0
    else:
        assert rows["int8-conv"]["int8_convolutions"] > 0 == rows["fp16"]["int8_convolutions"]
        assert {row["unfused_softmax"] for kind, row in rows.items() if "17" not in kind and kind != "fp32"} == {0}


@pytest.mark.tensorrt
def test_a_batch_of_two_is_built_into_the_same_structure(small: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    one, two = (_rows(_bundle(small["vit"], tmp_path / f"{n}", "jetson-thor", batch=n)) for n in (1, 2))
    seen = ("candidate", "parsed", "int8_gemms", "mha_inputs", "unfused_softmax")
    assert [[row[key] for key in seen] for row in one.values()] == [[row[key] for key in seen] for row in two.values()]


def test_without_tensorrt_rtx_the_manifest_says_so(
    small: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oracle, "installed", lambda: ())
    rows = _rows(_bundle(small["vit"], tmp_path / "bundle", "jetson-thor", precision="fp32"))
    assert list(rows) == ["fp32"]
    assert rows["fp32"]["parsed"] is None
    assert rows["fp32"]["note"].startswith("not checked on the host: the package 'tensorrt_rtx' is not installed")


def test_without_tensorrt_rtx_there_is_no_bundle_for_rtx(
    small: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_check, "installed", lambda: ())
    with pytest.raises(MissingDependencyError, match=r"target 'rtx' needs .*edgemim\[rtx\]"):
        _bundle(small["vit"], tmp_path / "bundle", "rtx")
    assert not list(tmp_path.iterdir())


@pytest.mark.tensorrt
def test_a_bundle_for_rtx_carries_an_engine_of_every_candidate_but_the_reference(
    small: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    bundle = load_bundle(_bundle(small["vit"], tmp_path / "bundle", "rtx").path)
    library = load_library(TENSORRT_RTX)
    found = {c.name: shipped_engine(bundle.artifact, c.name, library) for c in bundle.candidates}
    assert found.pop("fp32") is None
    assert set(found) == {"fp16", "int8-linear", "int8-attention"}
    assert all(file is not None and file.stat().st_size > 0 for file in found.values())
    gpus = [row["compute_capability"] for row in bundle.artifact.content["host_check"] if row["candidate"] == "fp16"]
    assert gpus == list(bundle.target.compute_capabilities)


@pytest.mark.slow
@pytest.mark.tensorrt
@pytest.mark.parametrize("target", ["jetson-orin-nano", "jetson-thor"])
@pytest.mark.parametrize("name", REAL)
def test_nvidia_builds_every_candidate_of_a_real_backbone(tmp_path: Path, name: str, target: str) -> None:
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    bundle = _bundle(_checkpoint(tmp_path / "checkpoint", name, 224, {}, classes=1000), tmp_path / "bundle", target)
    rows = _rows(bundle)
    assert {(row["parsed"], row["error"]) for row in rows.values()} == {(True, None)}
    if name.startswith("vit"):
        assert (rows["fp16"]["fused_mha"], rows["fp16"]["unfused_softmax"]) == (12, 0)
        assert (rows["int8-linear"]["int8_gemms"], rows["int8-linear"]["fused_mha"]) == (48, 12)
        attention = rows["int8-attention"]
        assert (attention["int8_gemms"], attention["int8_mha"], attention["unfused_softmax"]) == (48, 12, 0)
        assert rows["fp16"]["kernels"] <= 100
        assert rows["int8-linear"]["kernels"] <= 124
        assert attention["kernels"] <= 112
