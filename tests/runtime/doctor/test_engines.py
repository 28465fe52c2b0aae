"""`edgemim.runtime.doctor.engines`: backends, and builds of ONNX Runtime that are not what they seem."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.device import Device
from edgemim.runtime.doctor import engines
from edgemim.runtime.doctor.engines import about_backends, about_onnxruntime

CUDA = "capi/libonnxruntime_providers_cuda.so"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `onnxruntime` package of which only the folder is real."""
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi/libonnxruntime_providers_shared.so").write_bytes(b"\x7fELF")
    monkeypatch.setattr(engines, "_folder", lambda: tmp_path)
    return tmp_path


def test_without_any_backend_nothing_can_be_checked(monkeypatch: pytest.MonkeyPatch, about: Callable) -> None:
    for name in BACKENDS.names():
        monkeypatch.setattr(BACKENDS.get(name), "available", lambda self: "not installed")
    assert about(about_backends(), "no backend").cure == "run: pip install 'edgemim[onnxruntime]'"


def test_the_providers_of_onnxruntime_are_told(here: Device, package: Path, installed: Callable[..., None]) -> None:
    installed(onnxruntime="1.23.0")
    (found,) = about_onnxruntime(here)
    assert (found.level, found.what) == ("ok", "onnxruntime 1.23.0: providers cpu")


def test_nothing_is_said_where_it_is_not_installed(here: Device, installed: Callable[..., None]) -> None:
    installed()
    assert about_onnxruntime(here) == []


def test_two_builds_in_one_folder_are_a_warning(here: Device, package: Path, installed: Callable[..., None]) -> None:
    installed(onnxruntime="1.23.0", onnxruntime_gpu="1.24.0")
    (found,) = about_onnxruntime(here)
    assert (found.level, found.what) == ("warn", "onnxruntime 1.23.0 and onnxruntime-gpu 1.24.0 are both installed")
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in str(found.cure)


def test_a_gpu_build_without_cuda_is_a_cpu_build(here: Device, package: Path, installed: Callable[..., None]) -> None:
    installed(onnxruntime_gpu="1.24.0")
    (found,) = about_onnxruntime(here)
    assert found.level == "warn"
    assert "has no CUDA library: it is a build for the CPU" in found.what
    assert "run on the CPU without a word" in found.why


@pytest.mark.parametrize(
    ("l4t", "needed", "words"),
    [
        ("36.4.3", 13, "was built for CUDA 13, and JetPack 6.1 or 6.2 has CUDA 12"),
        ("36.4.3", 12, None),
        ("39.2.0", 13, None),
        ("39.2.0", 12, "was built for CUDA 12, and JetPack 7.2 has CUDA 13"),
        (None, 13, None),
    ],
)
def test_a_gpu_build_for_another_cuda_falls_back_to_the_cpu(
    here: Device, package: Path, installed: Callable[..., None], l4t: str | None, needed: int, words: str | None
) -> None:
    installed(onnxruntime_gpu="1.24.0")
    names = b"\0libcublasLt.so.%d\0libcudart.so.%d\0" % (needed, needed)
    (package / CUDA).write_bytes(b"\x7fELF" + names + b"\0" * 100)
    (found,) = about_onnxruntime(replace(here, l4t=l4t))
    assert found.level == ("ok" if words is None else "warn")
    assert (words or "providers cpu, cuda") in found.what


def test_a_library_that_does_not_tell_its_cuda_is_not_accused(
    here: Device, package: Path, installed: Callable[..., None]
) -> None:
    installed(onnxruntime_gpu="1.24.0")
    (package / CUDA).write_bytes(b"")
    (found,) = about_onnxruntime(replace(here, l4t="36.4.3"))
    assert found.level == "ok"


def test_the_onnxruntime_of_this_machine_is_found(here: Device) -> None:
    pytest.importorskip("onnxruntime")
    assert "cpu" in about_onnxruntime(here)[0].what
