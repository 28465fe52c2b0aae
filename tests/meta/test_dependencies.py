"""Who may import whom: every import statement of the source, inside functions too, against the layers.

An arrow that is missing here is a design decision, not a detail: see ARCHITECTURE.md.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOUNDATION = ("errors", "registry", "artifact", "config", "preprocess")

# Layer -> what it may import: layers below it, and packages from elsewhere.
LAYERS: dict[str, tuple[str, str]] = {
    "foundation": ("", "numpy PIL tomli"),
    "data": ("foundation", "numpy PIL datasets pyarrow fsspec sklearn filelock platformdirs"),
    "runtime": ("foundation", "numpy PIL filelock platformdirs"),
    "remote": ("foundation runtime", ""),
    "quantize": ("foundation data runtime", "numpy PIL onnx onnx_ir nncf"),
    "models": ("foundation", "numpy PIL torch timm safetensors huggingface_hub"),
    "export": ("foundation runtime models", "numpy torch timm onnx onnxscript onnx_ir onnxruntime"),
    "masking": ("foundation models", "numpy torch"),
    "losses": ("foundation models", "numpy torch"),
    "methods": ("foundation models masking losses", "numpy torch timm"),
    "training": (
        "foundation data models masking losses methods",
        "numpy PIL torch torchvision timm lightning safetensors sklearn filelock rich",
    ),
    "report": ("foundation runtime", "numpy matplotlib"),
    "recipes": ("", ""),
    "pipeline": (
        "foundation data runtime quantize models export masking losses methods training recipes",
        "numpy PIL torch torchvision timm lightning matplotlib filelock",
    ),
    "cli": (
        "foundation data runtime remote report quantize models export masking losses methods training recipes pipeline",
        "numpy PIL torch torchvision timm lightning typer click rich",
    ),
}

# The one vendor package of a backend, imported by that file alone and only inside functions.
VENDORS = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx",
}

# What every command loads, and what a device has: no heavy package before it is used. (A data source is
# itself loaded on use, and data may not import torch at all.)
LIGHT_LAYERS = ("foundation", "runtime", "cli")
HEAVY = {"torch", "torchvision", "timm", "lightning", "datasets", "sklearn", "onnx", "onnx_ir", "onnxscript", "nncf"}
STAGES = ("export", "quantize", "runtime")


@dataclass(frozen=True)
class Import:
    """One imported module: in which file and line, and whether it runs when the file is imported."""

    file: Path
    line: int
    module: str
    at_import: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.module}"


def source_files() -> list[Path]:
    """Every source file at its real place."""
    tops = ("edgemim", *STAGES)
    walked = (Path(folder) / f for top in tops for folder, _, files in os.walk(ROOT / top) for f in files)
    return sorted(f for f in walked if f.suffix == ".py")


def module_of(file: Path) -> str:
    """Import name of a source file."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "edgemim" else ("edgemim", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> str | None:
    """Layer of a module of edgemim; None when nobody gave it one."""
    parts = module.split(".")
    if len(parts) == 1 or parts[1] in (*FOUNDATION, "__version__"):
        return "foundation"
    name = {"commands": "cli", "__main__": "cli"}.get(parts[1], parts[1])
    return name if name in LAYERS else None


def imports_of(file: Path) -> list[Import]:
    """All imports of a file; a relative one is refused, since it hides its target."""
    tree = ast.parse(file.read_text("utf-8"))
    found = [Import(file, line, module, at) for module, line, at in _walk(tree, at_import=True)]
    return [i for i in found if i.module != "__future__"]


def _walk(node: ast.AST, at_import: bool) -> Iterator[tuple[str, int, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, child.lineno, at_import) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: write the whole import path"
            assert child.module is not None
            # `from edgemim import runtime` names a package by its alias.
            deep = child.module == "edgemim"
            names = [f"edgemim.{alias.name}" for alias in child.names] if deep else [child.module]
            yield from ((name, child.lineno, at_import) for name in names)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_for_types(child):
            yield from _walk(child, at_import=False)
        else:
            yield from _walk(child, at_import)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


FILES = source_files()
each_file = pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(ROOT).as_posix())


def allowed_packages(file: Path, layer: str) -> set[str]:
    """Packages from elsewhere that a file of this layer may import anywhere."""
    allowed = set(LAYERS[layer][1].split())
    if file.parent == ROOT / "runtime" / "backends" and file.stem in VENDORS:
        allowed.add(VENDORS[file.stem])
    return allowed


@each_file
def test_a_file_belongs_to_a_layer(file: Path) -> None:
    assert layer_of(module_of(file)) is not None, "give it a layer in LAYERS, and ARCHITECTURE.md a line"


@each_file
def test_arrows_point_one_way(file: Path) -> None:
    layer = layer_of(module_of(file)) or ""
    below = {layer, *LAYERS[layer][0].split()}
    inner = [i for i in imports_of(file) if i.module.split(".")[0] == "edgemim"]
    wrong = [str(i) for i in inner if layer_of(i.module) not in below]
    assert wrong == [], f"{layer} may import {sorted(below)} only"


@each_file
def test_only_the_packages_of_its_layer_are_imported(file: Path) -> None:
    layer = layer_of(module_of(file)) or ""
    known = allowed_packages(file, layer) | set(sys.stdlib_module_names) | {"edgemim"}
    wrong = [str(i) for i in imports_of(file) if i.module.split(".")[0] not in known]
    assert wrong == [], f"{layer} may import {LAYERS[layer][1]}"


@each_file
def test_light_layers_load_heavy_packages_on_use_only(file: Path) -> None:
    layer = layer_of(module_of(file))
    if layer not in LIGHT_LAYERS:
        return
    heavy = {*HEAVY, *VENDORS.values()}
    wrong = [str(i) for i in imports_of(file) if i.at_import and i.module.split(".")[0] in heavy]
    assert wrong == [], "import it inside the function that uses it"


@each_file
def test_commands_load_the_other_layers_on_use_only(file: Path) -> None:
    if layer_of(module_of(file)) != "cli":
        return
    inner = [i for i in imports_of(file) if i.at_import and i.module.split(".")[0] == "edgemim"]
    wrong = [str(i) for i in inner if layer_of(i.module) not in ("foundation", "cli")]
    assert wrong == [], "import it inside the command"


def test_export_and_quantize_do_not_know_each_other() -> None:
    assert "quantize" not in LAYERS["export"][0].split()
    assert "export" not in LAYERS["quantize"][0].split()


def test_the_layers_have_no_cycle() -> None:
    done: set[str] = set()
    while len(done) < len(LAYERS):
        ready = {name for name, (below, _) in LAYERS.items() if name not in done and set(below.split()) <= done}
        assert ready, f"a cycle among {sorted(set(LAYERS) - done)}"
        done |= ready


def test_the_checks_above_see_what_they_must(tmp_path: Path) -> None:
    source = (
        "import torch.nn as nn\nfrom edgemim import runtime\n"
        "if TYPE_CHECKING:\n    import onnx\n"
        "def f():\n    from edgemim.data.sources import digits\n    import openvino\n"
        "class C:\n    import timm\n"
    )
    file = tmp_path / "x.py"
    file.write_text(source)
    seen = [(i.module, i.at_import) for i in imports_of(file)]
    assert seen == [
        ("torch.nn", True),
        ("edgemim.runtime", True),
        ("onnx", False),
        ("edgemim.data.sources", False),
        ("openvino", False),
        ("timm", True),
    ]
    assert len(FILES) > 20
    assert {layer_of(module_of(f)) for f in FILES} >= {
        "foundation",
        "data",
        "runtime",
        "quantize",
        "models",
        "export",
    }
