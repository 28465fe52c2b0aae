"""`edgemim.runtime.doctor.jetson`: boards and installs that are not here, described as their files do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgemim.runtime.device import Device
from edgemim.runtime.doctor._finding import Finding
from edgemim.runtime.doctor.jetson import about_jetson
from edgemim.runtime.doctor.place import Place, find_place

APT = "usr/lib/python3.10/dist-packages/tensorrt"


@pytest.fixture
def board(here: Device) -> Device:
    """An Orin with JetPack 6.2, its TensorRT and a numpy that this takes."""
    packages = {"tensorrt": "10.3.0", "numpy": "1.26.4"}
    facts: dict[str, Any] = {"l4t": "36.4.3", "chip": "tegra234", "power_mode": "MAXN", "clocks_locked": True}
    return replace(here, machine="aarch64", packages=packages, **facts)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Its system Python, which sees the bindings."""
    (tmp_path / APT).mkdir(parents=True)
    return replace(find_place(tmp_path), python="3.10", environment=None, sees=lambda name: True)


def blind(place: Place, **facts: Any) -> Place:
    """The same with a Python that sees no TensorRT."""
    return replace(place, sees=lambda name: False, **facts)


def levels(findings: list[Finding]) -> set[str]:
    return {finding.level for finding in findings}


def test_a_board_as_it_should_be_has_nothing_to_mend(board: Device, place: Place, about: Callable) -> None:
    findings = about_jetson(board, place)
    assert levels(findings) == {"ok"}
    release = about(findings, "Jetson with L4T 36.4.3")
    assert release.what.endswith("JetPack 6.1 or 6.2, TensorRT 10.3, CUDA 12, Python 3.10")
    assert "opset 20 at least, so a bundle's fp16 flavour fits" in release.why


def test_jetpack_6_0_takes_the_fp32_flavour(board: Device, place: Place, about: Callable) -> None:
    found = about(about_jetson(replace(board, l4t="36.3.0"), place), "Jetson with L4T")
    assert "TensorRT 8.6" in found.what
    assert "opset 17 at least, so a bundle's fp32 flavour fits" in found.why


@pytest.mark.parametrize(("l4t", "tensorrt"), [("35.1.0", "8.4"), ("35.6.0", "8.5"), ("32.7.4", "8.2")])
def test_jetpack_5_is_an_error_that_says_why_and_what_else(
    board: Device, place: Place, l4t: str, tensorrt: str
) -> None:
    (found,) = about_jetson(replace(board, l4t=l4t), place)
    assert (found.level, "does not support" in found.what) == ("error", True)
    assert f"TensorRT {tensorrt} has no LayerNormalization" in found.why
    assert "flash JetPack 6.2 or 7.2" in str(found.cure)
    assert "--target arm64" in str(found.cure)


def test_a_release_that_is_not_known_yet_is_a_warning(board: Device, place: Place, about: Callable) -> None:
    assert about(about_jetson(replace(board, l4t="99.0.0"), place), "Jetson with L4T 99.0.0").level == "warn"


def test_a_container_hides_the_release(board: Device, place: Place) -> None:
    (found,) = about_jetson(replace(board, l4t=None), place)
    assert found.level == "warn"
    assert "-v /etc/nv_tegra_release:/etc/nv_tegra_release:ro" in str(found.cure)


def test_another_machine_is_not_asked(here: Device, place: Place) -> None:
    assert about_jetson(here, place) == []


def test_no_bindings_at_all_names_the_apt_package(board: Device, place: Place, about: Callable) -> None:
    found = about(about_jetson(board, blind(place, bindings=())), "TensorRT for Python")
    assert (found.level, found.cure) == ("error", "run: sudo apt install python3-libnvinfer")


def test_a_virtual_environment_that_hides_them_is_opened_in_place(
    board: Device, place: Place, tmp_path: Path, about: Callable
) -> None:
    settings = tmp_path / "venv/pyvenv.cfg"
    settings.parent.mkdir()
    settings.write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    found = about(about_jetson(board, blind(place, environment=settings.parent)), "TensorRT for Python")
    assert "hidden by the virtual environment" in found.what
    assert found.cure == (
        f"run: sed -i 's/^include-system-site-packages = .*/include-system-site-packages = true/' {settings}"
    )


