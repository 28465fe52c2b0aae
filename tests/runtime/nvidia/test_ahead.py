"""Engines that are built before the GPU is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgemim.artifact import Artifact, create_artifact, load_artifact
from edgemim.errors import DeviceError
from edgemim.runtime.nvidia.ahead import AheadEngine, build_ahead, shipped_engine
from edgemim.runtime.nvidia.library import TENSORRT_RTX, Library, load_library

_GRAPH = '<ir_version: 8, opset_import: ["" : 17]> g (float[2, 8] x) => (float[2, 2] y) { BODY }'


class FakeModule:
    """A package of which only the version is asked."""

    __version__ = "1.7.1"


FAKE = Library(name=TENSORRT_RTX, module=FakeModule)


def carrying(folder: Path, **changes: Any) -> Artifact:
    """A bundle with an engine for `fp16`; `changes` go into its entry."""
    with create_artifact(folder, "bundle") as draft:
        draft.path("fp16.onnx").write_bytes(b"graph")
        draft.path("engines/fp16.engine").write_bytes(b"plan")
    sha256 = load_artifact(folder).files["fp16.onnx"].sha256
    engine = AheadEngine(
        candidate="fp16", model="fp16.onnx", file=folder, built_with=FAKE.title, compute_capabilities=("8.6", "12.0")
    )
    with create_artifact(folder, "bundle", overwrite=True) as draft:
        draft.path("fp16.onnx").write_bytes(b"graph")
        draft.path(engine.name).write_bytes(b"plan")
        draft.content["engines"] = [engine.to_dict(sha256) | changes]
    return load_artifact(folder)


def test_an_engine_is_taken_by_the_library_that_built_it(tmp_path: Path) -> None:
    bundle = carrying(tmp_path / "bundle")
    assert bundle.content["engines"][0]["compute_capabilities"] == ["8.6", "12.0"]
    found = shipped_engine(bundle, "fp16", FAKE)
    assert found is not None
    assert found.read_bytes() == b"plan"


@pytest.mark.parametrize("changes", [{"built_with": "TensorRT-RTX 1.6.0"}, {"model_sha256": "0" * 64}])
def test_an_engine_of_another_release_or_model_is_left_alone(tmp_path: Path, changes: dict[str, str]) -> None:
    assert shipped_engine(carrying(tmp_path / "bundle", **changes), "fp16", FAKE) is None


def test_a_candidate_without_an_engine_has_none(tmp_path: Path) -> None:
    assert shipped_engine(carrying(tmp_path / "bundle"), "int8-linear", FAKE) is None


@pytest.mark.tensorrt
def test_one_file_serves_several_gpus(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    library, model = load_library(TENSORRT_RTX), tmp_path / "m.onnx"
    product = onnx.parser.parse_model(_GRAPH.replace("BODY", "t = Transpose (x)  y = MatMul (x, t)"))
    model.write_bytes(product.SerializeToString())
    sizes = []
    for gpus in (("8.6",), ("8.6", "8.9", "12.0")):
        made = build_ahead(library, model, tmp_path / f"{len(gpus)}.engine", candidate="fp16", capabilities=gpus)
        assert made.built_with == library.title
        assert made.compute_capabilities == gpus
        sizes.append(made.file.stat().st_size)
    assert 0 < sizes[0] < sizes[1]
    refused = onnx.parser.parse_model(_GRAPH.replace("BODY", "d = Det (x)  y = Identity (x)"))
    model.write_bytes(refused.SerializeToString())
    with pytest.raises(DeviceError, match="Det"):
        build_ahead(library, model, tmp_path / "no.engine", candidate="fp16", capabilities=("8.6",))
    assert not (tmp_path / "no.engine").exists()
