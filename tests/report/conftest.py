"""Reports to look at: a real one of fake backends, dressed up with what only a board shows, and the other kinds."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgemim.artifact import create_artifact, load_artifact
from edgemim.runtime.check import check_bundle
from edgemim.runtime.report.read import SCHEMA_VERSION, read_report
from edgemim.runtime.report.write import put_report
from tests.runtime.conftest import as_npy, no_vendor, quick, world  # noqa: F401  (fixtures)

# Names that a page must survive: longer than a phone is wide, and hostile.
LONG = "int8-attention-and-mlp-without-the-first-and-the-last-block"
HOSTILE = '<script>alert("&")</script>'


def ladder() -> dict[str, Any]:
    """What `edgemim inspect --parity --json` prints, of six blocks."""
    row = {"cosine": 0.9999, "finite": True, "max_abs": 0.1, "aligned_db": 1}
    rows = [row | {"name": f"blocks.{i}", "snr_db": 60.0 - 6 * i} for i in range(6)]
    step = {"name": "int8", "against": "fp32", "departs": False, "least_db": 17.0, "blocks": rows, "output": rows[0]}
    words = "int8 follows fp32 in all 6 blocks, at least 30.0 dB (blocks.5)"
    return {"images": 8, "method": "ONNX Runtime on the CPU", "steps": [step | {"verdict": words}]}


@pytest.fixture
def sensitivity(tmp_path: Path) -> Path:
    """What `edgemim sensitivity` writes, of twenty layers."""
    import json

    damage = {"noise": 0.02, "cosine": 0.99, "agreement": 1.0}
    units = [
        {
            "unit": f"blocks.{i}.mlp.fc1",
            "kind": "fc1",
            "block": f"blocks.{i}",
            "enabled": damage | {"noise": 0.001 * i},
            "disabled": damage | {"noise": 0.02 - 0.0005 * i},
        }
        for i in range(20)
    ]
    found = {"schema_version": 1, "units": units, "placement": "everything", "everything": damage, "images": 8}
    with create_artifact(tmp_path / "sensitivity", "report") as draft:
        draft.path("sensitivity.json").write_text(json.dumps(found))
    return tmp_path / "sensitivity"


@pytest.fixture
def checked(world: SimpleNamespace, quick: None, no_vendor: None) -> Path:  # noqa: F811
    """The folder of a real check, of fake backends: two candidates, flipped images, a missed gate."""
    images = [(data, (label + (i < 3)) % 5) for i, (data, label) in enumerate(world.labelled(40))]
    path = world.bundle(evaluation=images, gates={"top1.max_drop": 0.2, "p99_ms": 1000}, encode=_coarse)
    options = {"backends": [world.Fake()], "seconds": 0, "runs": 700, "cache": world.tmp / "cache"}
    check_bundle(path, world.tmp / "checked", **options)
    return world.tmp / "checked"


def _coarse(weights: np.ndarray) -> bytes:
    """The file of a flavour; INT8 in steps so coarse that some answers change."""
    fine = np.float32(np.abs(weights).max() / 127)
    stepped = np.allclose(weights / fine, np.round(weights / fine), atol=1e-3)
    return as_npy(np.round(weights / (14 * fine)) * (14 * fine) if stepped else weights)


Rewrite = Callable[[Callable[[dict[str, Any], dict[str, Any]], object]], Path]


@pytest.fixture
def rewrite(checked: Path, tmp_path: Path) -> Rewrite:
    """`rewrite(change)` is a copy of the checked report after `change(report, samples)`."""

    def write(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Path:
        report, old = read_report(checked), load_artifact(checked)
        with np.load(checked / "samples.npz") as arrays:
            samples = dict(arrays)
        change(report, samples)
        out = tmp_path / "rewritten"
        with create_artifact(out, "report", overwrite=True) as draft:
            put_report(draft, report, samples)
            for name in old.files:
                if name.startswith("flips/"):
                    draft.path(name).write_bytes(old.file(name).read_bytes())
            draft.provenance = [dict(record) for record in old.provenance]
        return out

    return write


@pytest.fixture
def dressed(rewrite: Rewrite) -> Path:
    """As `checked`, with many candidates, long and hostile names, clocks, heat and power: none of it measured."""
    return rewrite(_dress)


def _dress(report: dict[str, Any], samples: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    fp32, int8 = report["candidates"]
    for number, name in enumerate((LONG, HOSTILE, "int8-third", "int8-fourth"), start=1):
        row = copy.deepcopy(int8)
        row |= {"name": name, "backend": "onnxruntime" if number % 2 else "openvino", "passed": False}
        row["latency"]["p50_ms"] *= 1 + 0.2 * number
        report["candidates"].append(row)
        for part in ("ns", "round", "start_ns"):
            samples[f"{name}@{row['backend']}.{part}"] = samples[f"int8-nncf@fake.{part}"]
    fp32["disqualified"], fp32["latency"] = "its outputs differ from the golden ones " * 8, None
    fp32["passed"], fp32["gates"] = False, []
    for row in report["candidates"]:
        row["power"] = {**(int8["power"] or {}), "energy_mj": 4.2, "mean_w": 5.0, "scope": "the module", "reason": None}
        row["memory"] = {"peak_mb": 120.0, "base_mb": 40.0, "device_mb": None, "device_reason": "none", "reason": None}
    for name in [name for name in samples if name.startswith("environment.")]:
        del samples[name]
    times = np.linspace(0, 2e6, 40).astype(np.int64) + samples["int8-nncf@fake.start_ns"].min()
    samples["environment.start_ns"] = times
    samples["environment.cpu_mhz"] = rng.normal(1500, 20, 40).astype(np.float32)
    for zone in ("cpu-thermal", "gpu-thermal", "soc2-thermal"):
        samples[f"environment.temp.{zone}"] = np.linspace(45, 60, 40, dtype=np.float32)
    samples["environment.others_cpu"] = np.full(40, np.nan, dtype=np.float32)
    report["environment"]["marks"] = ["the CPU clock moved while measuring, between 900 and 1,500 MHz"]
    report["class_names"] = [HOSTILE, *(f"a-class-with-an-unreasonably-long-name-{i}" for i in range(1, 5))]
    report["verdict"] = f"nothing ships: {LONG} on onnxruntime: p99_ms is 9, 1 above its limit 8; " * 3
    report["passed"], report["chosen"], report["chosen_backend"] = False, None, None


@pytest.fixture
def compared(checked: Path, tmp_path: Path) -> Path:
    """A comparison as its schema says, put together by hand from a real check."""
    report = read_report(checked)
    rows = report["candidates"]
    keep = ("precision", "backend", "version", "options", "latency", "accuracy")
    entries = [
        {"label": f"{row['name']} of bundle-{i}", "candidate": row["name"], "bundle": report["bundle"]}
        | {key: row[key] for key in keep}
        for i, row in enumerate(rows)
    ]
    names = [entry["label"] for entry in entries]
    pair = {"a": names[0], "b": names[1], "level": 0.999, "n": 700, "block": 16}
    pairs = [
        pair | {"ratio": 1.002, "low": 0.997, "high": 1.006, "difference": "none"},
        pair | {"ratio": 1.31, "low": 1.28, "high": 1.34, "difference": "slower"},
        pair | {"ratio": 0.9, "low": 0.88, "high": 0.92, "difference": "faster"},
        pair | {"ratio": 1.01, "low": 0.98, "high": 1.06, "difference": "unclear"},
    ]
    top = ("schema_version", "created", "edgemim", "device", "environment", "protocol", "caveats")
    compared = {key: report[key] for key in top} | {
        "kind": "compare",
        "verdict": f"{names[0]} is 1.31x slower than {names[1]}",
        "passed": True,
        "entries": entries,
        "pairs": pairs,
    }
    with np.load(checked / "samples.npz") as arrays:
        samples = {
            f"{name}.{part}": arrays[f"{row['name']}@{row['backend']}.{part}"]
            for name, row in zip(names, rows, strict=True)
            for part in ("ns", "round", "start_ns")
        }
    return _write(tmp_path / "compared", compared, samples)


@pytest.fixture
def swept(checked: Path, tmp_path: Path) -> Path:
    """A sweep as its schema says, put together by hand: some with an accuracy, one that failed."""
    report = read_report(checked)
    entries = [
        {
            "model": f"vit_with_a_long_name_patch16_{i}",
            "source": "checkpoint",
            "input": [224, 224],
            "candidate": "int8-linear",
            "precision": ("fp32", "int8")[i % 2],
            "backend": "openvino",
            "latency": {"n": 700, "p50_ms": 1.0 + i, "p99_ms": 1.5 + i},
            "side_by_side": {"n": 700, "p50_ms": 1.1 + i, "p99_ms": 1.6 + i} if i < 2 else None,
            "group": "top1 of these images" if i < 3 else "top1 of others",
            "marks": [],
            "size_bytes": 10_000_000 * (i + 1),
            "parameters": 5_000_000 * (i + 1),
            "accuracy": {"top1": 0.7 + 0.02 * i, "top1_se": 0.01, "n": 100} if i != 2 else None,
            "accuracy_reason": None if i != 2 else "random weights",
            "error": None,
            "report": None,
        }
        for i in range(5)
    ]
    failed = entries[-1] | {"latency": None, "accuracy": None, "size_bytes": None, "error": "no such operator " * 9}
    top = ("schema_version", "created", "edgemim", "device", "environment", "protocol", "caveats")
    swept = {key: report[key] for key in top} | {
        "kind": "sweep",
        "verdict": "within 4 ms: vit_with_a_long_name_patch16_3",
        "passed": True,
        "target": "x86",
        "budget": {"max_ms": 4.0, "minutes": None},
        "entries": [*entries, failed],
        "front": [0, 1, 3],
    }
    with np.load(checked / "samples.npz") as arrays:
        one = next(name.removesuffix(".round") for name in arrays.files if name.endswith(".round"))
        samples = {
            f"{entry['model']}-224x224.int8-linear@openvino.{part}": arrays[f"{one}.{part}"]
            for entry in entries[:2]
            for part in ("ns", "round", "start_ns")
        }
    return _write(tmp_path / "swept", swept, samples)


@pytest.fixture
def boards(tmp_path: Path) -> Path:
    """A check on two boards, one of which failed."""
    row = {"device": "ssh://me@nano", "folder": "me@nano", "error": None, "passed": True, "exit_code": 0}
    row |= {"board": "Jetson Orin Nano", "verdict": "ship int8 on tensorrt (p50 1.2 ms)", "chosen": "int8"}
    row |= {"chosen_backend": "tensorrt", "p50_ms": 1.2, "p99_ms": 1.4, "top1": 0.81}
    bad = dict.fromkeys(row) | {"device": "ssh://agx", "error": "the board ran out of memory", "passed": False}
    report = {"schema_version": SCHEMA_VERSION, "kind": "boards", "created": "2026-11-21T20:30:35Z", "edgemim": "0.1.0"}
    report |= {"verdict": "1 of 2 boards pass", "passed": False, "exit_code": 3, "bundle": "ab" * 32}
    return _write(tmp_path / "boards", report | {"devices": [row, bad | {"exit_code": 3}]}, None)


def _write(out: Path, report: dict[str, Any], samples: dict[str, Any] | None) -> Path:
    with create_artifact(out, "report") as draft:
        put_report(draft, report, samples)
    return out
