"""The runtime runs on a device that has the base install only, and `edgemim --help` must not wait for torch.

Two proofs: every module of the foundation, the runtime and the command line imports while heavy packages are
blocked, and the runtime's own tests pass where these packages are not installed at all.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BLOCKED = (
    "torch torchvision timm lightning pytorch_lightning datasets pyarrow sklearn safetensors huggingface_hub "
    "onnx onnx_ir onnxscript onnxruntime openvino nncf tensorrt tensorrt_rtx matplotlib tensorboard scipy"
)

IMPORT_ALL = """
import importlib, pkgutil, sys

blocked = set(sys.argv[1].split())

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
names = ["edgemim." + n for n in ("errors", "registry", "artifact", "config", "preprocess")]
packages = sys.argv[2:]
for package in packages:
    module = importlib.import_module(package)
    names.append(package)
    if hasattr(module, "__path__"):
        names += [m.name for m in pkgutil.walk_packages(module.__path__, package + ".")]
for name in names:
    importlib.import_module(name)
loaded = sorted(blocked & set(sys.modules))
assert not loaded, loaded
print(len(names))
"""


def python(code: str, *arguments: str, root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=root, capture_output=True, text=True, check=False
    )


def test_foundation_and_runtime_import_without_any_heavy_package(root: Path) -> None:
    done = python(IMPORT_ALL, BLOCKED, "edgemim.runtime", root=root)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 8


def test_the_command_line_imports_without_any_heavy_package(root: Path) -> None:
    done = python(IMPORT_ALL, BLOCKED, "edgemim.cli", "edgemim.commands", root=root)
    assert done.returncode == 0, done.stderr


def test_the_block_works(root: Path) -> None:
    done = python(IMPORT_ALL, BLOCKED, "edgemim.models", root=root)
    assert done.returncode != 0
    assert "No module named 'torch'" in done.stderr


def test_the_package_itself_imports_nothing(root: Path) -> None:
    code = "import sys; before = set(sys.modules); import edgemim; print(sorted(set(sys.modules) - before))"
    assert python(code, root=root).stdout.strip() == "['edgemim']"


@pytest.fixture
def device(base_install: Path, root: Path) -> dict[str, str]:
    """Environment variables under which `python -S` sees the base install and this checkout, nothing else."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST", "COV"))}
    return kept | {"PYTHONPATH": os.pathsep.join((str(root), str(base_install)))}


def test_the_environment_of_a_device_has_no_heavy_package(device: dict[str, str], root: Path) -> None:
    code = (
        "import importlib.util as u, sys; found = [n for n in sys.argv[1].split() if u.find_spec(n)]; "
        "import numpy, PIL, typer, filelock, platformdirs; print(found)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, BLOCKED],
        cwd=root,
        env=device,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['scipy']"  # the runtime's tests compare with it


# What a device runs; the rest of the runtime's tests imports nothing more, and takes two minutes.
CORE = ("test_device.py", "environment", "targets")
FOUNDATION_TESTS = ("tests/test_artifact.py", "tests/test_config.py", "tests/test_registry.py")


@pytest.mark.parametrize(
    "tests",
    [
        pytest.param([f"tests/runtime/{name}" for name in CORE], id="core"),
        pytest.param(["tests/runtime", *FOUNDATION_TESTS], id="all", marks=pytest.mark.slow),
    ],
)
def test_the_runtime_passes_its_tests_in_the_environment_of_a_device(
    device: dict[str, str], root: Path, tests: list[str]
) -> None:
    command = [sys.executable, "-S", "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    done = subprocess.run(command, cwd=root, env=device, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
