"""Sweeps in which everything is real but the length of a measurement."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgemim.artifact import load_artifact
from edgemim.pipeline.sweep.run import run_sweep
from edgemim.pipeline.sweep.settings import SweepSettings
from edgemim.runtime.report.read import read_report

BRIEF: dict[str, Any] = {"target": "x86", "runs": 5, "seconds": 0.01, "threads": 1}


def test_random_weights_get_latencies_and_no_accuracy(tmp_path: Path) -> None:
    settings = SweepSettings(**BRIEF, backbones=("test_resnet",), sizes=(32,), precisions=("fp32",), max_ms=1000.0)
    said: list[str] = []
    report = run_sweep(settings, tmp_path / "sweep", say=said.append)
    assert {(e["candidate"], e["backend"]) for e in report["entries"]} == {
        ("fp32", "openvino"),
        ("fp32", "onnxruntime"),
    }
    for entry in report["entries"]:
        assert entry["latency"]["n"] >= 5
        assert (entry["accuracy"], entry["accuracy_reason"], entry["error"]) == (None, "random weights", None)
        assert entry["fits"]
        own = read_report(tmp_path / "sweep" / entry["report"])
        assert entry["latency"]["p50_ms"] in [row["latency"]["p50_ms"] for row in own["candidates"] if row["latency"]]
    assert report["verdict"].startswith("within 1000 ms: test_resnet fp32 on ")
    assert said[0] == "[1/1] test_resnet at 32"
    assert load_artifact(tmp_path / "sweep", "report").content["kind"] == "sweep"
    assert not (tmp_path / "sweep" / "work" / "engines").exists()


@pytest.mark.slow
def test_a_checkpoint_is_compared_with_random_backbones_in_int8(classifier: Path, tmp_path: Path) -> None:
    settings = SweepSettings(**BRIEF, checkpoints=(classifier,), backbones=("test_vit", "test_resnet"), sizes=(32, 64))
    report = run_sweep(settings, tmp_path / "sweep", say=lambda _: None)
    entries = report["entries"]
    assert [e["error"] for e in entries if e["error"]] == []
    own = [e for e in entries if e["source"] == "checkpoint"]
    assert {(e["input"][0], e["precision"]) for e in own} >= {(32, "fp32"), (32, "int8"), (64, "fp32"), (64, "int8")}
    assert all(0 <= e["accuracy"]["top1"] <= 1 for e in own)
    assert {e["evaluation"]["sha256"] for e in own} == {own[0]["evaluation"]["sha256"]}
    others = [e for e in entries if e["source"] == "random weights"]
    assert {e["accuracy_reason"] for e in others} == {"random weights"}
    assert {e["calibration"] for e in others if e["precision"] == "int8"} == {"random:16"}
    finals = [e for e in entries if e["finalist"]]
    assert len(finals) >= 2
    assert all(e["side_by_side"]["n"] >= 5 for e in finals)
    assert report["environment"]["before"]
    (resized,) = (line for line in report["caveats"] if line.startswith("not measured at the size it was trained for"))
    assert "classifier" in resized
    bundles = {path.parent.name for path in (tmp_path / "sweep" / "work").glob("*/bundle")}
    assert bundles
    assert all(name.startswith("classifier") for name in bundles)


KILLED = """
import os, signal, sys
from pathlib import Path
from edgemim.pipeline.sweep import measure
from edgemim.pipeline.sweep.run import run_sweep
from edgemim.pipeline.sweep.settings import SweepSettings

real, where = measure.check_bundle, sys.argv[2]

def kill(bundle, out, **settings):
    if where == "after" or "64" in str(out):
        if where == "after":
            real(bundle, out, **settings)
        os.kill(os.getpid(), signal.SIGKILL)
    return real(bundle, out, **settings)

measure.check_bundle = kill
settings = SweepSettings(target="x86", backbones=("test_resnet",), sizes=(32, 64), precisions=("fp32",), runs=5,
                         seconds=0.01, threads=1)
run_sweep(settings, Path(sys.argv[1]), say=print)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("where", "kept"), [("before", "result.json"), ("after", "report")])
def test_a_killed_sweep_goes_on_behind_what_was_whole(where: str, kept: str, tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    done = subprocess.run([sys.executable, "-c", KILLED, str(out), where], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    first = out / "work" / "test_resnet-32"
    assert (first / kept).exists()
    before = {path: path.read_bytes() for path in (first / "report").rglob("*.json")}
    settings = SweepSettings(**BRIEF, backbones=("test_resnet",), sizes=(32, 64), precisions=("fp32",))
    report = run_sweep(settings, out, resume=True, say=lambda _: None)
    assert len(report["entries"]) == 4
    assert all(path.read_bytes() == content for path, content in before.items())
    assert json.loads((out / "report.json").read_text())["entries"] == report["entries"]
