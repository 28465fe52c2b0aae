"""What is exported of a combination, and which of its candidates are measured where TensorRT refuses some of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgemim.errors import EdgemimError
from edgemim.pipeline.sweep import combination as module
from edgemim.pipeline.sweep.combination import run_combination
from edgemim.pipeline.sweep.entries import Result
from edgemim.pipeline.sweep.settings import SweepSettings
from edgemim.runtime.bundle import load_bundle
from edgemim.runtime.plan import make_plan
from tests.runtime.nvidia.machine import fake_machine

KEY = "test_resnet-32"


@pytest.fixture
def run(small_combination: Any, machine: Any, tmp_path: Path) -> Callable[..., tuple[Result, list[Any]]]:
    """`run("jetson-thor", "fp16")`: the result, and the candidates that a check was asked for and really plans."""

    class Planning(machine):  # type: ignore[misc,valid-type]
        def measure(self, bundle: Path, out: Path, settings: Any) -> Mapping[str, Any]:
            plan = make_plan(load_bundle(bundle), None, settings.candidates, self.device)
            self.times = {KEY: {pair.candidate.name: 1.0 for pair in plan.pairs if pair.timed}}
            report: Mapping[str, Any] = super().measure(bundle, out, settings)
            return report

    def start(target: str, *precisions: str) -> tuple[Result, list[Any]]:
        settings = SweepSettings(target=target, backbones=("test_resnet",), precisions=precisions)
        fake = Planning({})
        folder = tmp_path / "work" / KEY
        result = run_combination(
            small_combination(), settings, folder, machine=fake, say=lambda _: None, clock=fake.clock
        )
        return result, fake.candidates

    return start


@pytest.mark.parametrize(
    ("target", "version", "precision", "measured", "left_out"),
    [
        ("jetson-thor", "10.13.3", "fp16", ["fp16"], ""),
        ("jetson-orin-nano", "10.3.0", "fp16", ["fp16"], "fp16-opset17 was left out: it is for TensorRT 8"),
        ("jetson-orin-nano", "8.6.1", "fp16", ["fp16-opset17"], "fp16 was left out: it has opset 20"),
        ("jetson-orin-nano", "10.3.0", "int8", ["int8-conv"], "int8-conv-opset17 was left out: it is for"),
        ("jetson-orin-nano", "8.6.1", "int8", ["int8-conv-opset17"], "int8-conv was left out: it has opset 20"),
    ],
)
def test_of_a_precision_whatever_the_installed_tensorrt_runs_is_measured(
    target: str,
    version: str,
    precision: str,
    measured: list[str],
    left_out: str,
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_machine(monkeypatch, version, SimpleNamespace())
    result, asked = run(target, precision)
    assert [(e["candidate"], e["error"]) for e in result.entries] == [(name, None) for name in measured]
    assert asked == [measured]
    remarks = [line for line in result.caveats if "was left out" in line]
    assert [line[: len(left_out)] for line in remarks] == ([left_out] if left_out else [])


def test_a_precision_of_which_nothing_can_run_is_an_entry_that_says_why(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_machine(monkeypatch, "8.6.1", SimpleNamespace())
    result, asked = run("jetson-thor", "fp32", "fp16")
    fp32, fp16 = result.entries
    assert (fp32["candidate"], fp32["error"]) == ("fp32", None)
    assert (fp16["candidate"], fp16["latency"]) == ("fp16", None)
    assert fp16["error"] == "fp16 cannot run here: it has opset 20, TensorRT 8.6.1 reads up to 17"
    assert asked == [["fp32"]]


@pytest.mark.parametrize(
    ("precisions", "exported"),
    [
        ((), ["int8", "float"]),
        (("fp16", "int8"), ["int8", "float"]),
        (("fp32", "int8-linear"), ["int8", "fp32"]),
        (("int8",), ["int8"]),
        (("fp16",), ["float"]),
        (("fp32",), ["fp32"]),
    ],
)
def test_what_is_exported_holds_every_float_candidate_that_is_asked_for(
    precisions: tuple[str, ...],
    exported: list[str],
    run: Any,
    fake_exports: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []

    def refuse(weights: Path, out: Path, settings: Any, *, say: Any) -> None:
        tried.append(settings.precision)
        raise EdgemimError(f"no {settings.precision}")

    monkeypatch.setattr(module, "make_bundle", refuse)
    result, _ = run("jetson-thor", *precisions)
    assert tried == exported
    assert [entry["error"] for entry in result.entries] == [f"no {exported[-1]}"]
