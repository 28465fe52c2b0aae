"""`edgemim.runtime.temperatures`: what counts as a board, and its hottest zone."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemim.runtime.temperatures import board_thermometer


@pytest.fixture
def zones(tmp_path: Path) -> Path:
    for number, (kind, temp) in enumerate((("cpu-thermal", "45500"), ("gpu-thermal", "47000"), ("cv-thermal", ""))):
        folder = tmp_path / f"sys/class/thermal/thermal_zone{number}"
        folder.mkdir(parents=True)
        (folder / "type").write_text(f"{kind}\n")
        (folder / "temp").write_text(temp)
    return tmp_path


def test_the_thermometer_of_a_board_reads_the_hottest_zone(zones: Path) -> None:
    (zones / "proc/device-tree").mkdir(parents=True)
    read = board_thermometer(zones)
    assert read is not None
    assert read() == 47.0
    for file in zones.glob("sys/class/thermal/*/temp"):
        file.write_text("")
    assert read() is None


def test_a_machine_that_no_device_tree_describes_is_no_board(zones: Path) -> None:
    assert board_thermometer(zones) is None


def test_a_board_without_zones_has_no_thermometer(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    assert board_thermometer(tmp_path) is None
