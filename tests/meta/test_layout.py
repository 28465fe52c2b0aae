"""The stages live at the top level and are imported as `edgemim.<stage>`: three records of that must agree.

setuptools reads the package list and the mapping, type checkers and editable checkouts follow the links.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

STAGES = ("export", "quantize", "runtime")
REQUIRED = ("edgemim", "export", "quantize", "runtime", "tests", "benchmarks")


def packages_on_disk(root: Path) -> set[str]:
    """Import names of all folders with an `__init__.py`, each found once, at its real place."""
    found = set()
    for top in ("edgemim", *STAGES):
        for folder, subfolders, files in os.walk(root / top):  # links are not followed
            subfolders[:] = [s for s in subfolders if s != "__pycache__"]
            if "__init__.py" in files:
                name = Path(folder).relative_to(root).as_posix().replace("/", ".")
                found.add(name if top == "edgemim" else f"edgemim.{name}")
    return found


def test_the_package_list_names_every_folder_with_an_init_and_no_other(root: Path, project: dict[str, Any]) -> None:
    listed = project["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == packages_on_disk(root)


def test_every_folder_with_python_files_is_a_package(root: Path) -> None:
    for top in ("edgemim", *STAGES):
        bare = {file.parent for file in (root / top).rglob("*.py") if not (file.parent / "__init__.py").exists()}
        assert bare == set()


def test_the_mapping_is_the_links(root: Path, project: dict[str, Any]) -> None:
    mapping = project["tool"]["setuptools"]["package-dir"]
    assert mapping == {"edgemim": "edgemim"} | {f"edgemim.{stage}": stage for stage in STAGES}
    links = {file.name for file in (root / "edgemim").iterdir() if file.is_symlink()}
    assert links == set(STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_link_is_relative_and_not_ignored_by_git(root: Path, stage: str) -> None:
    assert os.readlink(root / "edgemim" / stage) == f"../{stage}"
    if shutil.which("git") and (root / ".git").exists():
        # 1: no rule ignores it. A link that was not committed is missing in CI's clone, and fails above.
        ignored = subprocess.run(["git", "check-ignore", "-q", f"edgemim/{stage}"], cwd=root, check=False)
        assert ignored.returncode == 1


def test_the_top_level_is_the_one_that_was_asked_for(root: Path) -> None:
    assert [name for name in REQUIRED if not (root / name).is_dir()] == []
    for name in ("pyproject.toml", "LICENSE", "Makefile", ".ci/run", "constraints.txt"):
        assert (root / name).is_file()
    assert os.access(root / ".ci" / "run", os.X_OK)


def test_a_stage_is_one_module_under_both_paths(root: Path) -> None:
    import edgemim.runtime

    assert Path(edgemim.runtime.__file__ or "").resolve() == (root / "runtime" / "__init__.py").resolve()


def test_tests_stand_where_the_import_path_says(root: Path) -> None:
    packages = packages_on_disk(root)
    for file in (root / "tests").rglob("test_*.py"):
        folders = file.relative_to(root / "tests").parts[:-1]
        if folders[:1] in (("meta",), ("benchmarks",)) or not folders:
            continue
        assert ".".join(("edgemim", *folders)) in packages, f"{file} mirrors no package"
