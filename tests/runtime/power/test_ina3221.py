"""`edgemim.runtime.power.ina3221`: trees of known boards in, watts by rail out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgemim.runtime.power._base import UnreadableError
from edgemim.runtime.power.ina3221 import Ina3221, find

Jetson = Callable[..., Path]


def board(root: Path) -> Ina3221:
    source = find(root)
    assert source is not None
    return source


def total(source: Ina3221) -> float:
    watts = source.read()
    return sum(watts[name] for name in source.parts)


@pytest.mark.parametrize(
    ("name", "parts", "watts"),
    [
        # 5.000 V times 1.000 A
        ("orin-nano", ("VDD_IN",), 5.0),
        # 19.8 V times 0.16 A, and times 0.04 A, and 5 V times 0.8 A: 3.168 + 0.792 + 4
        ("agx-orin", ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), 7.96),
        # 2 + 6 + 6.5
        ("thor", ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"), 14.5),
        ("jetpack-4", ("VDD_IN",), 4.979),
    ],
)
def test_the_module_is_the_sum_of_the_rails_that_its_supply_feeds(
    jetson: Jetson, name: str, parts: tuple[str, ...], watts: float
) -> None:
    source = board(jetson(name))
    assert source.parts == parts
    assert total(source) == pytest.approx(watts)
    assert "without carrier board" in source.scope


def test_what_hangs_below_another_rail_or_around_the_module_is_reported_and_not_added(jetson: Jetson) -> None:
    assert board(jetson("agx-orin")).read()["VDDQ_VDD2_1V8AO"] == pytest.approx(0.5)


def test_thors_board_input_is_reported_and_not_added(jetson: Jetson) -> None:
    source = board(jetson("thor"))
    assert source.read()["VIN"] == pytest.approx(23.5)
    assert "VIN" not in source.parts


def test_a_chip_that_is_listed_twice_and_channels_that_are_no_rails_are_counted_once_and_never(jetson: Jetson) -> None:
    assert board(jetson("agx-orin")).rails == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO")


def test_a_channel_that_is_switched_off_is_no_rail(jetson: Jetson) -> None:
    source = board(jetson("orin-nano", in1_enable="0"))
    assert source.rails == ("VDD_CPU_GPU_CV", "VDD_SOC")
    assert source.parts == ()


def test_a_channel_without_current_stops_with_its_name(jetson: Jetson) -> None:
    root = jetson("orin-nano", curr1_input=None)
    with pytest.raises(UnreadableError, match="rail VDD_IN cannot be read: No such file"):
        find(root)


def test_a_rail_that_is_not_of_the_total_may_be_unreadable(jetson: Jetson) -> None:
    source = board(jetson("orin-nano", in3_input="N/A"))
    assert source.rails == ("VDD_IN", "VDD_CPU_GPU_CV")
    assert total(source) == pytest.approx(5.0)


def test_the_slowest_chip_says_over_how_long_a_reading_averages(jetson: Jetson) -> None:
    root = jetson("agx-orin")
    assert board(root).averages_s == 0
    (root / "sys/class/hwmon/hwmon4/update_interval").write_text("35\n")
    assert board(root).averages_s == pytest.approx(0.035)


def test_a_machine_without_the_chip_has_none(tree: Callable[..., Path]) -> None:
    assert find(tree({"sys/class/hwmon/hwmon0/name": "coretemp", "sys/class/hwmon/hwmon1/name": "ina238"})) is None
