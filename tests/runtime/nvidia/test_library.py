"""`edgemim.runtime.nvidia.library`: what each version can do, found by its names. The packages are fakes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from edgemim.errors import DeviceError, MissingDependencyError
from edgemim.runtime.nvidia import library
from edgemim.runtime.nvidia.library import TENSORRT, TENSORRT_RTX, load_library
from tests.runtime.nvidia.fake_tensorrt import API, SUPPORTED

TYPED = [version for version in SUPPORTED if version != "8.6.1"]


@pytest.mark.parametrize("version", TYPED)
def test_from_10_on_types_come_from_the_graph_and_any_opset_is_read(machine: Callable, version: str) -> None:
    machine(version)
    found = load_library()
    assert found.trouble is None
    assert found.takes_types_from_the_graph
    assert found.newest_opset is None
    strongly_typed = API[version]["enums"]["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"]
    assert found.network_flags() == 1 << strongly_typed


def test_8_6_chooses_types_by_flags_and_reads_opset_17(machine: Callable) -> None:
    machine("8.6.1")
    found = load_library()
    assert found.trouble is None
    assert (found.takes_types_from_the_graph, found.newest_opset) == (False, 17)
    assert found.network_flags() == 1  # explicit batch
    assert found.flag("FP16") is not None


def test_8_5_is_refused_and_says_why(machine: Callable) -> None:
    machine("8.5.3")
    assert "TensorRT 8.5.3 has no layer normalisation" in (load_library().trouble or "")
    assert "JetPack 6" in (load_library().trouble or "")


@pytest.mark.parametrize("version", ["11.1.0", "rtx-1.7"])
def test_a_flag_that_is_gone_is_none(machine: Callable, version: str) -> None:
    machine(version)
    assert load_library().flag("FP16") is None
    assert load_library().flag("TF32") is not None


@pytest.mark.parametrize("version", SUPPORTED)
def test_only_rtx_builds_for_gpus_that_are_elsewhere(machine: Callable, version: str) -> None:
    machine(version)
    assert load_library().builds_for_other_gpus is version.startswith("rtx")


def test_each_package_has_its_title(machine: Callable) -> None:
    machine("10.3.0")
    assert load_library().title == "TensorRT 10.3.0"
    machine("rtx-1.7")
    assert load_library().title == "TensorRT-RTX 1.7"


def test_tensorrt_goes_before_tensorrt_rtx(machine: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    rtx = machine("rtx-1.7").trt
    assert library.installed() == (TENSORRT_RTX,)
    machine("10.3.0")
    monkeypatch.setitem(sys.modules, TENSORRT_RTX, rtx)
    assert library.installed() == (TENSORRT, TENSORRT_RTX)
    assert load_library().name == TENSORRT
    assert load_library(TENSORRT_RTX).name == TENSORRT_RTX


@pytest.mark.parametrize(("name", "extra"), [(None, "tensorrt"), (TENSORRT, "tensorrt"), (TENSORRT_RTX, "rtx")])
def test_nothing_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch, name: str | None, extra: str) -> None:
    for module in (TENSORRT, TENSORRT_RTX):
        monkeypatch.setitem(sys.modules, module, None)  # type: ignore[arg-type]
    with pytest.raises(MissingDependencyError, match=rf"pip install 'edgemim\[{extra}\]'"):
        load_library(name)


def test_on_a_jetson_tensorrt_comes_from_apt(tmp_path: Path) -> None:
    assert library.how_to_install(tmp_path) == "pip install 'edgemim[tensorrt]'"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3\n")
    assert library.how_to_install(tmp_path).startswith("sudo apt install python3-libnvinfer")


def test_a_package_whose_libraries_are_missing_is_an_error_of_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')\n")
    monkeypatch.delitem(sys.modules, TENSORRT, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DeviceError, match=r"tensorrt is installed and cannot be loaded: libnvinfer\.so\.10.*doctor"):
        load_library(TENSORRT)


@pytest.mark.tensorrt
def test_the_fake_of_tensorrt_rtx_has_the_names_of_the_real_one() -> None:
    real: ModuleType = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    names = API["rtx-1.7"]
    for enum, members in names["enums"].items():
        assert {name: int(member) for name, member in getattr(real, enum).__members__.items()} == members
    for kind, expected in names["classes"].items():
        assert sorted(name for name in dir(getattr(real, kind)) if not name.startswith("_")) == expected


@pytest.mark.tensorrt
def test_the_real_tensorrt_rtx_is_what_the_fake_says() -> None:
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    found = load_library(TENSORRT_RTX)
    assert found.trouble is None
    assert found.takes_types_from_the_graph
    assert found.builds_for_other_gpus
    assert found.flag("INT8") is None
