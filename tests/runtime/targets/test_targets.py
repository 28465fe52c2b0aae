"""Every file in `edgemim.runtime.targets`, against the contract."""

from __future__ import annotations

import platform
from typing import Any

import pytest

from edgemim.errors import ConfigError
from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.targets import TARGETS
from edgemim.runtime.targets._base import PRECISIONS, Target


@pytest.mark.parametrize("name", TARGETS.names())
def test_a_target_bears_its_files_name_and_takes_its_flavours(name: str) -> None:
    target = TARGETS.get(name)
    assert isinstance(target, Target)
    assert target.name == name
    assert "fp32" in target.flavours
    for flavour in target.flavours:
        assert target.takes(precision=flavour, opset=target.opsets[flavour])
        assert not target.takes(precision=flavour, opset=target.opsets[flavour] + 1)
    assert set(target.precisions) <= set(PRECISIONS)
    assert TARGETS.describe(name).summary


JETSONS = ("jetson-agx-orin", "jetson-orin-nano", "jetson-orin-nx", "jetson-thor")


def test_x86_is_given_one_flavour_and_jetson_two() -> None:
    x86, jetson = TARGETS.get("x86"), TARGETS.get("jetson-orin-nano")
    assert x86.flavours == ("fp32",)
    assert jetson.flavours == ("fp32", "fp16")
    # fp32 must parse in TensorRT 8.6; from 10.0 on, which reads opset 20, comes strong typing.
    assert jetson.takes(precision="fp16", opset=20)
    assert jetson.takes(precision="int8", opset=20)
    assert not jetson.takes(precision="fp32", opset=20)
    assert not x86.takes(precision="fp16", opset=17)


def test_x86_runs_through_backends_that_exist() -> None:
    assert set(TARGETS.get("x86").backends) <= set(BACKENDS.names())
    assert not TARGETS.get("x86").builds_on_device


def test_every_jetson_is_a_target_and_the_short_name_is_one_of_them() -> None:
    assert [name for name in TARGETS.names() if name.startswith("jetson")] == list(JETSONS)
    assert TARGETS.get("jetson") is TARGETS.get("Jetson") is TARGETS.get("jetson-orin-nano")
    assert TARGETS.find("jetson") == "jetson-orin-nano"


@pytest.mark.parametrize("name", [*JETSONS, "rtx"])
def test_nvidia_s_take_symmetric_int8_only_and_say_which_gpu_they_are(name: str) -> None:
    target = TARGETS.get(name)
    assert target.is_nvidia
    assert target.backends == ("tensorrt",)
    assert target.activation_dtypes == ("int8",)
    assert target.form == "tensorrt"


@pytest.mark.parametrize("name", JETSONS)
def test_a_jetson_builds_on_the_device(name: str) -> None:
    target = TARGETS.get(name)
    assert target.builds_on_device
    assert not target.builds_ahead
    assert target.machines == ("aarch64",)


def test_orin_may_have_a_tensorrt_that_is_not_strongly_typed_and_thor_may_not() -> None:
    for name in JETSONS:
        target, orin = TARGETS.get(name), "orin" in name
        assert target.weakly_typed == orin
        assert target.compute_capabilities == (("8.7",) if orin else ("11.0",))
        assert [(v.of, v.precision) for v in target.variants] == ([("fp32", "fp16")] if orin else [])


def test_rtx_has_its_engines_built_ahead_and_x86_has_none() -> None:
    rtx, x86 = TARGETS.get("rtx"), TARGETS.get("x86")
    assert rtx.builds_ahead
    assert len(rtx.compute_capabilities) > 1
    assert not x86.is_nvidia
    assert not x86.builds_ahead


@pytest.mark.skipif(platform.machine() != "x86_64", reason="this machine is not x86-64")
def test_this_machine_is_one_that_x86_names() -> None:
    assert platform.machine() in TARGETS.get("x86").machines


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"opsets": {"fp32": 17, "int2": 17}}, "unknown precision"),
        ({"flavours": ("fp32", "fp16")}, "no precision without an opset"),
        ({"flavours": ()}, "must name fp32"),
        ({"backends": ()}, "names no backend"),
    ],
)
def test_a_target_that_says_nonsense_is_refused(changes: dict[str, Any], message: str) -> None:
    plain = {field: getattr(TARGETS.get("x86"), field) for field in Target.__dataclass_fields__}
    with pytest.raises(ConfigError, match=message):
        Target(**{**plain, **changes})
