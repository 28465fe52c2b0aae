"""Every registry there is, found by reading the source: a new kind of plug-in is tested from its first day."""

from __future__ import annotations

import ast
import importlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgemim.registry import Registry

ROOT = Path(__file__).resolve().parents[2]

# What the docstring of a plug-in must have, by package. Research has a source; what wraps a package names the
# extra that installs it. A target is a value and needs neither.
SECTIONS = {
    "edgemim.masking": "source",
    "edgemim.methods": "source",
    "edgemim.losses": "source",
    "edgemim.models.layouts": "source",
    "edgemim.quantize.placement": "source",
    "edgemim.quantize.ranges": "source",
    "edgemim.quantize.quantizers": "needs",
    "edgemim.data.sources": "needs",
    "edgemim.runtime.backends": "needs",
    "edgemim.runtime.targets": None,
}
# Architecture: these kinds exist from the first version on.
MINIMUM = {"edgemim.masking", "edgemim.methods", "edgemim.losses", "edgemim.runtime.backends"}


@dataclass(frozen=True)
class Folder:
    """A plug-in folder: its package, the variable that holds the registry, its plug-in files."""

    package: str
    variable: str
    path: Path

    @property
    def plugins(self) -> list[Path]:
        return sorted(f for f in self.path.glob("*.py") if not f.stem.startswith("_"))


def _registry_variable(init: Path) -> str | None:
    for node in ast.parse(init.read_text("utf-8")).body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if isinstance(value, ast.Call) and ast.unparse(value.func).split(".")[-1] == "Registry":
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target  # type: ignore[union-attr]
            return ast.unparse(target)
    return None


def _folders() -> list[Folder]:
    found = []
    for top in ("edgemim", "export", "quantize", "runtime"):
        for folder, _, files in os.walk(ROOT / top):
            path = Path(folder)
            variable = _registry_variable(path / "__init__.py") if "__init__.py" in files else None
            if variable:
                name = path.relative_to(ROOT).as_posix().replace("/", ".")
                package = name if top == "edgemim" else f"edgemim.{name}"
                found.append(Folder(package, variable, path))
    return sorted(found, key=lambda f: f.package)


FOLDERS = _folders()
PLUGINS = [(folder, file) for folder in FOLDERS for file in folder.plugins]
each_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.package)
each_plugin = pytest.mark.parametrize(
    ("folder", "file"), PLUGINS, ids=[f.relative_to(ROOT).as_posix() for _, f in PLUGINS]
)


def registry_of(folder: Folder) -> Registry:
    """The registry itself; importing its package loads no plug-in."""
    registry = getattr(importlib.import_module(folder.package), folder.variable)
    assert isinstance(registry, Registry)
    return registry


def test_the_registries_of_the_first_version_are_there() -> None:
    assert {f.package for f in FOLDERS} >= MINIMUM


@each_folder
def test_a_registry_belongs_to_its_folder_and_lists_its_files(folder: Folder) -> None:
    registry = registry_of(folder)
    assert registry.package == folder.package
    assert registry.names() == sorted(f.stem.replace("_", "-") for f in folder.plugins)


@each_folder
def test_a_registry_has_its_own_variable_name(folder: Folder) -> None:
    assert folder.variable.isupper()
    assert [f.variable for f in FOLDERS].count(folder.variable) == 1


@each_folder
def test_a_kind_of_plugin_says_what_its_docstrings_must_have(folder: Folder) -> None:
    assert folder.package in SECTIONS


@each_folder
def test_the_init_of_a_plugin_folder_imports_none_of_its_files(folder: Folder) -> None:
    for node in ast.walk(ast.parse((folder.path / "__init__.py").read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert not (node.module or "").startswith(folder.package)
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith(folder.package) for alias in node.names)


@each_plugin
def test_the_last_statement_is_the_only_registration_and_has_the_name_of_the_file(folder: Folder, file: Path) -> None:
    tree = ast.parse(file.read_text("utf-8"))
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == f"{folder.variable}.add"
    ]
    assert len(calls) == 1
    last = tree.body[-1]
    assert isinstance(last, ast.Expr)
    assert last.value is calls[0]
    name = calls[0].args[0]
    assert isinstance(name, ast.Constant)
    assert name.value == file.stem.replace("_", "-")


@each_plugin
def test_the_docstring_has_a_summary_and_the_section_of_its_kind(folder: Folder, file: Path) -> None:
    description = registry_of(folder).describe(file.stem.replace("_", "-"))
    assert 10 <= len(description.summary) <= 120
    needed = SECTIONS[folder.package]
    if needed is not None:
        assert description.sections.get(needed)


@each_plugin
def test_an_extra_that_a_plugin_needs_exists(folder: Folder, file: Path, project: dict[str, Any]) -> None:
    needs = registry_of(folder).describe(file.stem.replace("_", "-")).sections.get("needs", "")
    named = re.findall(r"edgemim\[([\w,-]+)\]", needs)
    if SECTIONS[folder.package] == "needs":
        assert len(named) == 1, "Needs: PACKAGE; pip install 'edgemim[EXTRA]'"
    for extra in ",".join(named).split(","):
        assert extra in {"", *project["project"]["optional-dependencies"]}


LISTING = """
import importlib, sys
for package, variable in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    registry = getattr(importlib.import_module(package), variable)
    for description in registry.describe_all():
        print(registry.plural, description.name, description.summary)
heavy = "torch timm lightning onnx onnxruntime openvino nncf tensorrt tensorrt_rtx datasets sklearn".split()
loaded = [name for name in heavy if name in sys.modules]
assert not loaded, loaded
"""


def test_listing_every_plugin_of_every_kind_loads_no_heavy_package() -> None:
    arguments = [text for f in FOLDERS for text in (f.package, f.variable)]
    done = subprocess.run(
        [sys.executable, "-c", LISTING, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(PLUGINS)
