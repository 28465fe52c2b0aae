"""A test that needs a Debian package skips with the reason, except in CI, where it must run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.mark.system("no-such-binary", "no-such-package")
def test_that_needs_a_package_nobody_has():
    pass

@pytest.mark.system("sh", "dash")
def test_that_needs_a_shell():
    pass
"""


@pytest.fixture
def folder(tmp_path: Path, root: Path) -> str:
    """Folder with this project's conftest and the two tests above."""
    shutil.copyfile(root / "tests" / "conftest.py", tmp_path / "conftest.py")
    (tmp_path / "test_two.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    system: needs a package\n")
    return str(tmp_path)


def run(folder: str, **variables: str) -> subprocess.CompletedProcess[str]:
    unset = ("CI", "EDGEMIM_REQUIRE_SYSTEM", "PYTEST_ADDOPTS")
    environment = {k: v for k, v in os.environ.items() if k not in unset} | variables
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rs", folder]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_without_the_package_a_test_is_skipped_and_says_what_to_run(folder: str) -> None:
    done = run(folder)
    assert done.returncode == 0
    assert "1 passed, 1 skipped" in done.stdout
    assert "needs 'no-such-binary' of the Debian package 'no-such-package'; run: make system" in done.stdout


@pytest.mark.parametrize("variable", ["CI", "EDGEMIM_REQUIRE_SYSTEM"])
def test_in_ci_a_missing_package_is_a_failure(folder: str, variable: str) -> None:
    done = run(folder, **{variable: "true"})
    assert done.returncode == 1
    assert "1 passed" in done.stdout
    assert "run: make system" in done.stdout
