"""`edgemim.runtime.doctor.machine`: processor, clock, memory, power."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgemim.runtime.device import Device
from edgemim.runtime.doctor.machine import about_clock, about_instructions, about_memory, about_power


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("isa", "machine", "level", "words"),
    [
        (("avx2",), "x86_64", "warn", "without VNNI, AMX or Arm's dot product INT8 is slower"),
        (("avx2", "avx512_vnni"), "x86_64", "ok", "INT8 can pay"),
        (("asimd", "asimddp"), "aarch64", "ok", "OpenVINO on Arm computes INT8 models in floating point"),
        (None, "x86_64", "warn", "cannot be foreseen"),
    ],
)
def test_what_the_cpu_means_for_int8(here: Device, isa, machine: str, level: str, words: str) -> None:
    found = about_instructions(replace(here, isa=isa, machine=machine))
    assert found.level == level
    assert words in found.why


@pytest.mark.parametrize(
    ("isa", "cap", "words"),
    [
        (("avx2", "avx512f", "avx512_vnni", "amx_int8"), None, ", level amx, "),
        (("avx2", "avx_vnni"), None, ", level avx2-vnni, "),
        (("avx2", "avx512f", "avx512_vnni"), "AVX2", ", level avx2 under ONEDNN_MAX_CPU_ISA=AVX2, "),
        (("asimd",), None, "X, 2 threads"),
    ],
)
def test_the_level_of_the_cpu_is_in_one_line(here: Device, isa: tuple[str, ...], cap: str | None, words: str) -> None:
    device = replace(here, cpu="X", isa=isa, isa_cap=cap, cores=2, threads=2, cpu_quota=None)
    assert words in about_instructions(device).what


def test_an_emulated_cpu_is_a_warning(here: Device) -> None:
    found = about_instructions(replace(here, emulated=True, machine="aarch64", isa=None))
    assert (found.level, found.what) == ("warn", "CPU aarch64, emulated on another kind of processor")


@pytest.mark.parametrize(
    ("governor", "locked", "level"),
    [("performance", None, "ok"), ("powersave", False, "warn"), ("schedutil", True, "ok"), (None, None, "ok")],
)
def test_a_clock_that_floats_is_a_warning(here: Device, governor: str | None, locked: bool | None, level: str) -> None:
    (found,) = about_clock(replace(here, governor=governor, clocks_locked=locked))
    assert found.level == level
    assert (found.cure is None) == (level == "ok")


@pytest.mark.parametrize(
    ("l4t", "free", "level", "words"),
    [
        (None, 512.0, "warn", "end other programs"),
        (None, 2000.0, "ok", ""),
        ("36.4.3", 2000.0, "warn", "systemctl isolate multi-user.target"),
        ("36.4.3", 6000.0, "ok", ""),
        (None, None, "ok", ""),
    ],
)
def test_little_memory_is_a_warning_and_a_jetson_needs_more(
    here: Device, l4t: str | None, free: float | None, level: str, words: str
) -> None:
    found = about_memory(replace(here, l4t=l4t, memory_available_mib=free))
    assert found.level == level
    assert words in str(found.cure)


def test_power_that_can_be_read_is_named(tmp_path: Path) -> None:
    chip = "sys/class/hwmon/hwmon1"
    files = {"name": "ina3221", "in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": "900"}
    found = about_power(write(tmp_path, {f"{chip}/{name}": text for name, text in files.items()}))
    assert (found.level, found.what) == ("ok", "power: ina3221 reads VDD_IN")


def test_rails_that_do_not_add_up_are_a_warning(tmp_path: Path) -> None:
    chip = "sys/class/hwmon/hwmon1"
    files = {"name": "ina3221", "in1_label": "VDD_X", "in1_input": "5000", "curr1_input": "900"}
    assert about_power(write(tmp_path, {f"{chip}/{name}": text for name, text in files.items()})).level == "warn"


def test_power_that_only_root_may_read_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zone = "sys/class/powercap/intel-rapl:0"
    root = write(tmp_path, {f"{zone}/name": "package-0", f"{zone}/max_energy_range_uj": "262143328850"})
    (root / zone / "energy_uj").write_text("1")

    read = Path.read_text

    def refused(path: Path, *arguments: str, **options: str) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", refused)
    found = about_power(root)
    assert found.level == "warn"
    assert found.cure == "run: sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj (until the next boot)"


def test_no_power_sensor_is_nothing_to_mend(tmp_path: Path) -> None:
    found = about_power(tmp_path)
    assert (found.level, found.cure) == ("ok", None)
    assert found.what.startswith("power: no power sensor")
