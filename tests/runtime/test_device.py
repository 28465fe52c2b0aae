"""`edgemim.runtime.device`: files of known machines in, facts out; nothing readable gives None."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgemim.runtime.device import cpu_identity, describe_device
from edgemim.runtime.isa_cap import VARIABLES

XEON = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8481C
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni amx_bf16 amx_int8 hypervisor
"""
ORIN = """processor\t: 0
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm asimddp asimdhp
CPU implementer\t: 0x41
"""
TEGRA = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture(autouse=True)
def no_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)


@pytest.mark.usefixtures("four_cpus")
def test_a_server_with_hyperthreads(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu/cpu{}"
    files = {"proc/cpuinfo": XEON, "proc/meminfo": "MemTotal: 2048000 kB\nMemAvailable: 1024000 kB\n"}
    for number, siblings, mhz in [(0, "0,2", 2000), (1, "1,3", 3000), (2, "0,2", 2000), (3, "1,3", 3000)]:
        files[f"{cpu.format(number)}/topology/thread_siblings_list"] = f"{siblings}\n"
        files[f"{cpu.format(number)}/cpufreq/scaling_governor"] = "powersave\n"
        files[f"{cpu.format(number)}/cpufreq/scaling_cur_freq"] = f"{mhz * 1000}\n"
        files[f"{cpu.format(number)}/cpufreq/cpuinfo_max_freq"] = "3500000\n"
    files["etc/os-release"] = 'NAME="x"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'
    files["proc/loadavg"] = "0.52 0.40 0.30 1/200 4242\n"
    device = describe_device(write(tmp_path, files))
    assert device.cpu == "Intel(R) Xeon(R) Platinum 8481C"
    assert device.isa == ("avx2", "avx512f", "avx512_vnni", "amx_bf16", "amx_int8")
    assert (device.virtual, device.int8_is_fast) == (True, True)
    assert (device.cores, device.threads, device.default_threads) == (2, 4, 2)
    assert (device.governor, device.frequency_mhz, device.max_frequency_mhz) == ("powersave", 2500.0, 3500.0)
    assert (device.memory_mib, device.memory_available_mib, device.load) == (2000.0, 1000.0, 0.52)
    assert device.system == "Debian GNU/Linux 12 (bookworm)"
    assert (device.l4t, device.chip, device.gpu, device.power_mode) == (None,) * 4


@pytest.mark.usefixtures("four_cpus")
def test_a_jetson(tmp_path: Path) -> None:
    board = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0"
    files = {"proc/cpuinfo": ORIN, "proc/device-tree/model": board, "etc/nv_tegra_release": TEGRA}
    device = describe_device(write(tmp_path, files))
    assert device.board == board[:-1]
    assert device.l4t == "36.4.3"
    assert device.isa == ("asimd", "asimddp")
    assert (device.cpu, device.virtual, device.int8_is_fast) == (None, False, True)


@pytest.mark.usefixtures("four_cpus")
def test_a_jetson_tells_chip_mode_clocks_and_temperatures(tmp_path: Path) -> None:
    gpu = "sys/devices/platform/bus@0/17000000.gpu/devfreq/17000000.gpu"
    files = {
        "proc/cpuinfo": ORIN,
        "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
        "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
        "var/lib/nvpmodel/status": "pmode:0002",
        f"{gpu}/cur_freq": "1020000000\n",
        f"{gpu}/min_freq": "306000000\n",
        f"{gpu}/max_freq": "1020000000\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "48593\n",
        "sys/class/thermal/thermal_zone1/type": "cv0-thermal\n",  # asleep: its temperature cannot be read
        "sys/class/thermal/thermal_zone2/type": "tj-thermal\n",
        "sys/class/thermal/thermal_zone2/temp": "-250\n",
    }
    root = write(tmp_path, files)
    (root / "sys/class/devfreq").mkdir()
    (root / "sys/class/devfreq/17000000.gpu").symlink_to(root / gpu)
    device = describe_device(root)
    assert (device.chip, device.gpu) == ("tegra234", "NVIDIA Orin GPU (compute capability 8.7)")
    assert device.power_mode == "MAXN_SUPER"
    assert (device.gpu_frequency_mhz, device.gpu_max_frequency_mhz, device.clocks_locked) == (1020, 1020, False)
    assert device.temperatures_c == {"cpu-thermal": 48.593, "tj-thermal": -0.25}


def test_two_thermal_zones_of_one_name_are_told_apart(tmp_path: Path) -> None:
    zone = "sys/class/thermal/thermal_zone{}/{}"
    files = {zone.format(n, "type"): name for n, name in enumerate(("acpitz", "x86_pkg_temp", "acpitz"))}
    files |= {zone.format(n, "temp"): f"{40 + n}000" for n in range(3)}
    assert describe_device(write(tmp_path, files)).temperatures_c == {"acpitz": 40, "x86_pkg_temp": 41, "acpitz 2": 42}


@pytest.mark.parametrize(("low", "gpu_low", "locked"), [(1510, 1020, True), (729, 1020, False), (1510, 306, False)])
@pytest.mark.usefixtures("four_cpus")
def test_clocks_are_locked_when_neither_cpu_nor_gpu_can_float(
    tmp_path: Path, low: int, gpu_low: int, locked: bool
) -> None:
    cpu, gpu = "sys/devices/system/cpu/cpu{}/cpufreq", "sys/class/devfreq/17000000.ga10b"
    files = {f"{cpu.format(n)}/scaling_min_freq": f"{low}000" for n in range(4)}
    files |= {f"{cpu.format(n)}/scaling_max_freq": "1510000" for n in range(4)}
    files |= {f"{gpu}/cur_freq": "1020000000", f"{gpu}/min_freq": f"{gpu_low}000000", f"{gpu}/max_freq": "1020000000"}
    assert describe_device(write(tmp_path, files)).clocks_locked is locked


@pytest.mark.parametrize(
    ("kernel", "machine", "emulated"),
    [
        ("x86_64", "aarch64", True),
        ("aarch64", "aarch64", False),
        ("x86_64", "x86_64", False),
        ("x86_64", "i686", False),
        ("aarch64", "x86_64", True),
        (None, "aarch64", None),
    ],
)
def test_a_processor_that_another_one_plays_is_known_by_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: str | None, machine: str, emulated: bool | None
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    files = {"proc/cpuinfo": XEON} | ({} if kernel is None else {"proc/sys/kernel/arch": kernel})
    device = describe_device(write(tmp_path, files))
    assert device.emulated is emulated
    # The flags are those of the processor below, which the emulation does not have.
    assert (device.isa is None) == (emulated is True)
    assert (cpu_identity(tmp_path)["isa"] == []) == (emulated is True)


def test_an_old_kernel_tells_its_processor_through_the_modalias(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    file = "sys/devices/system/cpu/modalias"
    assert describe_device(write(tmp_path, {file: "cpu:type:x86,ven0002fam0019mod0001:feature:,0000"})).emulated is True
    assert describe_device(write(tmp_path, {file: "cpu:type:aarch64:feature:,0000,0001"})).emulated is False


@pytest.mark.parametrize(("limit", "threads"), [("max 100000", 4), ("150000 100000", 2), ("50000 100000", 1), ("", 4)])
@pytest.mark.usefixtures("four_cpus")
def test_a_containers_quota_limits_the_threads(tmp_path: Path, limit: str, threads: int) -> None:
    assert describe_device(write(tmp_path, {"sys/fs/cgroup/cpu.max": limit})).default_threads == threads


def test_nothing_readable_is_none_and_no_error(tmp_path: Path) -> None:
    device = describe_device(tmp_path)
    unknown = (device.board, device.cpu, device.isa, device.cores, device.governor, device.memory_mib, device.load)
    assert unknown == (None,) * 7
    unknown = (
        device.emulated,
        device.clocks_locked,
        device.gpu,
        device.chip,
        device.power_mode,
        device.gpu_frequency_mhz,
    )
    assert unknown == (None,) * 6
    assert device.temperatures_c == {}
    assert device.int8_is_fast is None
    assert device.default_threads == device.threads >= 1
    assert cpu_identity(tmp_path)["cpu"] == "unknown"


def test_a_cpu_without_vnni_is_known_to_be_slow_at_int8(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/cpuinfo": "model name : Old\nflags : avx2 sse2\n"})
    assert describe_device(root).int8_is_fast is False
    assert cpu_identity(root)["isa"] == ["avx2"]


@pytest.mark.parametrize(
    ("cpuinfo", "cap", "reason"),
    [
        (XEON, None, None),
        (XEON, "AVX512_CORE_AMX", None),
        ("flags : avx2 avx512f avx512_vnni avx512_bf16\n", "AVX512_CORE_BF16", None),
        (XEON, "AVX512_CORE_VNNI", "ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI keeps OpenVINO from the CPU's bf16"),
        ("flags : avx2 avx512f avx512_vnni\n", None, "this CPU has no bf16 instructions"),
        (ORIN, None, "this CPU has no bf16 instructions"),
        ("", None, "the CPU's instruction sets could not be read"),
    ],
)
def test_bf16_needs_hardware_that_is_not_capped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str, cap: str | None, reason: str | None
) -> None:
    if cap is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", cap)
    device = describe_device(write(tmp_path, {"proc/cpuinfo": cpuinfo}))
    assert device.has_bf16 is (reason is None)
    assert (device.lacks("bf16") or "").startswith(reason or "")


def test_a_cap_changes_what_the_cpu_counts_as_and_which_engines_it_may_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(tmp_path, {"proc/cpuinfo": XEON})
    plain, engine = describe_device(root), cpu_identity(root)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    capped = describe_device(root)
    assert (plain.isa_level, plain.int8_is_fast) == ("amx", True)
    assert (capped.isa_level, capped.int8_is_fast, capped.isa_cap) == ("avx2", False, "AVX2")
    assert capped.isa == plain.isa
    assert capped.to_dict()["isa_cap"] == "AVX2"
    assert cpu_identity(root) != engine


def test_this_machine_goes_into_json() -> None:
    values = describe_device().to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["packages"]["numpy"] is not None
