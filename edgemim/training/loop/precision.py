"""Which arithmetic a run uses."""

from __future__ import annotations

from pathlib import Path

import torch


def lightning_precision(wanted: str) -> str:
    """Lightning's name for `fp32`, `bf16`, or the `fastest` of them on this machine."""
    if wanted == "fastest":
        wanted = "bf16" if multiplies_bf16() else "fp32"
    return {"fp32": "32-true", "bf16": "bf16-mixed"}[wanted]


def multiplies_bf16() -> bool:
    """Whether this machine has bf16 multiply instructions; without them bf16 is slower than fp32."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.exists() else ""
    return any(flag in flags for flag in ("amx_bf16", "avx512_bf16"))
