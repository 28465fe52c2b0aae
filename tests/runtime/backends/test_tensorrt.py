"""`edgemim.runtime.backends.tensorrt`: candidates, cache and whole checks on fakes of every version; no GPU is needed.

What it needs of the real TensorRT-RTX is in tests/runtime/nvidia; what needs a GPU is marked `gpu`.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgemim.artifact import load_artifact
from edgemim.errors import ConfigError, DeviceError, OutputError
from edgemim.runtime.backends import tensorrt
from edgemim.runtime.backends.onnxruntime import OnnxRuntimeBackend
from edgemim.runtime.backends.tensorrt import TensorRtBackend
from edgemim.runtime.bundle import Bundle, load_bundle
from edgemim.runtime.candidates import Candidate
from edgemim.runtime.check import check_bundle
from edgemim.runtime.nvidia import engines
from tests.runtime.nvidia.fake_tensorrt import SUPPORTED
from tests.runtime.nvidia.machine import FakeMachine, fake_machine
from tests.runtime.nvidia.models import linear_model

pytest.importorskip("onnx", reason="needs onnx to make a model")

BACKEND = TensorRtBackend()
# Nothing is probed: the fakes are not there in another process.
BRIEF: dict[str, Any] = {"seconds": 0, "runs": 4, "probe": False}
TYPED = [version for version in SUPPORTED if version != "8.6.1"]
# What an Orin bundle holds: flavour, precision, opset, Q/DQ.
FLAVOURS = (
    ("fp32", "fp32", 17, False),
    ("fp16", "fp16", 20, False),
    ("int8-linear", "int8", 17, True),
    ("int8-linear-fp16", "int8", 20, True),
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeMachine]:
    return lambda version, **gpu: fake_machine(monkeypatch, version, SimpleNamespace(**gpu))


@pytest.fixture
def orin(world: SimpleNamespace) -> Callable[..., Path]:
    """The path of a bundle for an Orin Nano with all flavours; those of opset 20 are float32 inside as well."""

    def make(**options: Any) -> Path:
        def flavours(content: dict[str, Any]) -> None:
            folder = world.tmp / f".{options.get('name', 'bundle')}-onnx"
            (partial,) = folder.parent.glob(f"{folder.name}.*.partial")
            content["flavours"] = []
            for name, precision, opset, qdq in FLAVOURS:
                (partial / f"{name}.onnx").write_bytes(linear_model(world.weights["fp32"], opset=opset, qdq=qdq))
                entry = {"name": name, "precision": precision, "opset": opset, "file": f"{name}.onnx"}
                content["flavours"].append(entry)

        path: Path = world.bundle(target="jetson-orin-nano", change=flavours, **options)
        return path

    return make


def named(bundle: Bundle, name: str) -> Candidate:
    return next(candidate for candidate in bundle.candidates if candidate.name == name)


def runs(bundle: Bundle) -> set[str]:
    return {candidate.name for candidate in bundle.candidates if BACKEND.cannot_run(candidate) is None}


@pytest.mark.parametrize("version", TYPED)
def test_from_10_on_the_files_that_carry_their_types_run(machine: Callable, orin: Callable, version: str) -> None:
    machine(version)
    bundle = load_bundle(orin(evaluation=None))
    assert runs(bundle) == {"fp32", "fp16", "int8-linear"}
    assert "takes the types from the graph" in (BACKEND.cannot_run(named(bundle, "int8-linear-opset17")) or "")


def test_on_8_6_the_files_of_opset_17_run(machine: Callable, orin: Callable) -> None:
    machine("8.6.1")
    bundle = load_bundle(orin(evaluation=None))
    assert runs(bundle) == {"fp32", "fp16-opset17", "int8-linear-opset17"}
    reason = BACKEND.cannot_run(named(bundle, "fp16"))
    assert reason == "it has opset 20, TensorRT 8.6.1 reads up to 17"


def test_8_5_runs_nothing_and_says_why(machine: Callable, orin: Callable, tmp_path: Path) -> None:
    machine("8.5.3")
    path = orin(evaluation=None)
    with pytest.raises(ConfigError, match=r"nothing is left to run on tensorrt: .*TensorRT 8\.5\.3 has no layer norm"):
        check_bundle(path, tmp_path / "report", cache=tmp_path / "cache", backends=["tensorrt"])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("version", SUPPORTED)
def test_a_whole_check_on_every_version(machine: Callable, orin: Callable, tmp_path: Path, version: str) -> None:
    there = machine(version)
    path = orin(gates={"cosine.min": 0.9})
    options: dict[str, Any] = {"cache": tmp_path / "cache", "backends": ["tensorrt"], **BRIEF, "runs": 70}
    report = check_bundle(path, tmp_path / "report", **options)
    rows = {row["name"]: row for row in report["candidates"] if not row["reference_only"]}
    suffix = "-opset17" if version == "8.6.1" else ""
    assert set(rows) == {"fp32", f"fp16{suffix}", f"int8-linear{suffix}"}
    assert report["passed"]
    assert report["chosen_backend"] == "tensorrt"
    for row in rows.values():
        assert row["disqualified"] is None
        # The fake computes for 2.5 ms of its own clock; the copies are not in it.
        assert row["latency"]["device_p50_ms"] == row["latency"]["device_p90_ms"] == 2.5
        assert row["latency"]["device_cv"] == 0
        assert row["session"]["cuda_graph"] is True
        assert row["same_file"]["cosine"] > 0.99
        assert row["options"]["optimization_level"] == 5
        assert row["options"]["flags"] == {
            "fp16-opset17": "FP16",
            "int8-linear-opset17": "FP16 INT8",
        }.get(row["name"], "")
    page = (tmp_path / "report/report.md").read_text()
    assert "on the device p50 ms" in page
    assert there.gpu.live == {}, "all sessions were closed"


@pytest.mark.usefixtures("quick")
def test_the_chosen_engine_is_in_the_report(machine: Callable, orin: Callable, tmp_path: Path) -> None:
    machine("10.3.0")
    path = orin(evaluation=None)
    options: dict[str, Any] = {"cache": tmp_path / "cache", "backends": ["tensorrt"], **BRIEF}
    report = check_bundle(path, tmp_path / "report", candidates=["fp16"], **options)
    artifact = load_artifact(tmp_path / "report", "report")
    assert report["chosen"] == "fp16"
    plan = artifact.file("engine/model.plan").read_bytes()
    assert json.loads(plan.partition(b"\n")[0]) == {"version": "10.3.0", "gpu": "Orin"}
    facts = json.loads(artifact.file("engine/engine.json").read_text())["facts"]
    model = load_bundle(path).artifact.files["fp16.onnx"].sha256
    assert (facts["model"], facts["machine"]["library"]) == (model, "TensorRT 10.3.0")


@pytest.mark.usefixtures("quick")
def test_an_engine_that_computes_something_else_is_disqualified(
    machine: Callable, orin: Callable, tmp_path: Path
) -> None:
    machine("10.3.0").trt.behaviour.wrong = True
    options: dict[str, Any] = {"cache": tmp_path / "cache", "backends": ["tensorrt"], **BRIEF}
    report = check_bundle(orin(evaluation=None), tmp_path / "report", **options)
    assert not report["passed"]
    assert not (tmp_path / "report/engine").exists()
    for row in report["candidates"]:
        if not row["reference_only"]:
            assert "its outputs" in row["disqualified"]
            assert row["latency"] is None


@pytest.mark.usefixtures("quick")
def test_int8_that_keeps_to_fp32_but_not_to_onnxruntime_is_disqualified(
    machine: Callable, orin: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quantizing alone may cost a cosine of 0.9 with fp32; on the same file an engine has no such excuse."""
    machine("10.3.0")
    opened = BACKEND.open
    monkeypatch.setattr(TensorRtBackend, "open", lambda self, engine: Noisy(opened(engine)))
    options: dict[str, Any] = {"cache": tmp_path / "cache", "backends": ["tensorrt"], **BRIEF}
    report = check_bundle(orin(evaluation=None), tmp_path / "report", candidates=["int8-linear"], **options)
    row = next(row for row in report["candidates"] if row["name"] == "int8-linear")
    assert 0.9 < row["golden"]["cosine"] < 0.98
    assert "with those of ONNX Runtime for the same file is 0.9" in row["disqualified"]


