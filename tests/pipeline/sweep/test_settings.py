"""What a sweep may be asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgemim.errors import ConfigError
from edgemim.pipeline.sweep.settings import SweepSettings, lacking, precision_names
from edgemim.runtime.device import describe_device
from edgemim.runtime.targets import TARGETS


def ask(**values: Any) -> SweepSettings:
    return SweepSettings(**{"target": "x86", "backbones": ("test_vit",), **values})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"target": "x87"}, "unknown target 'x87'; did you mean 'x86'?"),
        ({"backbones": ()}, "nothing to sweep; give checkpoint folders, or timm names with --backbone"),
        ({"precisions": ("int9",)}, "target 'x86' has no precision 'int9'; did you mean 'int8'?"),
        ({"precisions": ("fp16",)}, "target 'x86' has no precision 'fp16'; did you mean"),
        ({"precisions": ("int8-linaer",)}, "did you mean 'int8-linear'?"),
        ({"sizes": (0,)}, "at least 1 pixel; got 0"),
        ({"max_ms": 0.0}, "--max-ms must be above 0; got 0"),
        ({"minutes": float("nan")}, "--minutes must be above 0; got nan"),
        ({"threads": 0}, "threads must be at least 1; got 0"),
        ({"mode": "quik"}, "unknown mode 'quik'; did you mean 'quick'?"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as error:
        ask(**values)
    assert words in str(error.value)


def test_a_target_has_the_precisions_of_its_flavours_and_variants() -> None:
    names = precision_names(TARGETS.get("x86"))
    assert names[:3] == ("fp32", "bf16", "int8")
    assert {"int8-linear", "int8-attention", "int8-conv", "int8-linear-bf16"} <= set(names)
    assert precision_names(TARGETS.get("jetson-thor"))[:3] == ("fp32", "fp16", "int8")


@pytest.mark.parametrize(
    ("precisions", "int8", "float_"),
    [((), True, True), (("fp32",), False, True), (("int8-linear",), True, False), (("int8", "bf16"), True, True)],
)
def test_what_is_exported_follows_from_the_precisions(precisions: tuple[str, ...], int8: bool, float_: bool) -> None:
    asked = ask(precisions=precisions)
    assert (asked.wants_int8, asked.wants_float) == (int8, float_)


def test_what_the_device_lacks_is_known_before_anything_is_exported() -> None:
    old = replace(describe_device(), isa=("avx2",), isa_cap=None)
    asked = ask(precisions=("fp32", "bf16", "int8", "int8-linear-bf16"))
    assert set(lacking(asked, old)) == {"bf16", "int8-linear-bf16"}
    assert "no bf16 instructions" in lacking(asked, old)["bf16"]
    assert lacking(asked, replace(old, isa=("amx_bf16",))) == {}


def test_noise_is_told_from_images() -> None:
    assert ask(data="random:8").is_noise
    assert not ask(data="digits").is_noise
    assert not ask().is_noise
