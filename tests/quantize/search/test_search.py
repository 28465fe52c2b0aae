"""A whole search on the small attention model: real calibration, real engines, real rounds."""

from __future__ import annotations

import dataclasses

import pytest

from edgemim.artifact import create_artifact, load_artifact
from edgemim.quantize.calibration import choose_calibration
from edgemim.quantize.quantizers.ptq import PTQ
from edgemim.quantize.search.rounds import Bench, Round
from edgemim.quantize.search.search import search
from edgemim.runtime.candidates import make_candidates
from edgemim.runtime.targets import TARGETS


@pytest.fixture
def batches(noise_images, preprocess):
    return choose_calibration(noise_images(50), preprocess, count=16)


@pytest.fixture
def bench(noise_images, tmp_path):
    images = noise_images(12)
    return Bench(
        target=TARGETS.get("x86"),
        gates={"cosine.min": 0.5},
        evaluation=lambda: [(images.encoded(i), None) for i in range(len(images))],
        gallery=None,
        folder=tmp_path / "scratch",
        threads=1,
        seconds=0.01,
        runs=1,
    )


def _search(attention_artifact, batches, bench, out, minutes=10.0, placements=(), **settings):
    said: list[str] = []
    quantizer = PTQ(workers=1, placements=placements)
    found = search(
        attention_artifact, out, batches, quantizer, bench, minutes=minutes, say=said.append, progress=None, **settings
    )
    return found, said


def test_it_measures_float_and_int8_and_writes_what_is_worth_shipping(attention_artifact, batches, bench, tmp_path):
    found, said = _search(attention_artifact, batches, bench, tmp_path / "out")
    names = {row["name"] for row in found.rows}
    assert {"fp32", "int8-linear", "int8-attention"} <= names
    assert found.tried == len(found.rows)
    flavours = {flavour["name"] for flavour in load_artifact(tmp_path / "out", "onnx").content["flavours"]}
    # The plain placements always travel: another machine may like them.
    assert {"fp32", "int8-linear", "int8-attention"} <= flavours
    assert all(row["latency"] is not None for row in found.front)
    assert any("measured" in line for line in said)


def test_a_search_that_goes_on_measures_no_round_twice(attention_artifact, batches, bench, tmp_path):
    first, _ = _search(attention_artifact, batches, bench, tmp_path / "one")
    again, said = _search(attention_artifact, batches, bench, tmp_path / "two")
    assert again.rows == first.rows
    assert all("earlier call" in line for line in said if line.startswith("measured"))


def test_a_search_that_goes_on_measures_what_it_is_given_now(
    attention_artifact, batches, bench, noise_images, tmp_path
):
    _search(attention_artifact, batches, bench, tmp_path / "one")
    images = noise_images(7)
    other = dataclasses.replace(
        bench, gates={"cosine.min": 0.25}, evaluation=lambda: [(images.encoded(i), None) for i in range(len(images))]
    )
    found, _ = _search(attention_artifact, batches, other, tmp_path / "two")
    rows = [row for row in found.rows if row["accuracy"] is not None]
    assert {gate["limit"] for row in rows for gate in row["gates"]} == {0.25}
    assert {row["accuracy"]["n"] for row in rows} == {7}


def _both_flavours(artifact, folder):
    """Two float flavours, as a target of NVIDIA has them; for what is asked here the second may be the same graph."""
    with create_artifact(folder, "onnx") as draft:
        draft.copy_from(artifact)
        draft.path("fp16.onnx").write_bytes(artifact.file("fp32.onnx").read_bytes())
        half = {"name": "fp16", "precision": "fp16", "opset": 20, "file": "fp16.onnx"}
        draft.content = {**artifact.content, "flavours": [*artifact.content["flavours"], half]}
        draft.record("export")
    return load_artifact(folder, "onnx")


