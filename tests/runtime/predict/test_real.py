"""`edgemim.runtime.load` with engines that compile: what a report carries is taken where it fits."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from edgemim.runtime import load
from edgemim.runtime.cache import SIDECAR
from edgemim.runtime.check import check_bundle
from edgemim.runtime.predict.engine import offer_engine

pytest.importorskip("openvino", reason="needs openvino")
pytest.importorskip("onnx", reason="needs onnx to make a model")


@pytest.fixture
def report(world: SimpleNamespace, linear: object, quick: None) -> Path:
    """Of a check of fp32 on OpenVINO alone, beside its bundle."""
    path = world.bundle(encode=linear, evaluation=None)
    options = {"backends": ["openvino"], "candidates": ["fp32"], "threads": 1, "seconds": 0.0, "runs": 4}
    check_bundle(path, world.tmp / "bundle-report", cache=world.tmp / "cache", **options)
    return world.tmp / "bundle-report"


def engines(cache: Path) -> list[Path]:
    return sorted(file.parent for file in cache.rglob(SIDECAR))


def test_the_engine_of_a_report_is_taken_and_not_compiled_again(world: SimpleNamespace, report: Path) -> None:
    fresh = world.tmp / "fresh"
    with load(report, cache=fresh) as model:
        image = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
        pixels = world.contract.pixels(Image.fromarray(image))
        expected = world.contract.normalise(pixels[None]).reshape(1, -1) @ world.weights["fp32"]
        np.testing.assert_allclose(model(image), expected, rtol=1e-3, atol=1e-4)
    (folder,) = engines(fresh)
    # What the compilation took is kept from then, so this is the very engine.
    assert (folder / SIDECAR).read_bytes() == (report / "engine" / SIDECAR).read_bytes()


def test_an_engine_of_other_settings_is_compiled_beside_it(world: SimpleNamespace, report: Path) -> None:
    fresh = world.tmp / "fresh"
    with load(report, cache=fresh, threads=2):
        pass
    threads = {
        json.loads((f / SIDECAR).read_text())["facts"]["options"]["INFERENCE_NUM_THREADS"] for f in engines(fresh)
    }
    assert threads == {1, 2}


def test_an_engine_of_another_backend_is_not_offered(world: SimpleNamespace, report: Path) -> None:
    offer_engine(report, "tensorrt", world.tmp / "fresh")
    assert engines(world.tmp / "fresh") == []
