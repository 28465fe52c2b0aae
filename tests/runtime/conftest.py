"""A backend that is one matrix product in numpy, and bundles that it, or a real one, can run."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from edgemim.artifact import Artifact, create_artifact, load_artifact
from edgemim.errors import DeviceError
from edgemim.preprocess import Preprocess
from edgemim.runtime import run
from edgemim.runtime.backends._base import Backend, Engine, Session
from edgemim.runtime.backends.onnxruntime import OnnxRuntimeBackend
from edgemim.runtime.bundle import write_bundle
from edgemim.runtime.latency.protocol import LatencyProtocol, protocol_for
from edgemim.runtime.targets import TARGETS

SIZE, CLASSES, GOLDEN = 8, 5, 4
CONTRACT = Preprocess(size=(SIZE, SIZE), crop_ratio=1.0)


class FakeSession(Session):
    def __init__(self, weights: np.ndarray, fault: str | None, slower_s: float, output: str) -> None:
        self.output = output
        self.weights, self.fault, self.slower_s = weights, fault, slower_s
        self.closed = False

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert not self.closed
        if self.fault == "run":
            raise DeviceError("fake cannot run the model: out of memory")
        until = time.perf_counter() + self.slower_s
        images = CONTRACT.normalise(inputs["pixels"]) if "pixels" in inputs else inputs["images"]
        logits = images.reshape(len(images), -1) @ self.weights
        while time.perf_counter() < until:
            pass
        if self.fault == "wrong":
            logits = -logits
        if self.fault == "nan":
            logits = logits * np.float32(np.nan)
        return {"scores" if self.fault == "name" else self.output: logits, "tokens": images}

    def close(self) -> None:
        self.closed = True


class FakeBackend(Backend):
    """Runs a file that holds a float32 matrix [3 H W, K] in npy format; one fault per candidate name.

    Takes either encoding and any batch; gives a second output that nobody asked for.
    """

    name: ClassVar[str] = "fake"
    module: ClassVar[str] = "numpy"
    distributions: ClassVar[tuple[str, ...]] = ("numpy",)
    extra: ClassVar[str] = "fake"
    processor: ClassVar[str] = "CPU"

    def __init__(
        self,
        faults: Mapping[str, str] | None = None,
        slower_s: Mapping[str, float] | None = None,
        output: str = "logits",
    ) -> None:
        self.output = output
        self.faults, self.slower_s = dict(faults or {}), dict(slower_s or {})
        self.sessions: list[FakeSession] = []

    def compile(self, bundle: Any, candidate: Any, cache: Path, threads: int) -> Engine:
        if self.faults.get(candidate.name) == "compile":
            raise DeviceError("fake cannot compile the model: unknown operator")
        options = {"threads": threads, "candidate": candidate.name}
        file = bundle.artifact.file(candidate.file)
        return Engine(backend="fake", file=file, options=options, folder=None, compile_s=0.0, cached=False)

    def open(self, engine: Engine) -> Session:
        name = engine.options["candidate"]
        weights = np.load(engine.file, allow_pickle=False)
        slower_s = self.slower_s.get(name, 0.0)
        self.sessions.append(FakeSession(weights, self.faults.get(name), slower_s, self.output))
        return self.sessions[-1]


def as_npy(weights: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, weights)
    return stream.getvalue()


def as_png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _weights() -> dict[str, np.ndarray]:
    """The fp32 matrix, and the same in steps of 1/127 of its largest entry."""
    full = np.random.default_rng(0).normal(size=(3 * SIZE * SIZE, CLASSES)).astype(np.float32) / 16
    step = np.float32(np.abs(full).max() / 127)
    return {"fp32": full, "int8-nncf": np.round(full / step) * step}


def _images(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)


def _input(encoding: str, batch: int) -> dict[str, Any]:
    if encoding == "pixels":
        shape = [batch, SIZE, SIZE, 3]
        return {"name": "pixels", "dtype": "uint8", "layout": "NHWC", "shape": shape, "encoding": "pixels"}
    shape = [batch, 3, SIZE, SIZE]
    return {"name": "images", "dtype": "float32", "layout": "NCHW", "shape": shape, "encoding": "normalised"}


def _content(flavours: list[dict[str, Any]], encoding: str, batch: int) -> dict[str, Any]:
    return {
        "architecture": "linear",
        "num_classes": CLASSES,
        "class_names": [f"class {i}" for i in range(CLASSES)],
        "parameters": 3 * SIZE * SIZE * CLASSES,
        "preprocess": CONTRACT.to_dict(),
        "input": _input(encoding, batch),
        "output": {"name": "logits", "shape": [batch, CLASSES]},
        "flavours": flavours,
        "golden": {
            "inputs": "golden/inputs.npy",
            "pixels": "golden/pixels.npy",
            "outputs": "golden/outputs.npy",
            "count": GOLDEN,
        },
        "parity": {"torch_vs_onnxruntime": {"max_abs": 0.0, "tolerance": 1e-4}},
        "calibration": None,
    }


def _golden_pixels() -> np.ndarray:
    return _images(GOLDEN, seed=2)


def _write_onnx(
    out: Path,
    encode: Callable[[np.ndarray], bytes] = as_npy,
    change: Callable[[dict], None] | None = None,
    encoding: str = "normalised",
    batch: int = 1,
) -> Artifact:
    weights = _weights()
    pixels = _golden_pixels()
    inputs = CONTRACT.normalise(pixels)
    flavours = [{"name": name, "precision": name[:4], "opset": 17, "file": f"{name}.onnx"} for name in weights]
    with create_artifact(out, "onnx") as draft:
        for name, matrix in weights.items():
            draft.path(f"{name}.onnx").write_bytes(encode(matrix))
        golden = {
            "inputs": inputs,
            "pixels": pixels,
            "outputs": inputs.reshape(GOLDEN, -1) @ weights["fp32"],
        }
        for name, array in golden.items():
            np.save(draft.path(f"golden/{name}.npy"), array)
        draft.content = _content(flavours, encoding, batch)
        if change is not None:
            change(draft.content)
        draft.record("export", opset=17)
    return load_artifact(out, "onnx")


def _labelled(count: int) -> Iterator[tuple[bytes, int]]:
    """PNG images with the class that fp32 gives them, so that its top-1 is 1."""
    for pixels in _images(count):
        logits = CONTRACT.normalise(pixels[None]).reshape(1, -1) @ _weights()["fp32"]
        yield as_png(pixels), int(logits.argmax())


@pytest.fixture
def world(tmp_path: Path) -> SimpleNamespace:
    """Factories: `onnx(change=, encode=, encoding=, batch=)`, `bundle(...)`, `labelled(n)`, `Fake(faults=)`."""

    def onnx(name: str = "onnx", **options: Any) -> Artifact:
        return _write_onnx(tmp_path / name, **options)

    def bundle(
        *,
        name: str = "bundle",
        target: str = "x86",
        gates: Mapping[str, float] | None = None,
        allow_unmeasured: tuple[str, ...] = (),
        evaluation: Any = "labelled",
        gallery: Any = None,
        golden: list[bytes] | str | None = "golden",
        **options: Any,
    ) -> Path:
        images = _labelled(20) if evaluation == "labelled" else evaluation
        files = [as_png(pixels) for pixels in _golden_pixels()] if golden == "golden" else golden
        artifact = onnx(f"{name}-onnx", **options)
        chosen = TARGETS.get(target)
        out = tmp_path / name
        return write_bundle(
            artifact,
            out,
            target=chosen,
            golden=files,
            gates=gates,
            allow_unmeasured=allow_unmeasured,
            evaluation=images,
            gallery=gallery,
        ).path

    return SimpleNamespace(
        onnx=onnx,
        bundle=bundle,
        labelled=lambda count: list(_labelled(count)),
        Fake=FakeBackend,
        as_png=as_png,
        weights=_weights(),
        contract=CONTRACT,
        golden=[as_png(pixels) for pixels in _golden_pixels()],
        images=_images,
        tmp=tmp_path,
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A latency protocol without waiting; the numbers it gives mean nothing and no test looks at them."""
    unhurried = {"rounds": 4, "warmup_runs": 1, "warmup_s": 0, "warmup_most_s": 0, "settle_runs": 0, "settle_s": 0}

    def fast(*arguments: Any, **options: Any) -> LatencyProtocol:
        return replace(protocol_for(*arguments, **options), **unhurried)

    monkeypatch.setattr(run, "protocol_for", fast)


@pytest.fixture
def no_vendor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without ONNX Runtime, so that the fake backend's fp32 is the reference."""
    monkeypatch.setattr(OnnxRuntimeBackend, "installed", lambda self: False)
