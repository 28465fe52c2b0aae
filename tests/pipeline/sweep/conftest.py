"""A sweep whose exports are fake bundles, and a fake machine that measures what it was told."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemim.artifact import create_artifact, load_artifact
from edgemim.pipeline.make_bundle import BundleSettings
from edgemim.pipeline.sweep import combination
from edgemim.pipeline.sweep.combinations import Combination
from edgemim.pipeline.sweep.measure import Finalist, FinalMeasured
from edgemim.pipeline.sweep.run import run_sweep
from edgemim.pipeline.sweep.settings import SweepSettings
from edgemim.runtime.device import Device, describe_device
from edgemim.runtime.latency.summary import Samples
from edgemim.runtime.report.read import SCHEMA_VERSION


@pytest.fixture(scope="session")
def small_combination() -> Callable[..., Combination]:
    """`small_combination("test_vit", 32)`: a timm backbone with random weights, whose own size is 160."""

    def make(name: str = "test_resnet", side: int = 32, **facts: Any) -> Combination:
        values: dict[str, Any] = {
            "model": name,
            "source": "random weights",
            "architecture": name,
            "arguments": {},
            "size": (side, side),
            "own_size": (160, 160),
            "parameters": 1000,
        }
        return Combination(**{**values, **facts})

    return make


@pytest.fixture(scope="session")
def fake_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle as far as a sweep looks into one."""
    out = tmp_path_factory.mktemp("fake") / "bundle"
    with create_artifact(out, "bundle") as draft:
        draft.path("fp32.onnx").write_bytes(b"no graph")
        file = {"file": "fp32.onnx", "opset": 17, "size_bytes": 8}
        draft.content["candidates"] = [
            {"name": "fp32", "precision": "fp32", "needs": None, **file},
            {"name": "int8-linear", "precision": "int8", "needs": None, **file},
            {"name": "int8-linear-bf16", "precision": "int8", "needs": "bf16", **file},
        ]
    return out


@dataclass
class FakeMachine:
    """Measures nothing: p50 in milliseconds by combination, candidate and backend; counts what it was asked.

    Attributes:
        fail: By combination, what its measurement raises.
        seconds: Of the fake clock, that a combination takes.
    """

    times: Mapping[str, Mapping[str, float]]
    fail: dict[str, BaseException] = field(default_factory=dict)
    finals_fail: BaseException | None = None
    seconds: float = 10.0
    now: float = 0.0
    measured: Counter[str] = field(default_factory=Counter)
    candidates: list[Any] = field(default_factory=list)
    finals: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def device(self) -> Device:
        return replace(describe_device(), isa=("avx2",), isa_cap=None)

    def clock(self) -> float:
        return self.now

    def measure(self, bundle: Path, out: Path, settings: Any) -> Mapping[str, Any]:
        key = out.parent.name
        assert load_artifact(bundle, "bundle")
        self.measured[key] += 1
        self.candidates.append(settings.candidates)
        self.now += self.seconds
        if key in self.fail:
            raise self.fail[key]
        rows = [self.row(name, time) for name, time in self.times[key].items()]
        report = {
            "schema_version": SCHEMA_VERSION,
            "kind": "bench",
            "bundle": {"parameters": 1000, "evaluation": None},
            # What is about the machine, and what a busy minute leaves on one measurement.
            "caveats": ["fake", f"the machine was busy while measuring: other processes took {self.measured.total()}%"],
            "environment": {"marks": [f"busy {self.measured.total()}"]},
            "candidates": rows,
        }
        with create_artifact(out, "report", overwrite=True) as draft:
            draft.path("report.json").write_text(json.dumps(report))
        return report

    def row(self, name: str, time: float) -> dict[str, Any]:
        latency = dict.fromkeys(("p90_ms", "p99_ms"))
        latency |= {"n": 9, "p50_ms": time, "mean_ms": time, "max_ms": time, "cv": 0.0, "stable": True}
        return {
            "name": name,
            "precision": name.split("-")[0],
            "backend": "onnxruntime",
            "version": "1",
            "size_bytes": 4000,
            "latency": latency,
            "accuracy": None,
            "disqualified": None,
            "reference_only": False,
        }

    def final(self, finalists: Sequence[Finalist], protocol: Any, threads: int) -> FinalMeasured:
        if self.finals_fail is not None:
            raise self.finals_fail
        for finalist in finalists:
            assert load_artifact(finalist.bundle, "bundle")
        self.finals.append(tuple(finalist.label for finalist in finalists))
        samples = {}
        for finalist in finalists:
            time = self.times[finalist.bundle.parent.name][finalist.candidate]
            # On a slower minute than before: everything takes twice as long.
            samples[finalist.label] = Samples(
                nanoseconds=np.full(8, int(2e6 * time)),
                rounds=np.repeat(np.arange(4, dtype=np.int32), 2),
                warmup_runs=1,
                start_ns=np.arange(8) + 100,
            )
        return FinalMeasured(samples=samples, origin_ns=100)

    @contextmanager
    def alone(self) -> Iterator[None]:
        yield


@pytest.fixture
def machine() -> type[FakeMachine]:
    return FakeMachine


@pytest.fixture
def fake_exports(monkeypatch: pytest.MonkeyPatch, fake_bundle: Path) -> Counter[str]:
    """No weights are made, and every export gives the fake bundle; how often each combination was exported."""
    exported: Counter[str] = Counter()

    def fake_make_bundle(weights: Path, out: Path, settings: BundleSettings, *, say: Any) -> None:
        exported[out.parent.name] += 1
        shutil.copytree(fake_bundle, out)

    monkeypatch.setattr(combination, "weights_of", lambda _, folder: folder)
    monkeypatch.setattr(combination, "make_bundle", fake_make_bundle)
    return exported


@pytest.fixture
def sweep(tmp_path: Path, fake_exports: Counter[str]) -> Callable[..., dict[str, Any]]:
    """`sweep(machine, sizes=(32, 64), resume=True)`: `test_resnet` on a fake machine, in `tmp_path / "sweep"`."""

    def run(machine: FakeMachine, *, resume: bool = False, **values: Any) -> dict[str, Any]:
        settings = SweepSettings(**{"target": "x86", "backbones": ("test_resnet",), "sizes": (32, 64, 96), **values})
        said: list[str] = values.get("said", [])
        return run_sweep(
            settings,
            tmp_path / "sweep",
            resume=resume,
            say=said.append,
            clock=machine.clock,
            machine=lambda *_: machine,  # type: ignore[arg-type,return-value]
        )

    return run
