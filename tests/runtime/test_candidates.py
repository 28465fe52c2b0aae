"""Which candidates a bundle has, by its target."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import Any

import pytest

from edgemim.artifact import Artifact, create_artifact, load_artifact
from edgemim.errors import ArtifactError
from edgemim.runtime.bundle import load_bundle, write_bundle
from edgemim.runtime.candidates import make_candidates
from edgemim.runtime.targets import TARGETS

_OPSETS = {"fp32": 17, "fp16": 20}


def _entry(name: str, base: str) -> dict[str, Any]:
    precision = name[:4]
    return {"name": name, "precision": precision, "opset": _OPSETS[base], "file": f"{name}.onnx", "base": base}


@pytest.fixture
def onnx(world: SimpleNamespace) -> Artifact:
    """What export and quantize write for NVIDIA: both float flavours, and two placements on each of them."""
    entries = [_entry(base, base) for base in _OPSETS]
    for placement in ("linear", "attention"):
        entries += [_entry(f"int8-{placement}", "fp32"), _entry(f"int8-{placement}-fp16", "fp16")]
    plain = world.onnx("plain")
    with create_artifact(world.tmp / "both", "onnx") as draft:
        draft.copy_from(plain)
        draft.content = {**plain.content, "flavours": entries}
        for entry in entries:
            shutil.copyfile(plain.file("fp32.onnx"), draft.path(entry["file"]))
    return load_artifact(world.tmp / "both")


def _made(onnx: Artifact, target: str) -> list[tuple[str, str, str, int]]:
    return [(c.name, c.precision, c.file, c.opset) for c in make_candidates(onnx, TARGETS.get(target))]


def test_an_orin_gets_every_candidate_in_both_forms_under_one_name(onnx: Artifact) -> None:
    assert _made(onnx, "jetson-agx-orin") == [
        ("fp32", "fp32", "fp32.onnx", 17),
        ("fp16-opset17", "fp16", "fp32.onnx", 17),
        ("fp16", "fp16", "fp16.onnx", 20),
        ("int8-linear-opset17", "int8", "int8-linear.onnx", 17),
        ("int8-linear", "int8", "int8-linear-fp16.onnx", 20),
        ("int8-attention-opset17", "int8", "int8-attention.onnx", 17),
        ("int8-attention", "int8", "int8-attention-fp16.onnx", 20),
    ]


@pytest.mark.parametrize("target", ["jetson-thor", "rtx"])
def test_a_strongly_typed_target_gets_the_forms_with_float16_alone(onnx: Artifact, target: str) -> None:
    assert _made(onnx, target) == [
        ("fp32", "fp32", "fp32.onnx", 17),
        ("fp16", "fp16", "fp16.onnx", 20),
        ("int8-linear", "int8", "int8-linear-fp16.onnx", 20),
        ("int8-attention", "int8", "int8-attention-fp16.onnx", 20),
    ]


def test_a_form_that_the_target_never_runs_stays_behind(onnx: Artifact, world: SimpleNamespace) -> None:
    bundle = load_bundle(write_bundle(onnx, world.tmp / "thor", target=TARGETS.get("jetson-thor")).path)
    models = {name for name in bundle.artifact.files if name.endswith(".onnx") and name != "int8-nncf.onnx"}
    assert models == {"fp32.onnx", "fp16.onnx", "int8-linear-fp16.onnx", "int8-attention-fp16.onnx"}
    assert {flavour["file"] for flavour in bundle.artifact.content["flavours"]} == models


def test_int8_that_exists_in_one_form_keeps_its_name(world: SimpleNamespace) -> None:
    names = {target: [c[0] for c in _made(world.onnx(target), target)] for target in ("jetson", "rtx", "x86")}
    assert names["jetson"] == ["fp32", "fp16-opset17", "int8-nncf"]
    assert names["rtx"] == ["fp32", "int8-nncf"]
    assert names["x86"] == ["fp32", "bf16", "int8-nncf", "int8-nncf-bf16"]


def test_a_cpu_takes_the_fp32_forms_and_calls_them_by_their_own_names(onnx: Artifact) -> None:
    assert [c[0] for c in _made(onnx, "x86") if "bf16" not in c[0]] == ["fp32", "int8-linear", "int8-attention"]


def test_nothing_to_run_says_what_the_target_takes(world: SimpleNamespace) -> None:
    def newer(content: dict[str, Any]) -> None:
        content["flavours"] = [{**flavour, "opset": 24} for flavour in content["flavours"]]

    with pytest.raises(ArtifactError, match=r"no flavour for target 'jetson-thor'.*fp32 up to opset 17.*opset 24"):
        make_candidates(world.onnx(change=newer), TARGETS.get("jetson-thor"))


def test_the_manifest_says_that_nobody_checked_on_the_host(onnx: Artifact, world: SimpleNamespace) -> None:
    target = TARGETS.get("jetson-thor")
    content = write_bundle(onnx, world.tmp / "bundle", target=target).content
    assert [row["candidate"] for row in content["host_check"]] == [c.name for c in make_candidates(onnx, target)]
    assert {row["parsed"] for row in content["host_check"]} == {None}
    assert all(row["note"].startswith("not checked on the host: ") for row in content["host_check"])
    assert "host_check" not in write_bundle(onnx, world.tmp / "x86", target=TARGETS.get("x86")).content
