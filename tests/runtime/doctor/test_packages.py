"""`edgemim.runtime.doctor.packages`: metadata in, findings out."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata

import pytest

from edgemim.runtime.doctor import packages
from edgemim.runtime.doctor.packages import about_packages, about_python


def test_extras_come_from_the_metadata(installed: Callable[..., None], about: Callable) -> None:
    installed(numpy="2.0.1", torch="2.10.0")
    findings = about_packages()
    assert about(findings, "base install").what == "base install: numpy 2.0.1"
    assert about(findings, "extra 'train'").what == "extra 'train': torch 2.10.0"
    assert about(findings, "extra 'rtx'").cure == "if you need it, run: pip install -U 'edgemim[rtx]'"
    assert not [f for f in findings if "'dev'" in f.what or "'all'" in f.what]


def test_an_old_package_is_an_error_and_names_both_versions(installed: Callable[..., None], about: Callable) -> None:
    installed(numpy="1.21.5", torch="2.10.0")
    found = about(about_packages(), "base install")
    assert (found.level, found.cure) == ("error", "run: pip install -U edgemim")
    assert "numpy 1.21.5 (needs >=1.24)" in found.what


def test_a_cure_keeps_a_further_requirement(installed: Callable[..., None], about: Callable) -> None:
    installed(numpy="1.21.5")
    assert about(about_packages("'numpy<2'"), "base install").cure == "run: pip install -U edgemim 'numpy<2'"


def test_a_missing_base_package_is_an_error_a_missing_extra_is_not(
    installed: Callable[..., None], about: Callable
) -> None:
    installed()
    findings = about_packages()
    assert about(findings, "base install").level == "error"
    assert about(findings, "extra 'train'").level == "ok"


def test_edgemim_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, about: Callable) -> None:
    def absent(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(packages.metadata, "requires", absent)
    assert about(about_packages(), "edgemim runs from a folder").level == "warn"


def test_a_python_that_is_too_old_is_an_error() -> None:
    assert about_python((3, 9)).level == "error"
    assert about_python((3, 10)).level == "ok"
