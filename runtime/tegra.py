"""What a Jetson says of itself in files: release, chip, power mode, clocks of its GPU. No vendor tool, no root.

Source: NVIDIA Jetson Linux Developer Guide, "Platform Power and Performance", for nvpmodel and the GPU's devfreq;
https://developer.nvidia.com/cuda-gpus for compute capabilities
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# The GPU of each chip, by the name that the device tree gives the chip.
_GPUS = {
    "tegra210": "NVIDIA Tegra X1 GPU (compute capability 5.3)",
    "tegra186": "NVIDIA Tegra X2 GPU (compute capability 6.2)",
    "tegra194": "NVIDIA Xavier GPU (compute capability 7.2)",
    "tegra234": "NVIDIA Orin GPU (compute capability 8.7)",
    "tegra264": "NVIDIA Thor GPU (compute capability 11.0)",
}
# Names of the GPU's folder in devfreq: Orin and older, then Thor, which has several of which this one computes.
_GPU_CLOCKS = ("*.gpu", "*.ga10b", "*.gv11b", "*.gp10b", "*.gm20b", "gpu-gpc-*")
_HZ_PER_MHZ = 1e6


@dataclass(frozen=True, kw_only=True)
class PowerModes:
    """Modes that nvpmodel knows.

    Attributes:
        now: Number of the mode that is set; None if it cannot be read.
        names: By number.
    """

    now: int | None
    names: dict[int, str]

    @property
    def name(self) -> str | None:
        """Of the mode that is set, such as `MAXN_SUPER`; its number as text where the name is not known."""
        return None if self.now is None else self.names.get(self.now, str(self.now))

    @property
    def largest(self) -> int | None:
        """Number of the mode without a limit, or else of that with the most watts; numbers are in no such order."""
        return max(self.names, key=lambda number: _limit(self.names[number]), default=None)


@dataclass(frozen=True, kw_only=True)
class GpuClock:
    """The GPU's clock in MHz: now, and the bounds it floats between; both are equal once jetson_clocks was run."""

    now: float
    low: float
    high: float


def read_l4t(root: Path) -> str | None:
    """Release of Linux for Tegra, such as `36.4.3`, from `# R36 (release), REVISION: 4.3, GCID: ...`."""
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    return f"{match[1]}.{match[2]}" if match else None


def read_chip(root: Path) -> str | None:
    """Name of the chip in the device tree, such as `tegra234`; None if it is not NVIDIA's."""
    # Strings that each end in a zero byte, the most exact first: board, module, chip.
    names = _text(root / "proc/device-tree/compatible").split("\0")
    return next((name[7:] for name in names if re.fullmatch(r"nvidia,tegra\d+", name)), None)


def read_gpu(root: Path) -> str | None:
    """Name of the first NVIDIA GPU, on the chip or on a card; None if no file tells of one."""
    chip = read_chip(root)
    if chip is not None:
        return _GPUS.get(chip)
    for file in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        match = re.search(r"^Model:\s*(.+)$", _text(file), re.MULTILINE)
        if match:
            return match[1].strip()
    return None


def read_power_modes(root: Path) -> PowerModes | None:
    """The modes of this board; None where there is no nvpmodel."""
    modes = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>", _text(root / "etc/nvpmodel.conf"))
    # As nvpmodel leaves it: "pmode:0002", on some releases with "fmode:quiet" after it.
    status = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status"))
    if not modes and status is None:
        return None
    return PowerModes(now=int(status[1]) if status else None, names={int(number): name for number, name in modes})


def find_gpu_clock(root: Path) -> Path | None:
    """The folder in which the GPU on the chip tells its clock; None if there is none."""
    return next((folder for folder, _ in _gpu_clocks(root)), None)


def read_gpu_clock(root: Path) -> GpuClock | None:
    """The clock of the GPU on the chip; None if it cannot be read."""
    return next((clock for _, clock in _gpu_clocks(root)), None)


def _gpu_clocks(root: Path) -> Iterator[tuple[Path, GpuClock]]:
    for pattern in _GPU_CLOCKS:
        for folder in sorted((root / "sys/class/devfreq").glob(pattern)):
            texts = [_text(folder / name) for name in ("cur_freq", "min_freq", "max_freq")]
            if all(text.isdigit() for text in texts):
                now, low, high = (int(text) / _HZ_PER_MHZ for text in texts)
                yield folder, GpuClock(now=now, low=low, high=high)


def _limit(name: str) -> float:
    """Watts that a mode's name states; a mode called MAXN has no limit."""
    match = re.search(r"(\d+)W", name)
    if name.startswith("MAXN"):
        return float("inf")
    return float(match[1]) if match else 0.0


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""
