"""Machines and installs that are not here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import metadata

import pytest

from edgemim.runtime.device import Device, describe_device
from edgemim.runtime.doctor import packages
from edgemim.runtime.doctor._finding import Finding

REQUIRES = [
    "numpy>=1.24",
    'tomli>=2; python_version < "3.11"',
    'torch>=2.6; extra == "train"',
    'edgemim[train]; extra == "all"',
    'rtx>=1.5; (platform_machine == "x86_64") and extra == "rtx"',
    'ruff>=0.8; extra == "dev"',
]


@pytest.fixture
def here() -> Device:
    """This machine, whatever the environment caps, and no Jetson."""
    return replace(describe_device(), isa_cap=None, l4t=None, chip=None, emulated=False)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that exactly these distributions, and edgemim's metadata, are there."""

    def say(**versions: str) -> None:
        named = {name.replace("_", "-"): version for name, version in versions.items()}

        def version(name: str) -> str:
            if name not in named:
                raise metadata.PackageNotFoundError(name)
            return named[name]

        monkeypatch.setattr(packages.metadata, "requires", lambda name: REQUIRES)
        monkeypatch.setattr(packages.metadata, "version", version)

    return say


@pytest.fixture
def about() -> Callable[[Sequence[Finding], str], Finding]:
    """The one finding that begins with some words."""

    def find(findings: Sequence[Finding], start: str) -> Finding:
        (found,) = [finding for finding in findings if finding.what.startswith(start)]
        return found

    return find
