"""What is special to edgemim's own quantizer: notes on the ranges, and calibration that goes on."""

from __future__ import annotations

import json

import pytest

from edgemim.quantize.calibration import choose_calibration
from edgemim.quantize.quantizers.ptq import PTQ
from edgemim.quantize.statistics import saturation
from edgemim.runtime.targets import TARGETS

X86 = TARGETS.get("x86")


@pytest.fixture(scope="module")
def calibration(noise_images, preprocess):
    return choose_calibration(noise_images(50), preprocess, count=40)


def test_ranges_that_cut_off_much_are_told_and_recorded(attention_artifact, calibration, tmp_path, monkeypatch):
    monkeypatch.setattr(saturation, "HIGH_SATURATION", 0.0)  # anything is much
    said: list[str] = []
    quantizer = PTQ(placements=("linear",), ranges="percentile")
    artifact = quantizer.quantize(attention_artifact, calibration, tmp_path / "int8", target=X86, say=said.append)
    (note,) = said
    assert note.startswith("saturation is high: ")
    record = json.loads(artifact.file("calibration.json").read_text("utf-8"))
    assert record["notes"] == [*calibration.notes, note]
    assert artifact.provenance[-1]["calibration"]["notes"] == record["notes"]


def test_ranges_that_hold_everything_are_nothing_to_speak_of(attention_artifact, calibration, tmp_path):
    said: list[str] = []
    PTQ(ranges="max").prepare(attention_artifact, calibration, X86, say=said.append)
    assert said == []


def test_a_calibration_that_was_stopped_goes_on_and_gives_the_same(attention_artifact, calibration, tmp_path):
    state, quantizer = tmp_path / "state.npz", PTQ(workers=1)

    def stop(done: int, total: int) -> None:
        if done == 35:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantizer.prepare(attention_artifact, calibration, X86, state=state, progress=stop)
    seen: list[tuple[int, int]] = []
    again = quantizer.prepare(
        attention_artifact, calibration, X86, state=state, progress=lambda *done: seen.append(done)
    )
    assert seen == [(done, 40) for done in range(33, 41)]  # it is kept every 32 images
    fresh = quantizer.prepare(attention_artifact, calibration, X86)
    assert again.measured == fresh.measured
    assert again.recipes == fresh.recipes


def test_a_state_of_another_model_is_told_of(attention_artifact, calibration, tmp_path):
    state, said = tmp_path / "state.npz", list[str]()
    PTQ(placements=("linear",), ranges="max").prepare(attention_artifact, calibration, X86, state=state)
    other = PTQ(placements=("everything",), ranges="max")
    other.prepare(attention_artifact, calibration, X86, state=state, say=said.append)
    assert said == [f"{state} held statistics of other tensors; they were collected anew"]