class Noisy:
    """A session whose outputs are off by a third of their length, at a right angle."""

    device_ms = None

    def __init__(self, session: Any) -> None:
        self.session, self.facts, self.close = session, session.facts, session.close

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        logits = self.session.run(inputs)["logits"]
        noise = np.random.default_rng(0).normal(size=logits.shape).astype(np.float32)
        noise -= logits * (noise * logits).sum() / (logits * logits).sum()
        return {"logits": logits + noise * np.float32(np.linalg.norm(logits) / np.linalg.norm(noise) / 3)}


@pytest.mark.usefixtures("quick")
def test_without_onnxruntime_the_report_says_what_was_not_compared(
    machine: Callable, orin: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("10.3.0")
    monkeypatch.setattr(OnnxRuntimeBackend, "installed", lambda self: False)
    options: dict[str, Any] = {"cache": tmp_path / "cache", **BRIEF}
    report = check_bundle(orin(evaluation=None), tmp_path / "report", **options)
    assert report["reference"] == "fp32 on tensorrt"
    assert any("fp16 on tensorrt was compared with the golden outputs alone" in c for c in report["caveats"])


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("gpu", "expected"), [({}, False), ({"name": "Thor", "capability": (11, 0)}, True)])
def test_another_gpu_than_the_target_s_and_a_missing_graph_are_caveats(
    machine: Callable, orin: Callable, tmp_path: Path, gpu: dict[str, Any], expected: bool
) -> None:
    machine("10.3.0", **gpu).trt.behaviour.capture = not expected
    options: dict[str, Any] = {"cache": tmp_path / "cache", "backends": ["tensorrt"], **BRIEF}
    report = check_bundle(orin(evaluation=None), tmp_path / "report", candidates=["fp16"], **options)
    text = "\n".join(report["caveats"])
    assert ("GPUs of compute capability 8.7; this one is 11.0" in text) is expected
    assert ("fp16 on tensorrt runs without a CUDA graph" in text) is expected


