"""Where the source is, what git would commit of it, and the environment of a device."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def project() -> dict[str, Any]:
    """pyproject.toml, parsed."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


@pytest.fixture(scope="session")
def tracked() -> list[Path]:
    """Every file that is committed or about to be: what git knows or would add; links are left out."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = (ROOT / name for name in listed.stdout.split("\0") if name)
    return sorted({f for f in files if f.is_file() and not f.is_symlink()})


@pytest.fixture(scope="session")
def base_install(tmp_path_factory: pytest.TempPathFactory, project: dict[str, Any]) -> Path:
    """A folder of links to what `pip install edgemim pytest hypothesis scipy` brings, without edgemim itself.

    With it alone on the path an interpreter (`python -S`) lives in the environment of a device: no torch, no
    onnx, no vendor package. It takes a second where a second virtual environment takes a minute.
    """
    folder = tmp_path_factory.mktemp("base-install")
    wanted = [*project["project"]["dependencies"], "pytest", "hypothesis", "scipy"]
    done: set[str] = set()
    while wanted:
        requirement = Requirement(wanted.pop())
        name = canonicalize_name(requirement.name)
        if name in done or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        done.add(name)
        distribution = importlib.metadata.distribution(name)
        wanted += distribution.requires or []
        _link(distribution, folder)
    return folder


def _link(distribution: importlib.metadata.Distribution, folder: Path) -> None:
    tops = {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        link = folder / top
        if not link.is_symlink():
            link.symlink_to(Path(str(distribution.locate_file(top))))
