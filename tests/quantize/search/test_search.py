"""A whole search on the small attention model: real calibration, real engines, real rounds."""

from __future__ import annotations

import dataclasses

import pytest

from edgemim.artifact import load_artifact
from edgemim.quantize.calibration import choose_calibration
from edgemim.quantize.quantizers.ptq import PTQ
from edgemim.quantize.search.rounds import Bench
from edgemim.quantize.search.search import search
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


def _search(attention_artifact, batches, bench, out, minutes=10.0):
    said: list[str] = []
    found = search(
        attention_artifact, out, batches, PTQ(workers=1), bench, minutes=minutes, say=said.append, progress=None
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
