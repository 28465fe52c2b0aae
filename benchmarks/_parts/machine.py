"""What a result was measured on: device, versions, commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from edgemim.runtime.device import describe_device

_PACKAGES = ("torch", "torchvision", "timm", "lightning", "numpy", "scipy", "scikit-learn")
_HERE = Path(__file__).parent


def describe_machine() -> dict[str, Any]:
    """`device`, `versions` and `commit` of a result."""
    device = describe_device()
    return {
        "device": {
            "cpu": device.cpu,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "cores": device.cores,
            "isa": list(device.isa or ()),
            "virtual": device.virtual,
            "memory_mib": device.memory_mib,
            "clocks": device.governor or "floating",
            "load_average_1min": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in _PACKAGES}},
        "commit": commit(),
    }


def commit() -> str | None:
    """Hash of the checkout's commit, with `+changes` where files differ from it; None outside a checkout.

    Results do not count: a script that writes one after each of its rows would call all but the first changed.
    """
    head = _git("rev-parse", "HEAD")
    if head is None:
        return None
    sources = (":/", ":(top,exclude)benchmarks/results")
    return f"{head}+changes" if _git("status", "--porcelain", "--untracked-files=no", "--", *sources) else head


def command(script: str) -> str:
    """How this script was called, for its result; of a folder on this machine only the last name stays."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["python", f"benchmarks/{script}", *words])


def usable_cores() -> int:
    """Cores that this process may use."""
    return describe_device().default_threads


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=_HERE, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
