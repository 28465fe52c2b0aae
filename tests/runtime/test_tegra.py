"""`edgemim.runtime.tegra`: files of known boards in, facts out."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemim.runtime.tegra import read_chip, read_gpu, read_gpu_clock, read_l4t, read_power_modes

ORIN_NANO = """# nvpmodel of an Orin Nano Super: the fastest mode has neither the first nor the last number
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
GPU MAX_FREQ 612000000
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< POWER_MODEL ID=3 NAME=7W >
< PM_CONFIG DEFAULT=1 >
"""
ORIN_NX = "< POWER_MODEL ID=1 NAME=10W >\n< POWER_MODEL ID=3 NAME=25W >\n< POWER_MODEL ID=2 NAME=15W >\n"
THOR = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=1 NAME=120W >\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64\n", "35.4.1"),
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n", "36.4.3"),
        ("# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64\n", "38.2.0"),
        ("something else\n", None),
    ],
)
def test_the_release_of_linux_for_tegra(tmp_path: Path, text: str, release: str | None) -> None:
    assert read_l4t(write(tmp_path, {"etc/nv_tegra_release": text})) == release


@pytest.mark.parametrize(
    ("compatible", "chip", "gpu"),
    [
        ("nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0", "tegra234", "Orin GPU"),
        ("nvidia,p4071-0000+p3834-0008\0nvidia,p3834-0008\0nvidia,tegra264\0", "tegra264", "capability 11.0"),
        ("nvidia,p2972-0000\0nvidia,tegra194\0", "tegra194", "Xavier GPU"),
        ("raspberrypi,5-model-b\0brcm,bcm2712\0", None, None),
    ],
)
def test_the_chip_tells_the_gpu(tmp_path: Path, compatible: str, chip: str | None, gpu: str | None) -> None:
    root = write(tmp_path, {"proc/device-tree/compatible": compatible})
    assert read_chip(root) == chip
    assert (gpu is None and read_gpu(root) is None) or str(gpu) in str(read_gpu(root))


def test_the_name_of_a_card_comes_from_its_driver(tmp_path: Path) -> None:
    information = "Model: \t\t NVIDIA RTX A4000\nIRQ:   \t\t 166\n"
    root = write(tmp_path, {"proc/driver/nvidia/gpus/0000:01:00.0/information": information})
    assert read_gpu(root) == "NVIDIA RTX A4000"


@pytest.mark.parametrize(
    ("conf", "status", "name", "largest"),
    [
        (ORIN_NANO, "pmode:0001", "25W", 2),
        (ORIN_NANO, "pmode:0002 fmode:quiet", "MAXN_SUPER", 2),
        (ORIN_NX, "pmode:0001", "10W", 3),
        (THOR, "pmode:0001", "120W", 0),
        (ORIN_NANO, "", None, 2),
        ("", "pmode:0003", "3", None),
    ],
)
def test_the_mode_that_is_set_and_the_largest(
    tmp_path: Path, conf: str, status: str, name: str | None, largest: int | None
) -> None:
    modes = read_power_modes(write(tmp_path, {"etc/nvpmodel.conf": conf, "var/lib/nvpmodel/status": status}))
    assert modes is not None
    assert (modes.name, modes.largest) == (name, largest)


def test_the_clock_of_thor_is_that_of_the_part_that_computes(tmp_path: Path) -> None:
    files = {}
    for folder, mhz in (("gpu-gpc-0", 1575), ("gpu-nvd-0", 1692), ("8188000000.emc", 4266)):
        for name in ("cur_freq", "min_freq", "max_freq"):
            files[f"sys/class/devfreq/{folder}/{name}"] = f"{mhz}000000\n"
    clock = read_gpu_clock(write(tmp_path, files))
    assert clock is not None
    assert (clock.now, clock.low, clock.high) == (1575, 1575, 1575)


def test_where_there_is_no_jetson_nothing_is_known(tmp_path: Path) -> None:
    assert read_l4t(tmp_path) is read_chip(tmp_path) is read_gpu(tmp_path) is None
    assert read_power_modes(tmp_path) is read_gpu_clock(tmp_path) is None
