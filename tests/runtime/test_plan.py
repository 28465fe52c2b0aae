"""`edgemim.runtime.plan`: which pairs a check runs, and what it refuses to plan."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from edgemim.errors import ConfigError, MissingDependencyError
from edgemim.runtime.backends.onnxruntime import OnnxRuntimeBackend
from edgemim.runtime.backends.openvino import OpenVinoBackend
from edgemim.runtime.bundle import load_bundle
from edgemim.runtime.plan import make_plan


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Say which of the two vendor packages are installed; nothing is imported by planning."""

    def say(*names: str) -> None:
        for backend in (OnnxRuntimeBackend, OpenVinoBackend):
            reason = None if backend.name in names else f"{backend.name} is not installed"
            monkeypatch.setattr(backend, "available", lambda self, reason=reason: reason)

    return say


def shown(plan) -> list[str]:
    return [f"{p.candidate.name}@{p.backend.name}{'' if p.timed else ' (reference)'}" for p in plan.pairs]


def test_by_default_every_candidate_runs_on_every_installed_backend(world: SimpleNamespace, installed) -> None:
    installed("openvino", "onnxruntime")
    plan = make_plan(load_bundle(world.bundle(evaluation=None)), None, None)
    assert shown(plan) == ["fp32@openvino", "fp32@onnxruntime", "int8-nncf@openvino", "int8-nncf@onnxruntime"]
    assert plan.skipped == {}


def test_a_backend_that_is_not_installed_is_left_out_with_the_reason(world: SimpleNamespace, installed) -> None:
    installed("openvino")
    plan = make_plan(load_bundle(world.bundle(evaluation=None)), None, None)
    assert shown(plan) == ["fp32@openvino", "int8-nncf@openvino"]
    assert plan.skipped == {"onnxruntime": "onnxruntime is not installed"}


def test_fp32_on_onnxruntime_joins_as_the_reference_when_it_was_not_asked_for(
    world: SimpleNamespace, installed
) -> None:
    installed("openvino", "onnxruntime")
    bundle = load_bundle(world.bundle(evaluation=None))
    assert shown(make_plan(bundle, ["openvino"], None))[-1] == "fp32@onnxruntime (reference)"
    assert shown(make_plan(bundle, ["onnxruntime"], ["int8-nncf"])) == [
        "int8-nncf@onnxruntime",
        "fp32@onnxruntime (reference)",
    ]


def test_without_onnxruntime_fp32_joins_on_the_first_backend(world: SimpleNamespace, installed) -> None:
    installed("openvino")
    plan = make_plan(load_bundle(world.bundle(evaluation=None)), None, ["int8-nncf"])
    assert shown(plan) == ["int8-nncf@openvino", "fp32@openvino (reference)"]


def test_a_named_backend_that_is_not_installed_names_the_extra(world: SimpleNamespace, installed) -> None:
    installed("onnxruntime")
    bundle = load_bundle(world.bundle(evaluation=None))
    with pytest.raises(MissingDependencyError, match=r"backend 'openvino' .*pip install 'edgemim\[openvino\]'"):
        make_plan(bundle, ["openvino"], None)


def test_a_target_without_any_installed_backend_names_an_extra(world: SimpleNamespace, installed) -> None:
    installed()
    with pytest.raises(MissingDependencyError, match=r"target 'x86' .*edgemim\[openvino\]"):
        make_plan(load_bundle(world.bundle(evaluation=None)), None, None)


def test_a_jetson_bundle_says_that_its_engines_are_built_on_the_device(world: SimpleNamespace) -> None:
    bundle = load_bundle(world.bundle(target="jetson", evaluation=None))
    with pytest.raises(ConfigError, match="tensorrt: its engines are built on the device itself") as caught:
        make_plan(bundle, None, None)
    assert "no such backend yet" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_jetson_bundle_runs_on_a_backend_that_was_named(world: SimpleNamespace, installed) -> None:
    installed("onnxruntime")
    plan = make_plan(load_bundle(world.bundle(target="jetson", evaluation=None)), ["onnxruntime"], None)
    assert shown(plan) == ["fp32@onnxruntime", "int8-nncf@onnxruntime"]


def test_a_backend_named_twice_runs_once(world: SimpleNamespace, installed) -> None:
    installed("onnxruntime")
    plan = make_plan(load_bundle(world.bundle(evaluation=None)), ["onnxruntime", "ONNXRuntime"], ["fp32", "fp32"])
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
        make_plan(load_bundle(world.bundle(evaluation=None)), backends, candidates)
