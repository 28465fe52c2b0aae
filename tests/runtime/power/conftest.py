"""Trees of sysfs as the kernel's documentation describes them, for boards that are not here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

Files = Mapping[str, str]


def ina3221(bus: str, hwmon: int, *channels: tuple[str, int, int] | None) -> dict[str, str]:
    """Files of one chip with (label, mV, mA) by channel; None is a channel that is not connected."""
    chip = f"sys/bus/i2c/devices/{bus}/hwmon/hwmon{hwmon}"
    files = {f"{chip}/name": "ina3221", f"{chip}/in7_label": "sum of shunt voltages", f"{chip}/in7_input": "120"}
    for n, channel in enumerate(channels, start=1):
        label, millivolts, milliamperes = channel or ("NC", 0, 0)
        files |= {
            f"{chip}/in{n}_label": label,
            f"{chip}/in{n}_enable": "1",
            f"{chip}/in{n}_input": str(millivolts),
            f"{chip}/curr{n}_input": str(milliamperes),
        }
    return files


def zone(name: str, label: str, energy_uj: int, turn_uj: int = 262_143_328_850) -> dict[str, str]:
    folder = f"sys/class/powercap/{name}"
    counters = {f"{folder}/energy_uj": str(energy_uj), f"{folder}/max_energy_range_uj": str(turn_uj)}
    return counters | {f"{folder}/name": label}


JETSONS: dict[str, Files] = {
    "orin-nano": ina3221("1-0040", 1, ("VDD_IN", 5000, 1000), ("VDD_CPU_GPU_CV", 5000, 200), ("VDD_SOC", 5000, 300)),
    "agx-orin": {
        **ina3221("1-0040", 3, ("VDD_GPU_SOC", 19800, 160), ("VDD_CPU_CV", 19800, 40), ("VIN_SYS_5V0", 5000, 800)),
        **ina3221("1-0041", 4, None, ("VDDQ_VDD2_1V8AO", 5000, 100), None),
    },
    "thor": {
        **ina3221("1-0040", 3, ("VDD_GPU", 20000, 100), ("VDD_CPU_SOC_MSS", 20000, 300), ("VIN_SYS_5V0", 5000, 1300)),
        "sys/bus/i2c/devices/2-0044/hwmon/hwmon5/name": "ina238",
        "sys/bus/i2c/devices/2-0044/hwmon/hwmon5/power1_input": "23500000",
    },
    "jetpack-4": {
        "sys/bus/i2c/devices/7-0040/iio:device0/name": "ina3221x",
        "sys/bus/i2c/devices/7-0040/iio:device0/rail_name_0": "VDD_IN",
        "sys/bus/i2c/devices/7-0040/iio:device0/in_power0_input": "4979",
    },
}


@pytest.fixture
def tree(tmp_path: Path) -> Callable[[Files], Path]:
    """Write files below a new root, each ending in a newline as the kernel's do."""

    def write(files: Files) -> Path:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{text}\n")
        return tmp_path

    return write


@pytest.fixture
def jetson(tree: Callable[[Files], Path]) -> Callable[..., Path]:
    """The tree of a board by name, with files changed or, as None, taken away; the chips are listed by class too."""

    def write(name: str, **changes: str | None) -> Path:
        files = {**JETSONS[name]}
        for file in list(files):
            change = changes.get(file.rpartition("/")[2], files[file])
            if change is None:
                del files[file]
            else:
                files[file] = change
        root = tree(files)
        listed = root / "sys/class/hwmon"
        listed.mkdir(parents=True)
        for chip in root.glob("sys/bus/i2c/devices/*/hwmon/hwmon*"):
            (listed / chip.name).symlink_to(chip)
        return root

    return write


@pytest.fixture
def x86(tree: Callable[[Files], Path]) -> Path:
    """A desktop: one package with cores and memory inside, and a counter of the whole platform."""
    return tree(
        {
            **zone("intel-rapl:0", "package-0", 5_000_000),
            **zone("intel-rapl:0:0", "core", 2_000_000),
            **zone("intel-rapl:0:1", "dram", 65_000_000, turn_uj=65_712_999_613),
            **zone("intel-rapl:1", "psys", 9_000_000),
            **zone("intel-rapl-mmio:0", "package-0", 5_000_000),
        }
    )
