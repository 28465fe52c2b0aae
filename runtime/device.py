"""What this machine is, for the report: read from /proc, /sys and /etc, never asked of a vendor tool.

Everything that cannot be read is None; nothing here needs root, and nothing identifies the owner.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from edgemim.runtime.isa_cap import isa_level, read_cap, under_cap
from edgemim.runtime.tegra import read_chip, read_gpu, read_gpu_clock, read_l4t, read_power_modes
from edgemim.runtime.temperatures import read_temperatures

# x86 as /proc/cpuinfo spells them, then Arm.
ISA_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
)
INT8_FLAGS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
# What a candidate may need, any one flag of each, and how it is called.
FEATURES = {"bf16": ("AMX or AVX-512 BF16", ("amx_bf16", "avx512_bf16"))}
PACKAGES = (
    "edgemim",
    "numpy",
    "pillow",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu13",
)
_MIB = 1024.0
# Machines whose kernels run each other's programs without emulating them.
_FAMILIES = (("x86_64", "x86", "i386", "i486", "i586", "i686"), ("aarch64", "arm64", "armv8l", "armv7l"))


@dataclass(frozen=True, kw_only=True)
class Device:
    """This machine; None where a fact could not be read.

    Attributes:
        board: Name of the board or computer, as its firmware says.
        chip: NVIDIA's name of a Jetson's chip, such as `tegra234`.
        gpu: Name of the first NVIDIA GPU, on the chip or on a card.
        virtual: True in a virtual machine, whose neighbours disturb a measurement.
        emulated: True if another kind of processor plays this one (qemu-user), whose latencies mean nothing.
        isa: Those of `ISA_FLAGS` that the CPU has.
        isa_cap: Value of ONEDNN_MAX_CPU_ISA (`edgemim.runtime.isa_cap`), where it holds OpenVINO back; else None.
        cores: Physical cores that this process may use.
        threads: Logical CPUs that this process may use.
        cpu_quota: CPUs' worth of time that the container may use; None without a limit.
        governor: Of the CPUs in use; several are joined by commas.
        frequency_mhz, max_frequency_mhz: Of the CPUs in use, the mean now and the largest possible.
        gpu_frequency_mhz, gpu_max_frequency_mhz: Of the GPU on the chip, now and as the power mode allows.
        power_mode: Of a Jetson, such as `MAXN_SUPER` (nvpmodel).
        clocks_locked: Whether the clocks of the CPUs in use, and of the GPU on the chip, have no room to float.
        temperatures_c: Of every thermal zone that can be read, by name.
        memory_mib, memory_available_mib: Of the machine.
        load: Mean number of running processes in the last minute.
        l4t: Release of NVIDIA's Linux for Tegra, such as "36.4.3".
        packages: Version of each of `PACKAGES` that is installed.
    """

    machine: str
    board: str | None
    cpu: str | None
    chip: str | None
    gpu: str | None
    virtual: bool | None
    emulated: bool | None
    isa: tuple[str, ...] | None
    isa_cap: str | None
    cores: int | None
    threads: int
    cpu_quota: float | None
    governor: str | None
    frequency_mhz: float | None
    max_frequency_mhz: float | None
    gpu_frequency_mhz: float | None
    gpu_max_frequency_mhz: float | None
    power_mode: str | None
    clocks_locked: bool | None
    temperatures_c: dict[str, float]
    memory_mib: float | None
    memory_available_mib: float | None
    load: float | None
    system: str
    kernel: str
    python: str
    l4t: str | None
    packages: dict[str, str | None]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the report."""
        return asdict(self) | {"isa": None if self.isa is None else list(self.isa)}

    @property
    def effective_isa(self) -> tuple[str, ...] | None:
        """The flags of `isa` that OpenVINO may use under `isa_cap`; ONNX Runtime uses all, whatever the cap."""
        return None if self.isa is None else under_cap(self.isa, self.isa_cap)

    @property
    def int8_is_fast(self) -> bool | None:
        """Whether INT8 is multiplied in one instruction, under the cap; None if the flags could not be read."""
        return None if self.effective_isa is None else any(flag in self.effective_isa for flag in INT8_FLAGS)

    @property
    def has_bf16(self) -> bool:
        """Whether bf16 is multiplied in hardware, under the cap. Emulated it is tens of times slower than fp32."""
        return self.lacks("bf16") is None

    @property
    def isa_level(self) -> str | None:
        """The best of amx, avx512-vnni, avx2-vnni, avx512, avx2 under the cap; None below them or off x86."""
        return isa_level(self.effective_isa or ())

    def lacks(self, feature: str) -> str | None:
        """Why this device cannot run what needs one of `FEATURES`, or None if it can."""
        what, flags = FEATURES[feature]
        if self.isa is None or self.effective_isa is None:
            return f"the CPU's instruction sets could not be read, {feature} needs {what}"
        if any(flag in self.effective_isa for flag in flags):
            return None
        if any(flag in self.isa for flag in flags):
            return f"ONEDNN_MAX_CPU_ISA={self.isa_cap} keeps OpenVINO from the CPU's {feature} instructions"
        return f"this CPU has no {feature} instructions ({what})"

    @property
    def default_threads(self) -> int:
        """Threads for one inference: the physical cores in reach, within the container's quota."""
        cores = self.cores or self.threads
        return max(1, cores if self.cpu_quota is None else min(cores, math.ceil(self.cpu_quota)))


