"""What a user installs: the wheel, built from committed files only, and the base install on an old device."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

NO_NETWORK = re.compile(
    r"NewConnectionError|ConnectTimeoutError|ReadTimeoutError|NameResolutionError|Network is unreachable"
    r"|Temporary failure in name resolution|ProxyError"
)


def run(*command: str | Path, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory, root: Path, tracked: list[Path]) -> Path:
    """The wheel, built in a copy of what git would commit: nothing left over in the checkout helps."""
    source = tmp_path_factory.mktemp("source")
    for file in tracked:
        copy = source / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    for stage in ("export", "quantize", "runtime"):
        (source / "edgemim" / stage).symlink_to(f"../{stage}")
    done = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", cwd=source)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (built,) = (source / "dist").glob("*.whl")
    return built


def test_the_wheel_holds_every_source_file_once_and_nothing_else(wheel: Path, root: Path, tracked: list[Path]) -> None:
    expected = set()
    for file in tracked:
        top, *rest = file.relative_to(root).parts
        if rest and (file.suffix in {".py", ".toml"} or file.name == "py.typed"):
            if top == "edgemim":
                expected.add("/".join((top, *rest)))
            elif top in ("export", "quantize", "runtime"):
                expected.add("/".join(("edgemim", top, *rest)))
    held = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert len(held) == len(set(held))
    assert set(held) == expected
    assert {
        "edgemim/py.typed",
        "edgemim/export/__init__.py",
        "edgemim/runtime/backends/__init__.py",
    } <= expected


def test_the_wheel_names_its_licence_and_its_extras(wheel: Path, project: dict[str, Any]) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (archive.read(n).decode() for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    assert "License-Expression: Apache-2.0" in metadata
    assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
    extras = set(re.findall(r"^Provides-Extra: (.+)$", metadata, re.MULTILINE))
    assert extras == set(project["project"]["optional-dependencies"])


def test_the_extra_all_is_every_user_extra_but_tensorrt(project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    assert Requirement(everything).extras == set(extras) - {"all", "dev", "tensorrt"}


def test_the_installed_wheel_works_with_the_base_install_away_from_the_checkout(
    wheel: Path, base_install: Path, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment = kept | {"PYTHONPATH": os.pathsep.join((str(site), str(base_install)))}
    edgemim = [sys.executable, "-S", "-m", "edgemim"]
    for arguments in (["--help"], ["list", "targets"], ["list", "methods"]):
        done = run(*edgemim, *arguments, cwd=tmp_path, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
    where = run(
        sys.executable,
        "-S",
        "-c",
        "import edgemim.runtime as m; print(m.__file__)",
        cwd=tmp_path,
        env=environment,
    )
    assert where.stdout.strip() == str(site / "edgemim" / "runtime" / "__init__.py")


@pytest.mark.slow
def test_the_base_install_resolves_for_python_310_on_aarch64(project: dict[str, Any], tmp_path: Path) -> None:
    # pip evaluates markers for the Python that runs it, so they are evaluated here, for the device.
    device = {"python_version": "3.10", "python_full_version": "3.10.12", "platform_machine": "aarch64"}
    wanted = [Requirement(text) for text in project["project"]["dependencies"]]
    needed = [f"{r.name}{r.specifier}" for r in wanted if r.marker is None or r.marker.evaluate(device)]
    assert any(text.startswith("tomli") for text in needed)
    platforms = [f"--platform=manylinux{version}_aarch64" for version in ("2014", "_2_17", "_2_28")]
    done = run(
        *(sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--only-binary=:all:"),
        *("--no-input", "--disable-pip-version-check", "--retries=1"),
        *("--python-version=3.10", "--implementation=cp", *platforms, f"--target={tmp_path}", *needed),
        cwd=tmp_path,
    )
    if done.returncode and NO_NETWORK.search(done.stdout + done.stderr):
        pytest.skip("needs a package registry, and none answers")
    assert done.returncode == 0, done.stdout + done.stderr
    resolved = done.stdout.rsplit("Would install", 1)[-1].lower()
    assert [r.name for r in wanted if f"{r.name}-" not in resolved] == []


@pytest.mark.slow
def test_the_wheel_installs_from_the_registry_into_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    done = run(sys.executable, "-m", "venv", "fresh", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    binaries = tmp_path / "fresh" / "bin"
    done = run(binaries / "pip", "install", "--disable-pip-version-check", "--retries=1", wheel, cwd=tmp_path)
    if done.returncode and NO_NETWORK.search(done.stdout + done.stderr):
        pytest.skip("needs a package registry, and none answers")
    assert done.returncode == 0, done.stdout + done.stderr
    for arguments in (["--help"], ["doctor"], ["list", "backends"]):
        done = run(binaries / "edgemim", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert run(binaries / "pip", "check", cwd=tmp_path).returncode == 0