def test_mixes_are_tried_where_only_their_fp16_twins_run(attention_artifact, batches, bench, tmp_path, monkeypatch):
    rtx = TARGETS.get("rtx")

    def measure(bench, onnx, progress):
        """A GPU on which INT8 is fast and wrong, and a mix in between."""
        rows = []
        for candidate in make_candidates(onnx, rtx):
            mixed = "-less" in candidate.name
            ms, top1 = (2.0, 0.8) if mixed else (1.0, 0.5) if candidate.precision == "int8" else (3.0, 0.9)
            row = {"name": candidate.name, "precision": candidate.precision, "file": candidate.file}
            measured = {"latency": {"p50_ms": ms}, "accuracy": {"top1": top1}, "passed": top1 > 0.5}
            rows.append({**row, **measured, "backend": "tensorrt", "reference_only": False})
        return Round(report={"candidates": rows}, seconds=1.0, kept=False)

    monkeypatch.setattr("edgemim.quantize.search.search.measure_round", measure)
    source = _both_flavours(attention_artifact, tmp_path / "both")
    found, _ = _search(source, batches, dataclasses.replace(bench, target=rtx), tmp_path / "out")
    mixed = {row["file"] for row in found.rows if "-less" in row["name"]}
    assert "int8-linear-less1-fp16.onnx" in mixed
    # What is on the front is shipped.
    front = {row["file"] for row in found.front}
    assert front & mixed
    assert front <= {flavour["file"] for flavour in found.artifact.content["flavours"]}


@pytest.mark.parametrize(("minutes", "tried"), [(0.4, 2), (0.25, 1), (0.15, 0)])
def test_a_round_is_as_long_as_its_rows(attention_artifact, batches, bench, tmp_path, monkeypatch, minutes, tried):
    x86 = TARGETS.get("x86")
    rounds = []

    def measure(bench, onnx, progress):
        """Two seconds a row; fast and outside the budget, so that units are given back."""
        rows = [
            {"name": c.name, "precision": c.precision, "file": c.file, "backend": backend, "reference_only": False}
            | {"latency": {"p50_ms": 1.0 if c.precision == "int8" else 3.0}, "accuracy": {"top1": 0.5}}
            | {"passed": c.precision != "int8"}
            for c in make_candidates(onnx, x86)
            for backend in ([c.backend] if c.backend else ["openvino", "onnxruntime"])
        ]
        rounds.append(rows)
        return Round(report={"candidates": rows}, seconds=2.0 * len(rows), kept=False)

    monkeypatch.setattr("edgemim.quantize.search.search.measure_round", measure)
    found, _ = _search(
        attention_artifact,
        batches,
        bench,
        tmp_path / "out",
        minutes=minutes,
        placements=("linear",),
        clock=lambda: 0.0,
    )
    # A mix is three rows here, and three of float are measured beside: of 24 s 18 are left for two mixes of 6 s.
    first = next(iter(rounds[1:]), [])
    assert len({row["file"] for row in first if "-less" in row["file"]}) == tried
    assert any("minutes are over" in note for note in found.notes) == (tried < 2)


@pytest.mark.slow
def test_units_are_given_back_where_the_budget_is_missed(attention_artifact, batches, bench, tmp_path, monkeypatch):
    # How fast INT8 is here is not the question of this test.
    monkeypatch.setattr("edgemim.quantize.search.search.hopeless", lambda rows: None)
    tight = dataclasses.replace(bench, gates={"cosine.min": 1.0, "p50_ms": 1e-6})
    found, _ = _search(attention_artifact, batches, tight, tmp_path / "out")
    names = {row["name"] for row in found.rows}
    assert {"int8-linear-less1", "int8-attention-less1"} <= names
    assert set(found.sensitivity) == {"linear", "attention"}


@pytest.mark.slow
def test_the_time_that_is_left_limits_the_rounds(attention_artifact, batches, bench, tmp_path, monkeypatch):
    monkeypatch.setattr("edgemim.quantize.search.search.hopeless", lambda rows: None)
    tight = dataclasses.replace(bench, gates={"cosine.min": 1.0, "p50_ms": 1e-6})
    found, _ = _search(attention_artifact, batches, tight, tmp_path / "out", minutes=0.0)
    assert not any("less" in row["name"] for row in found.rows)
    assert any("minutes are over" in note for note in found.notes)
