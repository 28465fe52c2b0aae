"""`edgemim.runtime.plan`: which pairs a check runs, and what it refuses to plan."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import pytest

from edgemim.errors import ConfigError, DeviceError, MissingDependencyError
from edgemim.runtime.backends._base import Backend
from edgemim.runtime.backends.onnxruntime import OnnxRuntimeBackend
from edgemim.runtime.backends.openvino import OpenVinoBackend
from edgemim.runtime.backends.tensorrt import TensorRtBackend
from edgemim.runtime.bundle import load_bundle
from edgemim.runtime.device import Device, describe_device
from edgemim.runtime.plan import make_plan

PLAIN = replace(describe_device(), machine="x86_64", isa=("avx2",), isa_cap=None)
WITH_BF16 = replace(PLAIN, isa=("avx2", "avx512f", "avx512_vnni", "avx512_bf16"))
NO_BF16 = "this CPU has no bf16 instructions (AMX or AVX-512 BF16)"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Say which of the two vendor packages are installed; nothing is imported by planning."""

    def say(*names: str) -> None:
        for backend in (OnnxRuntimeBackend, OpenVinoBackend):
            monkeypatch.setattr(backend, "installed", lambda self, here=backend.name in names: here)

    return say


@pytest.fixture
def no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorRtBackend, "installed", lambda self: False)


def shown(plan) -> list[str]:
    return [f"{p.candidate.name}@{p.backend.name}{'' if p.timed else ' (reference)'}" for p in plan.pairs]


def test_by_default_every_candidate_runs_on_every_installed_backend(world: SimpleNamespace, installed) -> None:
    installed("openvino", "onnxruntime")
    plan = make_plan(load_bundle(world.bundle(evaluation=None)), None, None, PLAIN)
    assert shown(plan) == ["fp32@openvino", "fp32@onnxruntime", "int8-nncf@openvino", "int8-nncf@onnxruntime"]
    assert plan.skipped == {"bf16": NO_BF16, "int8-nncf-bf16": NO_BF16}


def test_bf16_runs_on_openvino_alone_and_where_the_cpu_has_it(world: SimpleNamespace, installed) -> None:
    installed("openvino", "onnxruntime")
    plan = make_plan(load_bundle(world.bundle(evaluation=None)), None, None, WITH_BF16)
    assert shown(plan) == [
        "fp32@openvino",
        "fp32@onnxruntime",
        "bf16@openvino",
        "int8-nncf@openvino",
        "int8-nncf@onnxruntime",
        "int8-nncf-bf16@openvino",
    ]
    assert plan.skipped == {}


def test_a_cap_on_the_instructions_takes_bf16_away(world: SimpleNamespace, installed) -> None:
    installed("openvino")
    capped = replace(WITH_BF16, isa_cap="AVX512_CORE_VNNI")
    plan = make_plan(load_bundle(world.bundle(evaluation=None)), None, None, capped)
    assert shown(plan) == ["fp32@openvino", "int8-nncf@openvino"]
    assert "ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI" in plan.skipped["bf16"]


@pytest.mark.parametrize(
    ("cap", "asked", "used"),
    [
        ("AVX512_CORE_VNNI", None, {"openvino"}),
        ("AVX512_CORE_AMX", None, {"openvino", "onnxruntime"}),
        ("AVX512_CORE_VNNI", ["openvino", "onnxruntime"], {"openvino", "onnxruntime"}),
    ],
    ids=["below the CPU", "not below the CPU", "both asked for"],
)
def test_a_backend_that_ignores_the_cap_is_not_compared_with_one_that_obeys_it(
    world: SimpleNamespace, installed, cap: str, asked: list[str] | None, used: set[str]
) -> None:
    installed("openvino", "onnxruntime")
    capped = replace(WITH_BF16, isa_cap=cap)
    plan = make_plan(load_bundle(world.bundle(evaluation=None)), asked, None, capped)
    assert {pair.backend.name for pair in plan.pairs if pair.timed} == used
    assert ("onnxruntime" in plan.skipped) is ("onnxruntime" not in used)
    assert "fp32@onnxruntime" in [name.removesuffix(" (reference)") for name in shown(plan)]


def test_under_a_cap_onnxruntime_alone_is_better_than_nothing(world: SimpleNamespace, installed) -> None:
    installed("onnxruntime")
    plan = make_plan(load_bundle(world.bundle(evaluation=None)), None, None, replace(WITH_BF16, isa_cap="AVX2"))
    assert shown(plan) == ["fp32@onnxruntime", "int8-nncf@onnxruntime"]