@pytest.mark.usefixtures("quick")
def test_a_candidate_that_does_not_build_leaves_the_others_in(
    machine: Callable, orin: Callable, tmp_path: Path
) -> None:
    there = machine("10.3.0")
    original = there.trt.Builder.build_serialized_network

    def build(self: Any, network: Any, config: Any) -> Any:
        qdq = any(node.op_type == "QuantizeLinear" for node in network._onnx.graph.node)
        there.trt.behaviour.build = "out of memory" if qdq else None
        return original(self, network, config)

    there.trt.Builder.build_serialized_network = build
    options: dict[str, Any] = {"cache": tmp_path / "cache", "backends": ["tensorrt"], **BRIEF}
    report = check_bundle(orin(evaluation=None), tmp_path / "report", **options)
    rows = {row["name"]: row for row in report["candidates"]}
    assert report["passed"]
    assert "the memory ran out (4096 MiB were free)" in rows["int8-linear"]["disqualified"]


def compiled(bundle: Bundle, cache: Path, name: str = "fp16") -> Any:
    return BACKEND.compile(bundle, named(bundle, name), cache, 1)


def test_an_engine_is_built_once(machine: Callable, orin: Callable, tmp_path: Path) -> None:
    trt = machine("10.3.0").trt
    bundle = load_bundle(orin(evaluation=None))
    first, second = (compiled(bundle, tmp_path) for _ in range(2))
    assert (first.cached, second.cached, len(trt.built)) == (False, True, 1)
    assert first.file == second.file
    assert first.compile_s == second.compile_s
    assert first.folder is not None
    facts = json.loads((first.folder / "engine.json").read_text())["facts"]
    assert facts["machine"] | {"board": None} == {
        "library": "TensorRT 10.3.0",
        "gpu": "Orin",
        "compute_capability": "8.7",
        "multiprocessors": 8,
        "board": None,
        "l4t": None,
        "power_mode": None,
    }


