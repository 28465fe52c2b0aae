"""The power monitors of a Jetson: one INA3221 or two, with three rails each.

The kernel gives voltage in mV and current in mA by channel, with the rail's name as its label. Older kernels
(JetPack 4) give power in mW under the iio subsystem instead. Channels 4 to 7 are shunt voltages and their sum.

The total is the module's power, without carrier board, SSD and fan. Orin Nano and NX have one rail for it. AGX boards
have not: there the rails that the supply feeds are added, and what hangs below one of them is only reported, as the
memory of AGX Orin below its 5 V rail. Thor's INA238 measures the whole board, and is only reported too.

Source: Linux, Documentation/hwmon/ina3221.rst and ina238.rst; NVIDIA Jetson Linux Developer Guide, "Platform Power and
Performance", for the rails of each module
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from edgemim.runtime.power._base import Source, UnreadableError, number, words

# The rails whose sum is the module's power; the first line that a board has in full is its own.
_TOTALS = (
    ("VDD_IN",),  # Orin Nano and NX, Xavier NX
    ("POM_5V_IN",),  # Nano
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),  # AGX Orin
    ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"),  # Thor
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),  # AGX Xavier
)
_SCOPE = "the module, without carrier board, SSD and fan"
_CHANNELS = (1, 2, 3)
_IIO_CHANNELS = (0, 1, 2)
_NOT_CONNECTED = ("", "NC")
# From mV times mA, from uW and from mW to W.
_MICRO, _MILLI = 1e-6, 1e-3


@dataclass(frozen=True, kw_only=True)
class Rail:
    """One rail: the product of the numbers in `files`, times `unit`, is its power in W."""

    name: str
    files: tuple[Path, ...]
    unit: float

    def watts(self) -> float:
        """Power of now.

        Raises:
            OSError, ValueError: It cannot be read.
        """
        return math.prod(number(file) for file in self.files) * self.unit


class Ina3221(Source):
    """Rails of a Jetson, in watts."""

    name: ClassVar[str] = "ina3221"
    counts: ClassVar[bool] = False

    def __init__(self, rails: tuple[Rail, ...], parts: tuple[str, ...], averages_s: float) -> None:
        self._rails = rails
        self.averages_s = averages_s
        self.rails = tuple(rail.name for rail in rails)
        self.parts = parts
        self.scope = _SCOPE

    def read(self) -> dict[str, float]:
        return {rail.name: rail.watts() for rail in self._rails}


def find(root: Path) -> Ina3221 | None:
    """The rails of this board; None if it has no INA3221.

    Raises:
        UnreadableError: A rail of the total is there and cannot be read.
    """
    found = {rail.name: rail for rail in _rails(root)}
    if not found:
        return None
    refused = {name: reason for name, rail in found.items() if (reason := _refusal(rail)) is not None}
    parts = next((total for total in _TOTALS if set(total) <= set(found)), ())
    for name in parts or refused:
        if name in refused:
            raise UnreadableError(f"the INA3221 rail {name} cannot be read: {refused[name]}")
    averages_s = max(_averages_s(rail.files[0].parent) for rail in found.values())
    return Ina3221(tuple(rail for name, rail in found.items() if name not in refused), parts, averages_s)


def _rails(root: Path) -> Iterator[Rail]:
    """Every connected rail, those of an INA3221 first; none if there is no such chip."""
    chips = list(_chips(root, "ina3221"))
    for chip in chips:
        yield from _hwmon_rails(chip)
        yield from _iio_rails(chip)
    if chips:
        for chip in _chips(root, "ina238"):
            yield Rail(name="VIN", files=(chip / "power1_input",), unit=_MICRO)


def _chips(root: Path, name: str) -> Iterator[Path]:
    """Folders of the chips of a driver, each once: a chip is listed by class and by bus."""
    patterns = (
        "sys/class/hwmon/hwmon*",
        "sys/bus/i2c/devices/*/hwmon/hwmon*",
        "sys/bus/i2c/devices/*/iio:device*",
    )
    folders = [folder for pattern in patterns for folder in sorted(root.glob(pattern))]
    once = {folder.resolve(): folder for folder in reversed(folders)}
    for folder in sorted(once):
        # iio names the driver "ina3221x".
        if words(folder / "name").rstrip("x") == name:
            yield folder


def _hwmon_rails(chip: Path) -> Iterator[Rail]:
    for n in _CHANNELS:
        label = words(chip / f"in{n}_label")
        if label not in _NOT_CONNECTED and words(chip / f"in{n}_enable") != "0":
            yield Rail(name=label, files=(chip / f"in{n}_input", chip / f"curr{n}_input"), unit=_MICRO)


def _iio_rails(chip: Path) -> Iterator[Rail]:
    for n in _IIO_CHANNELS:
        label = words(chip / f"rail_name_{n}")
        if label not in _NOT_CONNECTED:
            yield Rail(name=label, files=(chip / f"in_power{n}_input",), unit=_MILLI)


def _averages_s(chip: Path) -> float:
    """The time in which a chip goes once through its channels, as often as it averages; 0 if it does not say."""
    try:
        return number(chip / "update_interval") * _MILLI
    except (OSError, ValueError):
        return 0.0


def _refusal(rail: Rail) -> str | None:
    """Why a rail cannot be read, or None if it can."""
    try:
        rail.watts()
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None