def describe_device(root: Path = Path("/")) -> Device:
    """Read this machine; `root` is the folder that holds `proc`, `sys` and `etc`."""
    info = _text(root / "proc/cpuinfo") or ""
    memory = _text(root / "proc/meminfo") or ""
    usable = usable_cpus()
    cpus = [root / f"sys/devices/system/cpu/cpu{number}" for number in usable]
    emulated = _emulated(root)
    # The file tells of the processor below the emulation.
    flags = None if emulated else _flags(info)
    gpu_clock, power_modes = read_gpu_clock(root), read_power_modes(root)
    return Device(
        machine=platform.machine(),
        board=_board(root),
        cpu=_field(info, "model name") or _field(info, "Model"),
        chip=read_chip(root),
        gpu=read_gpu(root),
        virtual=None if flags is None else "hypervisor" in flags,
        emulated=emulated,
        isa=None if flags is None else tuple(f for f in ISA_FLAGS if f in flags),
        isa_cap=read_cap(),
        cores=_cores(cpus),
        threads=len(usable),
        cpu_quota=_quota(_text(root / "sys/fs/cgroup/cpu.max")),
        governor=_governor(cpus),
        frequency_mhz=_mhz(cpus, "scaling_cur_freq"),
        max_frequency_mhz=_mhz(cpus, "cpuinfo_max_freq"),
        gpu_frequency_mhz=None if gpu_clock is None else gpu_clock.now,
        gpu_max_frequency_mhz=None if gpu_clock is None else gpu_clock.high,
        power_mode=None if power_modes is None else power_modes.name,
        clocks_locked=_locked(cpus, root),
        temperatures_c=read_temperatures(root),
        memory_mib=_mib(memory, "MemTotal"),
        memory_available_mib=_mib(memory, "MemAvailable"),
        load=_load(_text(root / "proc/loadavg")),
        system=_system(_text(root / "etc/os-release")),
        kernel=platform.release(),
        python=platform.python_version(),
        l4t=read_l4t(root),
        packages={name: _version(name) for name in PACKAGES},
    )


def usable_cpus() -> list[int]:
    """Numbers of the logical CPUs that this process may use, growing."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def cpu_identity(root: Path = Path("/")) -> dict[str, Any]:
    """What a compiled CPU engine depends on: machine, model, instruction sets and the cap on them."""
    info = _text(root / "proc/cpuinfo") or ""
    flags = frozenset() if _emulated(root) else _flags(info) or frozenset()
    return {
        "machine": platform.machine(),
        "cpu": _field(info, "model name") or _field(info, "Model") or "unknown",
        "isa": [f for f in ISA_FLAGS if f in flags],
        "isa_cap": read_cap(),
    }


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return None


def _field(text: str, name: str) -> str | None:
    """Value of the first `name : value` line."""
    match = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else None


def _flags(cpuinfo: str) -> frozenset[str] | None:
    found = _field(cpuinfo, "flags") or _field(cpuinfo, "Features")
    return frozenset(found.split()) if found else None


def _board(root: Path) -> str | None:
    return _text(root / "proc/device-tree/model") or _text(root / "sys/class/dmi/id/product_name")


def _cores(cpus: list[Path]) -> int | None:
    """Distinct cores among logical CPUs, told apart by the siblings that share one."""
    siblings = [_text(cpu / "topology/thread_siblings_list") for cpu in cpus]
    return None if not siblings or None in siblings else len(set(siblings))


def _quota(text: str | None) -> float | None:
    match = re.fullmatch(r"(\d+) (\d+)", text or "")
    return int(match[1]) / int(match[2]) if match and int(match[2]) else None


def _governor(cpus: list[Path]) -> str | None:
    found = {_text(cpu / "cpufreq/scaling_governor") for cpu in cpus} - {None}
    return ", ".join(sorted(map(str, found))) or None


def _mhz(cpus: list[Path], name: str) -> float | None:
    texts = [_text(cpu / "cpufreq" / name) for cpu in cpus]
    values = [int(text) / 1000 for text in texts if text and text.isdigit()]
    if not values:
        return None
    return max(values) if name.endswith("max_freq") else round(sum(values) / len(values), 1)


def _mib(meminfo: str, name: str) -> float | None:
    value = _field(meminfo, name)
    return round(int(value.split()[0]) / _MIB, 1) if value and value.split()[0].isdigit() else None


def _load(text: str | None) -> float | None:
    with contextlib.suppress(ValueError, IndexError):
        return float((text or "").split()[0])
    return None


def _system(os_release: str | None) -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', os_release or "", re.MULTILINE)
    return match[1] if match else platform.system()


def _emulated(root: Path) -> bool | None:
    """Whether the kernel is one for another kind of processor than this process takes itself to run on.

    An emulator answers for the processor, but not for every file of the kernel.
    """
    kernel = _text(root / "proc/sys/kernel/arch")  # since Linux 6.1
    if kernel is None:
        match = re.match(r"cpu:type:(\w+)", _text(root / "sys/devices/system/cpu/modalias") or "")
        kernel = match[1] if match else None
    return None if kernel is None else _family(kernel) != _family(platform.machine())


def _family(machine: str) -> str:
    return next((family[0] for family in _FAMILIES if machine in family), machine)


def _locked(cpus: list[Path], root: Path) -> bool | None:
    bounds = [(_text(c / "cpufreq/scaling_min_freq"), _text(c / "cpufreq/scaling_max_freq")) for c in cpus]
    locked = [low == high for low, high in bounds if low is not None and high is not None]
    gpu = read_gpu_clock(root)
    if gpu is not None:
        locked.append(gpu.low == gpu.high)
    return all(locked) if locked else None


def _version(name: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(name)
    return None