@pytest.mark.parametrize(
    ("version", "gpu"),
    [
        ("10.13.3", {}),
        ("10.3.0", {"name": "Thor"}),
        ("10.3.0", {"sms": 16}),
        ("10.3.0", {"capability": (8, 6)}),
    ],
    ids=["version", "name", "multiprocessors", "compute capability"],
)
def test_another_library_or_gpu_builds_its_own(
    machine: Callable, orin: Callable, tmp_path: Path, version: str, gpu: dict[str, Any]
) -> None:
    machine("10.3.0")
    bundle = load_bundle(orin(evaluation=None))
    first = compiled(bundle, tmp_path)
    there = machine(version, **gpu)
    second = compiled(bundle, tmp_path)
    assert second.folder != first.folder
    assert (second.cached, len(there.trt.built)) == (False, 1)
    BACKEND.open(second).close()


@pytest.mark.parametrize("fact", ["l4t", "power_mode", "board"])
def test_another_release_power_mode_or_board_builds_its_own(
    machine: Callable, orin: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fact: str
) -> None:
    machine("10.3.0")
    bundle = load_bundle(orin(evaluation=None))
    first = compiled(bundle, tmp_path)
    plain = engines.describe_device()
    monkeypatch.setattr(engines, "describe_device", lambda root: replace(plain, **{fact: "another"}))
    assert compiled(bundle, tmp_path).folder != first.folder


def test_another_model_or_setting_builds_its_own(machine: Callable, orin: Callable, tmp_path: Path) -> None:
    machine("10.3.0")
    bundle = load_bundle(orin(evaluation=None))
    folders = {compiled(bundle, tmp_path, name).folder for name in ("fp32", "fp16", "int8-linear")}
    quick = replace(named(bundle, "fp16"), options={"optimization_level": 0})
    folders.add(BACKEND.compile(bundle, quick, tmp_path, 1).folder)
    assert len(folders) == 4


def test_an_unknown_setting_of_a_candidate_is_refused(machine: Callable, orin: Callable, tmp_path: Path) -> None:
    machine("10.3.0")
    bundle = load_bundle(orin(evaluation=None))
    with pytest.raises(ConfigError, match=r"'fp16' has settings that tensorrt does not know: \['tf32'\]"):
        BACKEND.compile(bundle, replace(named(bundle, "fp16"), options={"tf32": True}), tmp_path, 1)


@pytest.mark.parametrize(
    ("gpu", "builds"), [({"capability": (8, 9)}, 0), ({"capability": (9, 0)}, 1)], ids=["has code", "has none"]
)
def test_an_engine_that_came_with_the_bundle_is_taken_where_it_has_code_for_the_gpu(
    machine: Callable, orin: Callable, tmp_path: Path, gpu: dict[str, Any], builds: int
) -> None:
    there = machine("rtx-1.7", **gpu)
    bundle = load_bundle(orin(evaluation=None))
    own = compiled(bundle, tmp_path / "own")
    there.trt.built.clear()
    model = bundle.artifact.files["fp16.onnx"]
    engine = {"candidate": "fp16", "file": "golden/inputs.npy", "model": "fp16.onnx", "model_sha256": model.sha256}
    engine |= {"built_with": "TensorRT-RTX 1.7", "compute_capabilities": ["8.6", "8.9"]}
    # Any file of the bundle does: it is what lies in the cache afterwards, byte by byte.
    artifact = replace(bundle.artifact, content={**bundle.artifact.content, "engines": [engine]})
    taken = compiled(replace(bundle, artifact=artifact), tmp_path / "cache")
    assert len(there.trt.built) == builds
    source = own.file if builds else bundle.artifact.file("golden/inputs.npy")
    assert taken.file.read_bytes() == source.read_bytes()