def test_a_candidate_of_a_backend_that_is_not_used_is_left_out_with_the_reason(
    world: SimpleNamespace, installed
) -> None:
    installed("openvino", "onnxruntime")
    plan = make_plan(load_bundle(world.bundle(evaluation=None)), ["onnxruntime"], None, WITH_BF16)
    assert shown(plan) == ["fp32@onnxruntime", "int8-nncf@onnxruntime"]
    assert plan.skipped["bf16"] == plan.skipped["int8-nncf-bf16"] == "it runs on openvino alone"


@pytest.mark.parametrize(
    ("device", "backends", "message"),
    [
        (PLAIN, None, "candidate 'bf16' cannot run here: this CPU has no bf16 instructions"),
        (WITH_BF16, ["onnxruntime"], "nothing is left to run on onnxruntime: bf16: it runs on openvino alone"),
    ],
)
def test_a_candidate_that_was_asked_for_and_cannot_run_is_an_error(
    world: SimpleNamespace, installed, device: Device, backends: list[str] | None, message: str
) -> None:
    installed("openvino", "onnxruntime")
    with pytest.raises(ConfigError, match=message):
        make_plan(load_bundle(world.bundle(evaluation=None)), backends, ["bf16"], device)


def test_fp32_stays_the_reference_of_bf16(world: SimpleNamespace, installed) -> None:
    installed("openvino", "onnxruntime")
    plan = make_plan(load_bundle(world.bundle(evaluation=None)), ["openvino"], ["bf16"], WITH_BF16)
    assert shown(plan) == ["bf16@openvino", "fp32@onnxruntime (reference)"]


def test_a_backend_that_is_not_installed_is_left_out_with_the_reason(world: SimpleNamespace, installed) -> None:
    installed("openvino")
    plan = make_plan(load_bundle(world.bundle(evaluation=None)), None, None, PLAIN)
    assert shown(plan) == ["fp32@openvino", "int8-nncf@openvino"]
    assert plan.skipped["onnxruntime"].startswith("the package 'onnxruntime' is not installed; run: pip install")


def test_fp32_on_onnxruntime_joins_as_the_reference_when_it_was_not_asked_for(
    world: SimpleNamespace, installed
) -> None:
    installed("openvino", "onnxruntime")
    bundle = load_bundle(world.bundle(evaluation=None))
    assert shown(make_plan(bundle, ["openvino"], None, PLAIN))[-1] == "fp32@onnxruntime (reference)"
    assert shown(make_plan(bundle, ["onnxruntime"], ["int8-nncf"], PLAIN)) == [
        "int8-nncf@onnxruntime",
        "fp32@onnxruntime (reference)",
    ]


def test_without_onnxruntime_fp32_joins_on_the_first_backend(world: SimpleNamespace, installed) -> None:
    installed("openvino")
    plan = make_plan(load_bundle(world.bundle(evaluation=None)), None, ["int8-nncf"], PLAIN)
    assert shown(plan) == ["int8-nncf@openvino", "fp32@openvino (reference)"]


def test_a_named_backend_that_is_not_installed_names_the_extra(world: SimpleNamespace, installed) -> None:
    installed("onnxruntime")
    bundle = load_bundle(world.bundle(evaluation=None))
    with pytest.raises(MissingDependencyError, match=r"backend 'openvino' .*pip install 'edgemim\[openvino\]'"):
        make_plan(bundle, ["openvino"], None, PLAIN)


def test_a_target_without_any_installed_backend_names_an_extra(world: SimpleNamespace, installed) -> None:
    installed()
    with pytest.raises(MissingDependencyError, match=r"target 'x86' .*edgemim\[openvino\]"):
        make_plan(load_bundle(world.bundle(evaluation=None)), None, None, PLAIN)


