"""`edgemim.runtime.targets.arm64`: what a bundle for an Arm board holds, and what runs there."""

from __future__ import annotations

import platform
from dataclasses import replace
from types import SimpleNamespace

import pytest

from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.backends.onnxruntime import OnnxRuntimeBackend, int8_settings
from edgemim.runtime.bundle import load_bundle
from edgemim.runtime.device import describe_device
from edgemim.runtime.plan import make_plan
from edgemim.runtime.targets import TARGETS

ARM64 = TARGETS.get("arm64")


def test_it_runs_through_backends_that_exist_and_ships_nothing_compiled() -> None:
    assert set(ARM64.backends) <= set(BACKENDS.names())
    assert not ARM64.builds_on_device


def test_it_is_given_the_one_flavour_that_every_onnxruntime_reads() -> None:
    assert ARM64.flavours == ("fp32",)
    assert ARM64.takes(precision="int8", opset=17)
    assert not ARM64.takes(precision="fp16", opset=20)


def test_a_softmax_is_int8_as_the_values_that_it_weighs() -> None:
    # With uint8 on one side only, onnxruntime computes that product in float on Arm.
    assert ARM64.activation_dtypes == ("int8",)


@pytest.mark.skipif(platform.machine() not in ("aarch64", "arm64"), reason="this machine is not 64-bit Arm")
def test_this_machine_is_one_that_it_names() -> None:
    assert platform.machine() in ARM64.machines


@pytest.mark.parametrize("isa", [("asimd",), ("asimd", "asimddp"), ("asimd", "asimddp", "i8mm", "bf16")])
def test_no_arm_core_is_given_the_settings_of_saturating_x86_products(isa: tuple[str, ...]) -> None:
    settings = int8_settings(isa)
    assert "session.x64quantprecision" not in settings
    assert settings == {"optimization.disable_specified_optimizers": "MatMulAddFusion"}


def test_a_bundle_holds_fp32_and_int8_and_no_bf16(world: SimpleNamespace) -> None:
    bundle = load_bundle(world.bundle(target="arm64"))
    assert [candidate.name for candidate in bundle.candidates] == ["fp32", "int8-nncf"]


def test_a_check_times_both_on_onnxruntime(world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxRuntimeBackend, "available", lambda self: None)
    board = replace(describe_device(), machine="aarch64", isa=("asimd", "asimddp"), isa_cap=None)
    plan = make_plan(load_bundle(world.bundle(target="arm64")), None, None, board)
    pairs = [(pair.candidate.name, pair.backend.name, pair.timed) for pair in plan.pairs]
    assert pairs == [("fp32", "onnxruntime", True), ("int8-nncf", "onnxruntime", True)]
    assert plan.skipped == {}