def test_a_damaged_engine_is_built_again(machine: Callable, orin: Callable, tmp_path: Path) -> None:
    trt = machine("10.3.0").trt
    bundle = load_bundle(orin(evaluation=None))
    engine = compiled(bundle, tmp_path)
    engine.file.write_bytes(engine.file.read_bytes()[:-1])
    assert not compiled(bundle, tmp_path).cached
    assert len(trt.built) == 2


def test_timings_are_shared_by_all_engines_of_one_machine(machine: Callable, orin: Callable, tmp_path: Path) -> None:
    machine("10.3.0")
    bundle = load_bundle(orin(evaluation=None))
    for name in ("fp32", "fp16"):
        compiled(bundle, tmp_path, name)
    (file,) = (tmp_path / "tensorrt/timings").iterdir()
    assert file.read_bytes() == b"timings of 10.3.0, 2 builds"
    machine("10.3.0", sms=16)
    compiled(bundle, tmp_path)
    assert len(list((tmp_path / "tensorrt/timings").iterdir())) == 2


@pytest.mark.usefixtures("quick")
def test_rebuild_builds_again_and_times_anew(machine: Callable, orin: Callable, tmp_path: Path) -> None:
    trt = machine("10.3.0").trt
    given: list[bytes] = []
    create = trt.IBuilderConfig.create_timing_cache
    trt.IBuilderConfig.create_timing_cache = lambda self, blob: given.append(blob) or create(self, blob)
    path = orin(evaluation=None)
    options: dict[str, Any] = {"cache": tmp_path / "cache", "backends": ["tensorrt"], **BRIEF}

    def rows(**more: Any) -> list[bool]:
        report = check_bundle(path, tmp_path / "report", candidates=["fp32", "fp16"], overwrite=True, **options, **more)
        return [row["compiled_before"] for row in report["candidates"] if not row["reference_only"]]

    assert rows() == [False, False]
    assert rows() == [True, True]
    assert len(trt.built) == 2
    assert rows(rebuild=True) == [False, False]
    assert len(trt.built) == 4
    # The first of them found no timings, the second those of the first.
    assert given[2:] == [b"", b"timings of 10.3.0, 3 builds"]


def test_an_engine_of_another_version_in_its_place_is_refused_with_the_cure(
    machine: Callable, orin: Callable, tmp_path: Path
) -> None:
    machine("10.3.0")
    bundle = load_bundle(orin(evaluation=None))
    engine = compiled(bundle, tmp_path)
    machine("10.13.3")
    with pytest.raises(DeviceError, match=r"TensorRT 10\.13\.3 does not take it; check with --rebuild"):
        BACKEND.open(engine)


@pytest.mark.parametrize("version", ["10.3.0", "rtx-1.7"])
def test_where_no_gpu_can_be_used_it_is_not_available(
    machine: Callable, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(version, gpus=0)
    assert BACKEND.installed()
    assert "there is no NVIDIA GPU that this process can use: cudaGetDeviceCount" in (BACKEND.available() or "")


def test_a_disk_that_is_full_is_told(
    machine: Callable, orin: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("10.3.0")
    bundle = load_bundle(orin(evaluation=None))

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(tensorrt, "write_bytes", full)
    with pytest.raises(OutputError, match="the disk is full; free some space or set XDG_CACHE_HOME"):
        compiled(bundle, tmp_path)