def test_another_python_than_the_systems_is_told_which_one_to_use(board: Device, place: Place, about: Callable) -> None:
    found = about(about_jetson(board, blind(place, python="3.12")), "TensorRT for Python")
    assert found.what == "TensorRT for Python is for Python 3.10, this is 3.12"
    assert "/usr/bin/python3.10" in str(found.cure)


def test_bindings_in_a_folder_for_any_python_are_those_of_the_jetpack(
    board: Device, place: Place, about: Callable
) -> None:
    anywhere = blind(place, bindings=(place.root / "usr/lib/python3/dist-packages/tensorrt",), python="3.12")
    assert "for Python 3.10, this is 3.12" in about(about_jetson(board, anywhere), "TensorRT for Python").what


def test_a_python_that_does_not_look_there_is_told_where(board: Device, place: Place, about: Callable) -> None:
    found = about(about_jetson(board, blind(place)), "TensorRT for Python")
    assert str(found.cure).startswith("run: export PYTHONPATH=")
    assert "usr/lib/python3.10/dist-packages" in str(found.cure)


def test_a_wheel_in_the_place_of_the_jetpacks_own_is_a_warning(board: Device, place: Place, about: Callable) -> None:
    packages = {"tensorrt": "11.1.0.7", "numpy": "1.26.4"}
    found = about(about_jetson(replace(board, packages=packages), place), "TensorRT for Python")
    assert (found.level, found.what) == ("warn", "TensorRT for Python is 11.1.0.7, JetPack 6.1 or 6.2 brings 10.3")


def test_bindings_without_metadata_are_fine(board: Device, place: Place, about: Callable) -> None:
    packages = {"tensorrt": None, "numpy": "1.26.4"}
    found = about(about_jetson(replace(board, packages=packages), place), "TensorRT for Python")
    assert (found.level, found.what) == ("ok", "TensorRT for Python: installed")


@pytest.mark.parametrize(("l4t", "version", "level"), [("36.4.3", "2.2.6", "error"), ("36.3.0", "1.26.4", "ok")])
def test_numpy_2_breaks_the_bindings_of_jetpack_6(
    board: Device, place: Place, about: Callable, l4t: str, version: str, level: str
) -> None:
    packages = {"tensorrt": None, "numpy": version}
    found = about(about_jetson(replace(board, l4t=l4t, packages=packages), place), "numpy")
    assert found.level == level
    assert found.cure == (None if level == "ok" else "run: pip install 'numpy>=1.24,<2'")


def test_jetpack_7_takes_any_numpy(board: Device, place: Place) -> None:
    packages = {"tensorrt": "10.16.2", "numpy": "2.2.6"}
    findings = about_jetson(replace(board, l4t="39.2.0", packages=packages), place)
    assert not [finding for finding in findings if finding.what.startswith("numpy")]


def test_a_mode_below_the_largest_is_a_warning_with_the_command(
    board: Device, place: Place, tmp_path: Path, about: Callable
) -> None:
    modes = "".join(f"< POWER_MODEL ID={n} NAME={name} >\n" for n, name in enumerate(("15W", "25W", "MAXN_SUPER")))
    for name, text in (("etc/nvpmodel.conf", modes), ("var/lib/nvpmodel/status", "pmode:0001")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = about(about_jetson(replace(board, power_mode="25W"), place), "power mode")
    assert (found.level, found.what) == ("warn", "power mode: 25W, below MAXN_SUPER")
    assert found.cure == "unless the product runs in it, run: sudo nvpmodel -m 2"
    (tmp_path / "var/lib/nvpmodel/status").write_text("pmode:0002")
    assert about(about_jetson(replace(board, power_mode="MAXN_SUPER"), place), "power mode").level == "ok"


@pytest.mark.parametrize(("locked", "level", "words"), [(False, "warn", "jetson_clocks"), (None, "ok", "--show")])
def test_clocks_that_float_name_the_command(
    board: Device, place: Place, about: Callable, locked: bool | None, level: str, words: str
) -> None:
    found = about(about_jetson(replace(board, clocks_locked=locked), place), "clocks")
    assert found.level == level
    assert words in str(found.cure)


def test_the_place_of_this_interpreter_is_found(tmp_path: Path) -> None:
    (tmp_path / APT).mkdir(parents=True)
    place = find_place(tmp_path)
    assert place.bindings_python == "3.10"
    assert place.sees("numpy")
    assert not place.sees("no_such_package")
