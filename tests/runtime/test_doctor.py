"""`edgemim.runtime.doctor`: known machines and installs in, findings out."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata

import pytest

from edgemim.runtime import doctor
from edgemim.runtime.backends.onnxruntime import OnnxRuntimeBackend
from edgemim.runtime.backends.openvino import OpenVinoBackend
from edgemim.runtime.device import describe_device
from edgemim.runtime.doctor import Finding, diagnose

HERE = replace(describe_device(), isa_cap=None)
REQUIRES = [
    "numpy>=1.24",
    'tomli>=2; python_version < "3.11"',
    'torch>=2.6; extra == "train"',
    'edgemim[train]; extra == "all"',
    'rtx>=1.5; (platform_machine == "x86_64") and extra == "rtx"',
    'ruff>=0.8; extra == "dev"',
]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Pretend that exactly these distributions, and edgemim's metadata, are there."""

    def say(**versions: str) -> None:
        def version(name: str) -> str:
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(doctor.metadata, "requires", lambda name: REQUIRES)
        monkeypatch.setattr(doctor.metadata, "version", version)

    return say


def about(findings: list[Finding], start: str) -> Finding:
    (found,) = [f for f in findings if f.what.startswith(start)]
    return found


def test_every_finding_of_this_machine_is_well_formed() -> None:
    for finding in diagnose():
        assert finding.level in ("ok", "warn", "error")
        assert finding.what
        assert finding.why
        assert finding.level != "error" or finding.cure
        assert set(finding.to_dict()) == {"what", "why", "cure", "level"}


def test_extras_come_from_the_metadata(installed) -> None:
    installed(numpy="2.0.1", torch="2.10.0")
    findings = diagnose(HERE)
    assert about(findings, "base install").what == "base install: numpy 2.0.1"
    assert about(findings, "extra 'train'").what == "extra 'train': torch 2.10.0"
    assert about(findings, "extra 'rtx'").cure == "if you need it, run: pip install -U 'edgemim[rtx]'"
    assert not [f for f in findings if "'dev'" in f.what or "'all'" in f.what]


def test_an_old_package_is_an_error_and_names_both_versions(installed) -> None:
    installed(numpy="1.21.5", torch="2.10.0")
    found = about(diagnose(HERE), "base install")
    assert (found.level, found.cure) == ("error", "run: pip install -U edgemim")
    assert "numpy 1.21.5 (needs >=1.24)" in found.what


def test_a_missing_base_package_is_an_error_a_missing_extra_is_not(installed) -> None:
    installed()
    findings = diagnose(HERE)
    assert about(findings, "base install").level == "error"
    assert about(findings, "extra 'train'").level == "ok"


def test_edgemim_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", absent)
    assert about(diagnose(HERE), "edgemim runs from a folder").level == "warn"


def test_without_any_backend_nothing_can_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend in (OnnxRuntimeBackend, OpenVinoBackend):
        monkeypatch.setattr(backend, "available", lambda self: "not installed")
    assert about(diagnose(HERE), "no backend").cure == "run: pip install 'edgemim[onnxruntime]'"


@pytest.mark.parametrize(
    ("isa", "machine", "level", "words"),
    [
        (("avx2",), "x86_64", "warn", "without VNNI, AMX or Arm's dot product INT8 is slower"),
        (("avx2", "avx512_vnni"), "x86_64", "ok", "INT8 can pay"),
        (("asimd", "asimddp"), "aarch64", "ok", "OpenVINO on Arm computes INT8 models in floating point"),
        (None, "x86_64", "warn", "cannot be foreseen"),
    ],
)
def test_what_the_cpu_means_for_int8(isa, machine: str, level: str, words: str) -> None:
    (cpu,) = [f for f in diagnose(replace(HERE, isa=isa, machine=machine)) if words in f.why]
    assert cpu.level == level


@pytest.mark.parametrize(
    ("isa", "cap", "words"),
    [
        (("avx2", "avx512f", "avx512_vnni", "amx_int8"), None, ", level amx, "),
        (("avx2", "avx_vnni"), None, ", level avx2-vnni, "),
        (("avx2", "avx512f", "avx512_vnni"), "AVX2", ", level avx2 under ONEDNN_MAX_CPU_ISA=AVX2, "),
        (("asimd",), None, "X, 2 threads"),
    ],
)
def test_the_level_of_the_cpu_is_in_one_line(isa: tuple[str, ...], cap: str | None, words: str) -> None:
    device = replace(HERE, cpu="X", isa=isa, isa_cap=cap, cores=2, threads=2, cpu_quota=None)
    assert words in about(diagnose(device), "CPU X").what


@pytest.mark.parametrize(("governor", "level"), [("performance", "ok"), ("powersave", "warn"), (None, "ok")])
def test_a_clock_that_floats_is_a_warning(governor: str | None, level: str) -> None:
    found = about(diagnose(replace(HERE, governor=governor)), "CPU governor")
    assert found.level == level
    assert (found.cure is None) == (level == "ok")


def test_little_memory_is_a_warning() -> None:
    assert about(diagnose(replace(HERE, memory_available_mib=512.0)), "memory").level == "warn"
    assert about(diagnose(replace(HERE, memory_available_mib=8000.0)), "memory").level == "ok"


@pytest.mark.parametrize(
    ("l4t", "words"),
    [
        ("35.4.1", "JetPack 5.1, which ships TensorRT 8.5"),
        ("36.3.0", "JetPack 6.0, which ships TensorRT 8.6"),
        ("36.4.3", "JetPack 6.1 or 6.2, which ships TensorRT 10.3"),
        ("38.2.0", "JetPack 7.0 or 7.1, which ships TensorRT 10.13"),
        ("99.0.0", "Jetson with L4T 99.0.0"),
    ],
)
def test_the_jetpack_follows_from_the_l4t_release(l4t: str, words: str) -> None:
    found = about(diagnose(replace(HERE, l4t=l4t, packages={"tensorrt": None})), "Jetson")
    assert words in found.what
    assert found.level == "warn"


def test_a_jetson_whose_tensorrt_python_sees_is_fine() -> None:
    found = about(diagnose(replace(HERE, l4t="36.4.3", packages={"tensorrt": "10.3.0"})), "Jetson")
    assert (found.level, found.what[-17:]) == ("ok", "installed: 10.3.0")


def test_a_python_that_is_too_old_is_an_error() -> None:
    assert doctor._python((3, 9)).level == "error"
    assert doctor._python((3, 10)).level == "ok"
