"""The wheels that go to a board: made from what is installed, the same each time, and enough by themselves."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from edgemim import __version__
from edgemim.remote.wheel import CARRIED, STANDINS, Wheel, build_wheels
from edgemim.runtime.backends import BACKENDS
from edgemim.runtime.targets import TARGETS


@pytest.fixture(scope="module")
def wheels() -> list[Wheel]:
    return build_wheels()


def test_the_same_files_give_the_same_bytes(wheels: list[Wheel]) -> None:
    assert [wheel.data for wheel in build_wheels()] == [wheel.data for wheel in wheels]


def test_there_is_edgemim_first_and_what_its_runtime_imports(wheels: list[Wheel]) -> None:
    assert [wheel.package for wheel in wheels] == ["edgemim", *CARRIED, STANDINS]
    assert wheels[0].name == f"edgemim-{__version__}-py3-none-any.whl"


def test_the_runtime_is_in_it_whole_and_training_is_not(wheels: list[Wheel]) -> None:
    names = set(zipfile.ZipFile(io.BytesIO(wheels[0].data)).namelist())
    root = Path(__file__).parents[2] / "runtime"
    runtime = {f"edgemim/runtime/{file.relative_to(root).as_posix()}" for file in root.rglob("*.py")}
    assert runtime <= names
    tops = {name.split("/")[1] for name in names - runtime if name.startswith("edgemim/")}
    foundation = ("__init__", "artifact", "config", "errors", "preprocess", "registry")
    assert tops == {"py.typed", *(f"{name}.py" for name in foundation)}


def test_every_member_stands_in_the_record_with_its_hash(wheels: list[Wheel]) -> None:
    for wheel in wheels:
        archive = zipfile.ZipFile(io.BytesIO(wheel.data))
        (record,) = (name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
        lines = archive.read(record).decode().splitlines()
        recorded = {path: (digest, size) for path, digest, size in (line.rsplit(",", 2) for line in lines)}
        assert recorded.pop(record) == ("", "")
        held = {name: archive.read(name) for name in archive.namelist() if name != record}
        digests = {n: base64.urlsafe_b64encode(hashlib.sha256(d).digest()).rstrip(b"=") for n, d in held.items()}
        assert recorded == {n: (f"sha256={digests[n].decode()}", str(len(held[n]))) for n in held}


@pytest.fixture
def path(wheels: list[Wheel], tmp_path: Path) -> str:
    """PYTHONPATH with the wheels and with numpy and Pillow, and nothing else."""
    for wheel in wheels:
        (tmp_path / wheel.name).write_bytes(wheel.data)
    system = tmp_path / "system"
    system.mkdir()
    for package in ("numpy", "pillow"):
        distribution = metadata.distribution(package)
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            (system / top).symlink_to(Path(str(distribution.locate_file(top))))
    return os.pathsep.join([*(str(tmp_path / wheel.name) for wheel in wheels[:-1]), str(system)])


def run(path: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV"))}
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(
        command, cwd=folder, env=kept | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )


def test_python_runs_straight_from_them(path: str, tmp_path: Path) -> None:
    code = (
        "import edgemim.runtime.check as c, filelock, platformdirs; "
        "from importlib import metadata; "
        "from edgemim.runtime.backends import BACKENDS; from edgemim.runtime.targets import TARGETS; "
        "print(c.__file__, filelock.__file__, platformdirs.__file__, sep='\\n'); "
        "print(metadata.version('edgemim')); print(BACKENDS.names()); print(TARGETS.names()); "
        "[TARGETS.get(name) for name in TARGETS]; print(BACKENDS.describe('openvino').sections['needs'])"
    )
    done = run(path, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    *files, version, backends, targets, needs = done.stdout.splitlines()
    assert all(file.startswith(str(tmp_path)) and ".whl/" in file for file in files)
    assert version == __version__
    assert (backends, targets) == (str(BACKENDS.names()), str(TARGETS.names()))
    assert "edgemim[openvino]" in needs


def test_the_command_says_what_is_wrong_in_one_line(path: str, tmp_path: Path) -> None:
    done = run(path, tmp_path, "-m", "edgemim.runtime", "check", "no-bundle")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "edgemim: no-bundle does not exist\n")


def test_pip_takes_them(wheels: list[Wheel], tmp_path: Path) -> None:
    file = tmp_path / wheels[0].name
    file.write_bytes(wheels[0].data)
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile", "-q"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--target", tmp_path / "site", file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "edgemim" / "runtime" / "check.py").is_file()
