"""`edgemim.runtime.doctor.diagnose`: all findings of one machine, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgemim.runtime.device import Device
from edgemim.runtime.doctor import diagnose


def test_every_finding_of_this_machine_is_well_formed() -> None:
    for finding in diagnose():
        assert finding.level in ("ok", "warn", "error")
        assert finding.what
        assert finding.why
        assert finding.level != "error" or finding.cure
        assert "\n" not in f"{finding.what}{finding.why}{finding.cure}"
        assert set(finding.to_dict()) == {"what", "why", "cure", "level"}


def test_a_jetson_is_asked_about_more_than_another_machine(here: Device, tmp_path: Path) -> None:
    board = replace(here, l4t="36.4.3", chip="tegra234", machine="aarch64", isa=("asimd", "asimddp"))
    there = [finding.what for finding in diagnose(board, tmp_path)]
    assert any(what.startswith("Jetson with L4T 36.4.3") for what in there)
    assert any(what.startswith("power mode") for what in there)
    assert not any(what.startswith("CPU governor") for what in there)
    elsewhere = [finding.what for finding in diagnose(here, tmp_path)]
    assert not any(what.startswith(("Jetson", "power mode")) for what in elsewhere)
    assert any(what.startswith("CPU governor") for what in elsewhere)


def test_what_a_jetpack_6_is_told_to_install_keeps_its_bindings_working(
    here: Device, tmp_path: Path, installed: Callable[..., None]
) -> None:
    installed(numpy="1.21.5")
    board = replace(here, l4t="36.4.3", chip="tegra234", machine="aarch64")
    (base,) = [finding for finding in diagnose(board, tmp_path) if finding.what.startswith("base install")]
    assert base.cure == "run: pip install -U edgemim 'numpy>=1.24,<2'"
