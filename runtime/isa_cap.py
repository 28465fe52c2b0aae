"""Which instruction sets OpenVINO may use on x86: those of the CPU, under the cap of ONEDNN_MAX_CPU_ISA.

OpenVINO's CPU plugin asks oneDNN, which obeys this environment variable. With it one machine can stand in for
an older one. What OpenVINO says of its own abilities ignores the cap, and cannot be relied on.

Source: https://uxlfoundation.github.io/oneDNN/dev_guide_cpu_dispatcher_control.html
"""

from __future__ import annotations

import os
from collections.abc import Iterable

# As oneDNN reads them: its own name first, then that of its predecessor.
VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")

_AVX2 = frozenset({"avx2"})
_AVX2_VNNI = _AVX2 | {"avx_vnni"}
_AVX512 = _AVX2 | {"avx512f"}
_AVX512_VNNI = _AVX512 | {"avx512_vnni"}
_AVX512_BF16 = _AVX512_VNNI | {"avx512_bf16"}
_AVX10 = _AVX512_BF16 | {"avx_vnni"}
_AMX = _AVX10 | {"amx_bf16", "amx_int8"}
# What stays of the x86 flags that edgemim knows. Any other value, such as ALL, is no cap.
_CAPS: dict[str, frozenset[str]] = {
    "SSE41": frozenset(),
    "AVX": frozenset(),
    "AVX2": _AVX2,
    "AVX2_VNNI": _AVX2_VNNI,
    "AVX2_VNNI_2": _AVX2_VNNI,
    "AVX512_CORE": _AVX512,
    "AVX512_CORE_VNNI": _AVX512_VNNI,
    "AVX512_CORE_BF16": _AVX512_BF16,
    "AVX512_CORE_FP16": _AVX10,
    "AVX10_1_512": _AVX10,
    "AVX10_2": _AVX10,
    "AVX10_2_512": _AVX10,
    "AVX512_CORE_AMX": _AMX,
    "AVX512_CORE_AMX_FP16": _AMX,
    "AVX10_1_512_AMX": _AMX,
    "AVX10_1_512_AMX_FP16": _AMX,
}
_LEVELS = (
    ("amx", "amx_int8"),
    ("avx512-vnni", "avx512_vnni"),
    ("avx2-vnni", "avx_vnni"),
    ("avx512", "avx512f"),
    ("avx2", "avx2"),
)


def read_cap() -> str | None:
    """The cap that the environment sets, in capitals; None if there is none, or oneDNN would ignore it."""
    value = next((os.environ[name] for name in VARIABLES if os.environ.get(name)), "").upper()
    return value if value in _CAPS else None


def under_cap(isa: Iterable[str], cap: str | None) -> tuple[str, ...]:
    """The flags that are left under a cap that `read_cap` gave; Arm's are not touched by it."""
    known = frozenset[str]().union(*_CAPS.values())
    return tuple(flag for flag in isa if cap is None or flag in _CAPS[cap] or flag not in known)


def isa_level(isa: Iterable[str]) -> str | None:
    """The best level of INT8 that the flags allow on x86, in one word; None below AVX2 or off x86."""
    flags = set(isa)
    return next((level for level, flag in _LEVELS if flag in flags), None)
