"""A sweep from beginning to end: what is tried, kept, left out and reported, on a fake machine and a fake clock."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemim.artifact import load_artifact
from edgemim.errors import ConfigError, DeviceError, EdgemimError, OutputError, TrainingError
from edgemim.pipeline.sweep import run as run_module
from edgemim.runtime.backends.onnxruntime import OnnxRuntimeBackend
from edgemim.runtime.device import describe_device
from edgemim.runtime.report.read import read_report

# All three are on the front: more pixels take more time.
TIMES = {f"test_resnet-{side}": {"fp32": ms} for side, ms in ((32, 1.0), (64, 2.0), (96, 4.0))}
KEYS = list(TIMES)


def test_every_combination_is_measured_once_and_the_front_once_more(machine: Any, sweep: Any, tmp_path: Path) -> None:
    fake = machine(TIMES)
    report = sweep(fake, max_ms=5.0)
    assert fake.measured == Counter(KEYS)
    assert fake.finals == [tuple(f"{i} test_resnet fp32 on onnxruntime" for i in range(3))]
    assert [(e["input"], e["latency"]["p50_ms"], e["side_by_side"]["p50_ms"]) for e in report["entries"]] == [
        ([32, 32], 1.0, 2.0),
        ([64, 64], 2.0, 4.0),
        ([96, 96], 4.0, 8.0),
    ]
    # The number side by side counts: 8 ms do not fit any more.
    assert report["front"] == [0, 1, 2]
    assert report["fits"] == [1, 0]
    assert [e["fits"] for e in report["entries"]] == [True, True, False]
    assert report["verdict"] == (
        "within 5 ms: test_resnet at 64 fp32 on onnxruntime 4 ms, test_resnet at 32 fp32 on onnxruntime 2 ms"
    )
    assert (report["kind"], report["passed"], report["left_out"]) == ("sweep", True, [])
    assert read_report(tmp_path / "sweep") == report


def test_what_is_not_known_is_null_with_a_reason(machine: Any, sweep: Any) -> None:
    (entry,) = sweep(machine(TIMES), sizes=(32,))["entries"]
    assert entry["accuracy"] is None
    assert entry["accuracy_reason"] == "random weights"
    assert entry["side_by_side"] is None
    assert entry["fits"] is None
    assert entry["error"] is None


def test_what_a_busy_machine_left_on_the_numbers_is_told(machine: Any, sweep: Any) -> None:
    report = sweep(machine(TIMES))
    assert [entry["marks"] for entry in report["entries"]] == [["busy 1"], ["busy 2"], ["busy 3"]]
    assert "fake" in report["caveats"]
    (busy,) = (line for line in report["caveats"] if "busy" in line)
    assert busy.startswith("in 3 of 3 measurements (test_resnet at 32, test_resnet at 64, test_resnet at 96): ")
    assert "other processes took 1%" in busy


def test_every_run_of_the_final_is_kept(machine: Any, sweep: Any, tmp_path: Path) -> None:
    sweep(machine(TIMES))
    with np.load(tmp_path / "sweep" / "samples.npz") as samples:
        key = "test_resnet-64x64.fp32@onnxruntime"
        assert samples[f"{key}.ns"].tolist() == [4_000_000] * 8
        assert samples[f"{key}.round"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert samples[f"{key}.start_ns"].tolist() == list(range(8))


def test_one_finalist_needs_no_final(machine: Any, sweep: Any, tmp_path: Path) -> None:
    fake = machine(TIMES)
    report = sweep(fake, sizes=(32,))
    assert fake.finals == []
    assert not (tmp_path / "sweep" / "samples.npz").exists()
    assert report["front"] == [0]


def test_nothing_that_fits_names_the_fastest_and_does_not_pass(machine: Any, sweep: Any) -> None:
    report = sweep(machine(TIMES), max_ms=0.5)
    assert not report["passed"]
    assert report["fits"] == []
    assert report["verdict"] == "nothing fits in 0.5 ms; the fastest is test_resnet at 32 fp32 on onnxruntime 2 ms"


def test_a_number_of_another_minute_does_not_beat_one_side_by_side(machine: Any, sweep: Any) -> None:
    # The final takes twice as long for all: fp32 is at 2 ms then, int8, which was slower and is not in it, at 1.2.
    times = {**TIMES, KEYS[0]: {"fp32": 1.0, "int8-linear": 1.2}}
    report = sweep(machine(times), max_ms=2.5)
    chosen = [(report["entries"][i]["input"][0], report["entries"][i]["candidate"]) for i in report["fits"]]
    assert chosen == [(32, "fp32")]


def test_the_fastest_is_a_finalist(machine: Any, sweep: Any) -> None:
    times = {**TIMES, KEYS[0]: {"fp32": 1.0, "int8-linear": 1.2}}
    report = sweep(machine(times), max_ms=0.5)
    assert report["verdict"] == "nothing fits in 0.5 ms; the fastest is test_resnet at 32 fp32 on onnxruntime 2 ms"


def test_a_model_that_fails_is_an_entry_with_its_error(machine: Any, sweep: Any, tmp_path: Path) -> None:
    fake = machine(TIMES, fail={KEYS[1]: DeviceError("the library\n  fell over"), KEYS[2]: LookupError("a bug\nin it")})
    report = sweep(fake)
    errors = {tuple(e["input"]): e["error"] for e in report["entries"]}
    assert errors[32, 32] is None
    assert errors[64, 64] == "the library fell over"
    assert errors[96, 96] == "LookupError: a bug; see test_resnet-96/error.txt"
    assert "Traceback" in (tmp_path / "sweep" / "work" / KEYS[2] / "error.txt").read_text()
    assert report["entries"][1]["accuracy_reason"] == "it was not measured"


def test_int8_that_fails_leaves_the_float_candidates(
    machine: Any, sweep: Any, fake_exports: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    export = run_module.run_combination.__globals__["make_bundle"]

    def without_int8(weights: Path, out: Path, settings: Any, *, say: Any) -> None:
        if settings.precision == "int8":
            raise EdgemimError("nothing of this model becomes INT8")
        export(weights, out, settings, say=say)

    monkeypatch.setattr("edgemim.pipeline.sweep.combination.make_bundle", without_int8)
    fp32, int8 = sweep(machine(TIMES), sizes=(32,))["entries"]
    assert (fp32["candidate"], fp32["error"]) == ("fp32", None)
    assert (int8["precision"], int8["error"]) == ("int8", "nothing of this model becomes INT8")


def test_a_candidate_that_a_model_does_not_have_is_an_entry_that_says_so(machine: Any, sweep: Any) -> None:
    fp32, int8 = sweep(machine(TIMES), sizes=(32,), precisions=("fp32", "int8-attention"))["entries"]
    assert (fp32["candidate"], fp32["error"]) == ("fp32", None)
    assert int8["candidate"] == "int8-attention"
    assert "this model has no int8-attention; it has fp32, int8-linear" in int8["error"]


@pytest.mark.parametrize(
    ("precisions", "measured"),
    [((), None), (("int8",), ["int8-linear"]), (("fp32", "int8-linear"), ["fp32", "int8-linear"])],
)
def test_only_what_is_asked_for_and_what_the_device_can_run_is_measured(
    machine: Any, sweep: Any, precisions: tuple[str, ...], measured: list[str] | None
) -> None:
    fake = machine(TIMES)
    sweep(fake, sizes=(32,), precisions=precisions)
    assert fake.candidates == [measured]


def test_nothing_that_could_be_measured_is_an_error_that_says_why(machine: Any, sweep: Any, tmp_path: Path) -> None:
    fake = machine(TIMES, fail=dict.fromkeys(KEYS, DeviceError("no luck")))
    with pytest.raises(EdgemimError, match="nothing could be measured: test_resnet: no luck; test_resnet: no luck"):
        sweep(fake)
    assert not (tmp_path / "sweep" / "manifest.json").exists()


def test_a_full_disk_ends_the_sweep(machine: Any, sweep: Any, tmp_path: Path) -> None:
    fake = machine(TIMES, fail={KEYS[1]: OutputError("the disk is full")})
    with pytest.raises(OutputError, match="the disk is full"):
        sweep(fake)
    again = machine(TIMES)
    assert len(sweep(again, resume=True)["entries"]) == 3
    assert again.measured == Counter(KEYS[1:])


STEPS = {
    "weights": "edgemim.pipeline.sweep.combination.weights_of",
    "export": "edgemim.pipeline.sweep.combination.make_bundle",
    "result": "edgemim.pipeline.sweep.folder.SweepFolder.keep",
    "report": "edgemim.pipeline.sweep.run.write_sweep",
}


@pytest.mark.parametrize("step", [*STEPS, "measure", "final"])
def test_ctrl_c_at_any_step_is_resumed_without_measuring_anything_twice(
    step: str, machine: Any, sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = machine(TIMES)
    with monkeypatch.context() as patch:
        if step == "measure":
            first.fail[KEYS[1]] = KeyboardInterrupt()
        elif step == "final":
            first.finals_fail = KeyboardInterrupt()
        else:
            interrupt_second(patch, STEPS[step], every=step == "report")
        with pytest.raises(KeyboardInterrupt) as stopped:
            sweep(first)
    done = 3 if step in ("final", "report") else 1
    assert str(stopped.value) == f"stopped after {done} of 3 combinations; run the same command with --resume to go on"
    assert not (tmp_path / "sweep" / "manifest.json").exists()
    second = machine(TIMES)
    resumed = sweep(second, resume=True)
    assert [e["latency"]["p50_ms"] for e in resumed["entries"]] == [1.0, 2.0, 4.0]
    twice = Counter() if step != "measure" else Counter({KEYS[1]: 1})  # which had not come to its end
    assert first.measured + second.measured == Counter(KEYS) + twice
    assert load_artifact(tmp_path / "sweep", "report").content["passed"]


def interrupt_second(patch: pytest.MonkeyPatch, name: str, *, every: bool) -> None:
    """Ctrl-C at the second call of a function, or at the first."""
    module, _, function = name.rpartition(".")
    owner: Any = __import__("pkgutil").resolve_name(module)
    real, calls = getattr(owner, function), []

    def stop(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if every or len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    patch.setattr(owner, function, stop)


def test_a_finished_sweep_is_left_as_it_is(machine: Any, sweep: Any, tmp_path: Path) -> None:
    report = sweep(machine(TIMES))
    before = {p: p.read_bytes() for p in (tmp_path / "sweep").rglob("*") if p.is_file()}
    idle = machine({})
    assert sweep(idle, resume=True) == report
    assert not idle.measured
    assert {p: p.read_bytes() for p in (tmp_path / "sweep").rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_ms": 3.0}, "max_ms was 5.0, is 3.0"),
        ({"mode": "standard"}, "mode was 'quick', is 'standard'"),
        ({"sizes": (32,)}, r"sizes was \[32, 64, 96\], is \[32\]"),
        ({"backbones": ("test_resnet", "test_vit")}, "models.test_vit was None, is 'random weights'"),
        ({"data": "random:8"}, "data was '', is 'random:8'"),
        ({"precisions": ("fp32",)}, r"precisions was \[\], is \['fp32'\]"),
        ({"threads": 1}, "threads was None, is 1"),
    ],
)
def test_other_settings_are_refused_by_name(machine: Any, sweep: Any, values: dict[str, Any], words: str) -> None:
    sweep(machine(TIMES), max_ms=5.0)
    with pytest.raises(TrainingError, match=words):
        sweep(machine(TIMES), **{"max_ms": 5.0, **values}, resume=True)


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        ({"gpu": "NVIDIA Thor"}, "device.gpu was None, is 'NVIDIA Thor'"),
        ({"power_mode": "15W"}, "device.power_mode was None, is '15W'"),
    ],
)
def test_another_device_is_refused_by_what_differs(
    machine: Any, sweep: Any, monkeypatch: pytest.MonkeyPatch, fact: dict[str, str], words: str
) -> None:
    plain = replace(describe_device(), gpu=None, power_mode=None)
    monkeypatch.setattr("edgemim.pipeline.sweep.run.describe_device", lambda: plain)
    sweep(machine(TIMES))
    monkeypatch.setattr("edgemim.pipeline.sweep.run.describe_device", lambda: replace(plain, **fact))
    with pytest.raises(TrainingError, match=words):
        sweep(machine(TIMES), resume=True)


def test_another_version_of_a_backend_is_refused(machine: Any, sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxRuntimeBackend, "installed", lambda self: True)
    monkeypatch.setattr(OnnxRuntimeBackend, "version", lambda self: "1.20.0")
    sweep(machine(TIMES))
    monkeypatch.setattr(OnnxRuntimeBackend, "version", lambda self: "1.23.1")
    with pytest.raises(TrainingError, match=r"backends.onnxruntime was '1.20.0', is '1.23.1'"):
        sweep(machine(TIMES), resume=True)


def test_a_final_that_the_device_cannot_run_leaves_the_numbers_that_there_are(machine: Any, sweep: Any) -> None:
    trouble = DeviceError("a, b ran alone, but open together they need about 900 MB")
    report = sweep(machine(TIMES, finals_fail=trouble))
    assert [entry["latency"]["p50_ms"] for entry in report["entries"]] == [1.0, 2.0, 4.0]
    assert all(entry["side_by_side"] is None for entry in report["entries"])
    assert any(caveat.startswith(f"there was no final ({trouble}): latencies") for caveat in report["caveats"])


def test_what_every_backend_fails_at_is_the_devices_failure(machine: Any, sweep: Any) -> None:
    class FakeBroken(machine):  # type: ignore[misc,valid-type]
        def row(self, name: str, time: float) -> dict[str, Any]:
            return super().row(name, time) | {"latency": None, "disqualified": "backend 'onnxruntime' was killed"}

    with pytest.raises(DeviceError, match="nothing could be measured: test_resnet: backend 'onnxruntime' was killed"):
        sweep(FakeBroken(TIMES))


def test_other_weights_in_a_checkpoint_are_other_settings(
    machine: Any, sweep: Any, backbone: Path, tmp_path: Path
) -> None:
    times = {"backbone-32": {"fp32": 1.0}}
    asked: dict[str, Any] = {"backbones": (), "checkpoints": (backbone,), "sizes": (), "data": "random:4"}
    assert sweep(machine(times), **asked)["entries"][0]["source"] == "checkpoint"
    settings = tmp_path / "sweep" / "last" / "settings.json"
    before = json.loads(settings.read_text())
    settings.write_text(json.dumps(before | {"models": {"backbone": "0" * 64}}))
    with pytest.raises(TrainingError, match=r"models.backbone was '0{64}', is"):
        sweep(machine(times), **asked, resume=True)


def test_the_minutes_leave_out_what_would_end_too_late_and_more_minutes_bring_it(
    machine: Any, sweep: Any, tmp_path: Path
) -> None:
    # 10 s for 32 x 32; 64 x 64 is four times that, 40 s, and a final of 2 x 5 s: 60 s in all, which fit in a minute.
    first = machine(TIMES, seconds=10.0)
    report = sweep(first, minutes=1.0)
    # It took no more than 10 s, so that 96 x 96 is thought to take 22.5 s: 20 + 22.5 + 15 s.
    assert first.measured == Counter(KEYS)
    assert report["left_out"] == []


def test_the_first_combination_is_begun_whatever_the_minutes(machine: Any, sweep: Any, tmp_path: Path) -> None:
    first = machine(TIMES, seconds=100.0)
    report = sweep(first, minutes=1.0)
    assert first.measured == Counter(KEYS[:1])
    assert [(e["input"], e["estimated_s"]) for e in report["left_out"]] == [([64, 64], 400.0), ([96, 96], 900.0)]
    assert report["verdict"].endswith("; 2 of the combinations were left out")
    assert "left out, since the minutes were too few: test_resnet at 64 (about 400 s)" in report["caveats"]
    second = machine(TIMES, seconds=100.0)
    report = sweep(second, minutes=30.0, resume=True)
    assert second.measured == Counter(KEYS[1:])
    assert report["left_out"] == []
    assert len(second.finals[0]) == 3
    assert not any((tmp_path / "sweep" / "work" / key / "bundle").exists() for key in KEYS)


def test_a_size_that_is_refused_at_once_does_not_make_the_next_one_look_quick(
    machine: Any, sweep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_size(monkeypatch, 64)
    fake = machine(TIMES, seconds=20.0)
    report = sweep(fake, minutes=2.0)
    # Nine times 32 x 32, 180 s; like 64 x 64, which was refused after no time at all, it would fit.
    assert [(e["input"], e["estimated_s"]) for e in report["left_out"]] == [([96, 96], 180.0)]
    assert fake.measured == Counter(KEYS[:1])


def refuse_size(patch: pytest.MonkeyPatch, side: int) -> None:
    """As a model does that cannot take such images."""

    def weights(combination: Any, folder: Path) -> Path:
        if combination.size == (side, side):
            raise ConfigError(f"it does not run on images of {side}x{side}")
        return folder

    patch.setattr("edgemim.pipeline.sweep.combination.weights_of", weights)


@pytest.mark.parametrize(("seconds", "begun"), [(20.0, 3), (25.0, 2), (100.0, 1)])
def test_while_nothing_could_be_measured_the_next_is_begun_as_long_as_there_are_minutes(
    machine: Any, sweep: Any, seconds: float, begun: int
) -> None:
    fake = machine(TIMES, seconds=seconds, fail=dict.fromkeys(KEYS, DeviceError("no luck")))
    with pytest.raises(EdgemimError, match="nothing could be measured"):
        sweep(fake, minutes=0.75)  # 45 s
    assert fake.measured == Counter(KEYS[:begun])


def test_seconds_of_a_call_that_was_stopped_count(machine: Any, sweep: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        sweep(machine(TIMES, seconds=300.0, fail={KEYS[0]: KeyboardInterrupt()}))
    report = sweep(machine(TIMES, seconds=5.0), minutes=10.0, resume=True)
    # 305 s for 32 x 32, of which the last call took 5 s: four and nine times that.
    assert [(e["input"], e["estimated_s"]) for e in report["left_out"]] == [([64, 64], 1220.0), ([96, 96], 2745.0)]


def test_seconds_of_the_export_survive_a_kill(
    machine: Any, sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, killed = tmp_path / "sweep", tmp_path / "killed"
    fake = machine(TIMES, fail={KEYS[0]: KeyboardInterrupt()})
    export, measure = run_module.run_combination.__globals__["make_bundle"], fake.measure

    def slow_export(*args: Any, **kwargs: Any) -> None:
        fake.now += 300.0
        export(*args, **kwargs)

    def keep_what_a_kill_leaves(*args: Any) -> Any:
        shutil.copytree(out, killed)
        return measure(*args)

    fake.measure = keep_what_a_kill_leaves
    monkeypatch.setattr("edgemim.pipeline.sweep.combination.make_bundle", slow_export)
    with pytest.raises(KeyboardInterrupt):
        sweep(fake)
    shutil.rmtree(out)
    killed.rename(out)
    sweep(machine(TIMES, seconds=5.0), resume=True)
    result = json.loads((out / "work" / KEYS[0] / "result.json").read_text())
    assert result["seconds"] == 305.0  # the measurement that was killed leaves no time: it is made once more


def test_a_combination_that_kills_the_process_each_time_is_not_tried_for_ever(
    machine: Any, sweep: Any, tmp_path: Path
) -> None:
    fake = machine(TIMES, fail={KEYS[2]: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        sweep(fake)
    attempts = tmp_path / "sweep" / "work" / KEYS[2] / "attempts"
    assert attempts.read_text() == "0"  # Ctrl-C is no kill
    attempts.write_text("3")  # as three kills leave it
    report = sweep(machine(TIMES), resume=True)
    assert "was killed each time it was tried" in report["entries"][2]["error"]
    assert f"remove the folder work/{KEYS[2]}" in report["entries"][2]["error"]
    # Of the call that was stopped: this one did not try it.
    assert json.loads(attempts.with_name("result.json").read_text())["seconds"] == 10.0


def test_a_damaged_bundle_is_written_again(
    machine: Any, sweep: Any, tmp_path: Path, fake_exports: Counter[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        sweep(machine(TIMES, fail={KEYS[0]: KeyboardInterrupt()}))
    (tmp_path / "sweep" / "work" / KEYS[0] / "bundle" / "fp32.onnx").write_bytes(b"torn")
    assert len(sweep(machine(TIMES), resume=True)["entries"]) == 3
    assert fake_exports == Counter(KEYS) + Counter(KEYS[:1])


def test_bundles_without_a_finalist_go_at_once(machine: Any, sweep: Any, tmp_path: Path) -> None:
    # The largest input is the fastest, so that at the end nothing else is near the front.
    times = {key: {"fp32": ms} for key, ms in zip(KEYS, (4.0, 2.0, 1.0), strict=True)}
    fake = machine(times)
    work, there = tmp_path / "sweep" / "work", []
    measure = fake.measure

    def look(bundle: Path, out: Path, settings: Any) -> Any:
        there.append([key for key in KEYS if (work / key / "bundle").exists()])
        return measure(bundle, out, settings)

    fake.measure = look
    sweep(fake)
    assert there == [KEYS[:1], KEYS[:2], KEYS[1:]]


def test_another_sweep_in_the_same_folder_is_refused(machine: Any, sweep: Any) -> None:
    fake, told = machine(TIMES), []
    measure = fake.measure

    def meanwhile(bundle: Path, out: Path, settings: Any) -> Any:
        with pytest.raises(OutputError, match="another sweep is writing") as error:
            sweep(machine(TIMES), sizes=(32,), resume=True)
        told.append(error)
        return measure(bundle, out, settings)

    fake.measure = meanwhile
    assert sweep(fake, sizes=(32,))["entries"]
    assert len(told) == 1


def test_a_folder_that_exists_is_refused(machine: Any, sweep: Any, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match="exists; choose another --out"):
        sweep(machine(TIMES))
    with pytest.raises(OutputError, match="holds no sweep to resume"):
        sweep(machine(TIMES), resume=True)


def test_a_target_of_another_machine_is_refused_before_anything_is_built(
    machine: Any, sweep: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        sweep(machine(TIMES), target="jetson-orin-nano")
    assert "nothing of a sweep for target 'jetson-orin-nano' can be measured on this machine" in str(error.value)
    assert "edgemim check --device ssh://" in str(error.value)
    assert not (tmp_path / "sweep").exists()