@pytest.mark.parametrize(
    ("target", "machine", "message"),
    [
        ("jetson-orin-nano", "x86_64", "'jetson-orin-nano', which is aarch64 and has its engines built there"),
        ("x86", "aarch64", "'x86', which is x86_64 or AMD64; this machine is aarch64"),
    ],
)
def test_a_bundle_for_another_kind_of_machine_says_where_to_check_it(
    world: SimpleNamespace, installed, no_tensorrt: None, target: str, machine: str, message: str
) -> None:
    installed()
    bundle = load_bundle(world.bundle(target=target, evaluation=None))
    with pytest.raises(ConfigError, match=message) as caught:
        make_plan(bundle, None, None, replace(PLAIN, machine=machine))
    assert "--device ssh://USER@HOST" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_jetson_without_tensorrt_names_what_installs_it(
    world: SimpleNamespace, no_tensorrt: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(world.bundle(target="jetson", evaluation=None))
    monkeypatch.setattr(TensorRtBackend, "how_to_install", lambda self: "sudo apt install python3-libnvinfer")
    with pytest.raises(MissingDependencyError, match=r"'tensorrt', which is not installed; run: sudo apt install"):
        make_plan(bundle, None, None, replace(PLAIN, machine="aarch64"))


@pytest.mark.parametrize("backends", [None, ["tensorrt"]])
def test_a_jetpack_that_is_too_old_is_named_before_a_missing_package_is_blamed(
    world: SimpleNamespace, no_tensorrt: None, backends: list[str] | None
) -> None:
    bundle = load_bundle(world.bundle(target="jetson", evaluation=None))
    message = r"JetPack 5\.1 \(L4T 35\.6\.0\) is not supported: TensorRT 8\.5 .*flash JetPack 6"
    with pytest.raises(ConfigError, match=message):
        make_plan(bundle, backends, None, replace(PLAIN, machine="aarch64", l4t="35.6.0"))


def test_there_the_files_can_still_be_tried_on_a_backend_that_was_named(world: SimpleNamespace, installed) -> None:
    installed("onnxruntime")
    bundle = load_bundle(world.bundle(target="jetson", evaluation=None))
    assert make_plan(bundle, ["onnxruntime"], ["fp32"], replace(PLAIN, machine="aarch64", l4t="35.6.0")).pairs


def test_a_jetson_whose_gpu_cannot_be_used_is_an_error_of_the_device(
    world: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = load_bundle(world.bundle(target="jetson", evaluation=None))
    monkeypatch.setattr(TensorRtBackend, "installed", lambda self: True)
    monkeypatch.setattr(TensorRtBackend, "available", lambda self: "there is no NVIDIA GPU that this process can use")
    with pytest.raises(DeviceError, match="target 'jetson-orin-nano' cannot be used: there is no NVIDIA GPU"):
        make_plan(bundle, None, None, replace(PLAIN, machine="aarch64"))


class OldBackend(Backend):
    """Reads opset 17 only, and asks for fp32 by another name."""

    name: ClassVar[str] = "old"
    module: ClassVar[str] = "numpy"
    distributions: ClassVar[tuple[str, ...]] = ("numpy",)
    extra: ClassVar[str] = "old"
    processor: ClassVar[str] = "GPU"

    def compile(self, bundle, candidate, cache, threads):
        raise NotImplementedError

    def open(self, engine):
        raise NotImplementedError

    def cannot_run(self, candidate) -> str | None:
        return None if candidate.opset <= 17 else f"it has opset {candidate.opset}, Old 1 reads up to 17"


@pytest.fixture
def newer(world: SimpleNamespace):
    """A bundle with `int8-nncf` in opset 20 and `fp32` in 17."""

    def change(content: dict) -> None:
        content["flavours"][1]["opset"] = 20
        content["flavours"].append({**content["flavours"][1], "name": "int8-older", "opset": 17})

    return load_bundle(world.bundle(target="jetson", change=change, evaluation=None))


def test_a_candidate_that_the_installed_version_cannot_read_is_left_out_and_what_fits_is_named(newer) -> None:
    plan = make_plan(newer, [OldBackend()], None, PLAIN)
    assert [pair.candidate.name for pair in plan.pairs if pair.timed] == ["fp32", "int8-older"]
    assert plan.skipped["int8-nncf"] == (
        "it has opset 20, Old 1 reads up to 17; of the same precision it runs int8-older"
    )


def test_it_is_refused_if_it_was_asked_for(newer) -> None:
    with pytest.raises(ConfigError, match=r"candidate 'int8-nncf' cannot run here: it has opset 20.*int8-older"):
        make_plan(newer, [OldBackend()], ["int8-nncf", "fp32"], PLAIN)


def test_a_jetson_bundle_runs_on_a_backend_that_was_named(world: SimpleNamespace, installed) -> None:
    installed("onnxruntime")
    plan = make_plan(load_bundle(world.bundle(target="jetson", evaluation=None)), ["onnxruntime"], None, PLAIN)
    assert shown(plan) == ["fp32@onnxruntime", "int8-nncf@onnxruntime"]


def test_a_backend_named_twice_runs_once(world: SimpleNamespace, installed) -> None:
    installed("onnxruntime")
    plan = make_plan(
        load_bundle(world.bundle(evaluation=None)), ["onnxruntime", "ONNXRuntime"], ["fp32", "fp32"], PLAIN
    )
    assert shown(plan) == ["fp32@onnxruntime"]


@pytest.mark.parametrize(
    ("backends", "candidates", "message"),
    [
        (["openvin"], None, "unknown backend 'openvin'; did you mean 'openvino'"),
        (None, ["int8"], "no candidate 'int8'; did you mean 'int8-nncf'"),
        ([], None, "no backend was asked for"),
        (None, [], "no candidate was asked for"),
    ],
)
def test_unknown_names_are_refused(world: SimpleNamespace, backends, candidates, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(load_bundle(world.bundle(evaluation=None)), backends, candidates, PLAIN)
