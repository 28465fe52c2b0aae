"""How fast this device multiplies matrices: what the speed of a training step is measured against."""

from __future__ import annotations

import time

import torch

_SIDES = {"cpu": (1024, 2048), "cuda": (4096, 8192, 16384)}
_SECONDS = 2.0


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """The most multiplications and additions per second that a product of two big square matrices reached.

    Args:
        device: Where.
        dtype: Of the factors; float32 as torch multiplies it by default.
    """
    return max(_rate(side, device, dtype) for side in _SIDES[device.type])


def _rate(side: int, device: torch.device, dtype: torch.dtype) -> float:
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = a @ b
    best, until = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < until:
        _wait(device)
        began = time.perf_counter()
        torch.mm(a, b, out=out)
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
