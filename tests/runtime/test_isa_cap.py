"""`edgemim.runtime.isa_cap`: what ONEDNN_MAX_CPU_ISA leaves of a CPU's instruction sets."""

from __future__ import annotations

import pytest

from edgemim.runtime.isa_cap import VARIABLES, isa_level, read_cap, under_cap

SAPPHIRE_RAPIDS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


@pytest.fixture(autouse=True)
def no_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


# Sets that hold one another, as listed in oneDNN's developer guide, "CPU Dispatcher Control".
@pytest.mark.parametrize(
    ("cap", "left", "level"),
    [
        (None, SAPPHIRE_RAPIDS, "amx"),
        ("AVX512_CORE_AMX", SAPPHIRE_RAPIDS, "amx"),
        ("AVX512_CORE_FP16", SAPPHIRE_RAPIDS[:5], "avx512-vnni"),
        ("AVX512_CORE_BF16", ("avx2", "avx512f", "avx512_vnni", "avx512_bf16"), "avx512-vnni"),
        ("AVX512_CORE_VNNI", ("avx2", "avx512f", "avx512_vnni"), "avx512-vnni"),
        ("AVX512_CORE", ("avx2", "avx512f"), "avx512"),
        ("AVX2_VNNI_2", ("avx2", "avx_vnni"), "avx2-vnni"),
        ("AVX2_VNNI", ("avx2", "avx_vnni"), "avx2-vnni"),
        ("AVX2", ("avx2",), "avx2"),
        ("AVX", (), None),
        ("SSE41", (), None),
    ],
)
def test_a_cap_leaves_its_own_level_and_those_below(cap: str | None, left: tuple[str, ...], level: str | None) -> None:
    assert under_cap(SAPPHIRE_RAPIDS, cap) == left
    assert isa_level(left) == level


def test_a_cap_gives_a_cpu_nothing_that_it_lacks() -> None:
    assert under_cap(("avx2",), "AVX512_CORE_AMX") == ("avx2",)


def test_arm_has_no_cap_and_no_level() -> None:
    arm = ("asimd", "asimddp", "i8mm", "bf16")
    assert under_cap(arm, "AVX2") == arm
    assert isa_level(arm) is None


@pytest.mark.parametrize(
    ("environment", "cap"),
    [
        ({}, None),
        ({"ONEDNN_MAX_CPU_ISA": ""}, None),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "AVX2"),
        ({"ONEDNN_MAX_CPU_ISA": "avx2_vnni"}, "AVX2_VNNI"),
        ({"DNNL_MAX_CPU_ISA": "AVX512_CORE"}, "AVX512_CORE"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX"}, "AVX2"),
        ({"ONEDNN_MAX_CPU_ISA": "ALL", "DNNL_MAX_CPU_ISA": "AVX"}, None),
        ({"ONEDNN_MAX_CPU_ISA": "AVX3"}, None),
    ],
)
def test_the_cap_is_read_as_onednn_reads_it(
    environment: dict[str, str], cap: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert read_cap() == cap
