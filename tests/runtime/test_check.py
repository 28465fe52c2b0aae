"""`edgemim.runtime.check`: the whole flow on a backend of our own, without any vendor package."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgemim.artifact import load_artifact, seal
from edgemim.errors import ArtifactError, ConfigError, DeviceError, MissingDependencyError, OutputError
from edgemim.runtime.cache import the_only_check
from edgemim.runtime.check import check_bundle
from edgemim.runtime.evaluation import write_evaluation
from edgemim.runtime.outcome import exit_code
from edgemim.runtime.power.meter import Power, PowerMeter
from edgemim.runtime.report.read import read_report

pytestmark = pytest.mark.usefixtures("quick", "no_vendor")


@pytest.fixture
def check(world: SimpleNamespace):
    """Check a bundle on the fake backend with the given faults."""

    def run(
        path: Path,
        *,
        faults: dict[str, str] | None = None,
        slower_s: dict[str, float] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        fakes = [world.Fake(faults, slower_s)]
        plain = {"backends": fakes, "seconds": 0, "runs": 64, "cache": world.tmp / "cache"}
        return check_bundle(path, world.tmp / "report", **{**plain, **options})

    return run


def by_name(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in report["candidates"]}


def preparation(report: dict[str, Any]) -> dict[str, Any]:
    """How right this device prepares images, without how long it takes."""
    return {key: report["preprocessing"][key] for key in ("exact", "max_levels", "max_abs")}


def test_a_sound_bundle_passes_and_its_report_is_on_disk(world: SimpleNamespace, check) -> None:
    path = world.bundle(gates={"top1.max_drop": 0.2, "agreement.min": 0.8})
    report = check(path)
    assert report["passed"]
    assert report == read_report(world.tmp / "report")
    assert report["reference"] == "fp32 on fake"
    assert preparation(report) == {"exact": True, "max_levels": 0, "max_abs": 0.0}
    assert report["preprocessing"]["p50_ms"] > 0
    assert report["bundle"]["fingerprint"] == load_artifact(path).fingerprint
    full = by_name(report)["fp32"]
    assert full["accuracy"]["top1"] == full["accuracy"]["agreement"] == full["accuracy"]["cosine"] == 1.0
    assert full["golden"]["max_abs"] < 1e-5
    assert full["speed"]["ratio"] == 1.0
    assert [gate["name"] for gate in full["gates"]] == ["top1.max_drop", "agreement.min"]


def test_the_samples_on_disk_give_the_reports_numbers(world: SimpleNamespace, check) -> None:
    row = by_name(check(world.bundle(evaluation=None)))["int8-nncf"]
    with np.load(world.tmp / "report/samples.npz", allow_pickle=False) as samples:
        kinds = [f"{series}{kind}" for series in ("", "with_preprocessing.") for kind in ("ns", "round", "start_ns")]
        of_trials = {f"{name}@fake.{kind}" for name in ("fp32", "int8-nncf") for kind in kinds}
        others = {name for name in samples if not name.startswith(("environment.", "power."))}
        assert others == of_trials | {"preparation.ns"}
        assert {"environment.start_ns", "environment.others_cpu"} <= set(samples)
        times, starts = samples["int8-nncf@fake.ns"], samples["int8-nncf@fake.start_ns"]
        prepared = samples["int8-nncf@fake.with_preprocessing.ns"]
        alone = samples["preparation.ns"]
    assert (starts[1:] >= starts[:-1] + times[:-1]).all()
    assert row["latency"]["n"] == len(times) >= 64
    assert row["latency"]["p50_ms"] == np.percentile(times, 50, method="inverted_cdf") / 1e6
    with_it = row["latency"]["with_preprocessing"]
    assert with_it["n"] == len(prepared)
    assert with_it["p50_ms"] == np.percentile(prepared, 50, method="inverted_cdf") / 1e6
    assert with_it["added_ms"] > 0
    p50 = read_report(world.tmp / "report")["preprocessing"]["p50_ms"]
    assert p50 == np.percentile(alone, 50, method="inverted_cdf") / 1e6


def test_top1_is_that_of_the_images_prepared_on_this_device(world: SimpleNamespace, check) -> None:
    # Labels are what fp32 answers; three of twenty are moved to the next class.
    images = [(data, (label + (i < 3)) % 5) for i, (data, label) in enumerate(world.labelled(20))]
    row = by_name(check(world.bundle(evaluation=images)))["fp32"]
    assert row["accuracy"]["top1"] == pytest.approx(17 / 20)
    assert row["accuracy"]["agreement"] == 1.0


@pytest.mark.parametrize("labelled", [True, False])
def test_a_gallery_says_whether_neighbours_stay_the_same(world: SimpleNamespace, check, labelled: bool) -> None:
    images = list(world.labelled(20))
    gallery = [(data, 7 + label if labelled else None) for data, label in images[5:]]  # classes of its own
    path = world.bundle(evaluation=[(data, None) for data, _ in images[:5]], gallery=gallery)
    report = check(path, gates={"knn_agreement.min": 1.0})
    full = by_name(report)["fp32"]
    assert full["accuracy"]["knn_agreement"] == 1.0
    assert full["gates"][0]["sentence"] == "knn_agreement.min is 1, limit 1"
    assert by_name(report)["int8-nncf"]["accuracy"]["knn_agreement"] in {i / 5 for i in range(6)}
    assert "k-NN agreement" in (world.tmp / "report/report.md").read_text("utf-8")


def test_the_slower_candidate_loses_and_the_verdict_says_so(world: SimpleNamespace, check) -> None:
    report = check(world.bundle(), slower_s={"int8-nncf": 0.002})
    assert (report["chosen"], report["chosen_backend"]) == ("fp32", "fake")
    assert "int8-nncf on fake is" in report["verdict"]
    assert "x slower than fp32 on fake: ship fp32 on fake" in report["verdict"]


def test_the_faster_candidate_wins_only_if_it_keeps_the_gates(world: SimpleNamespace, check) -> None:
    path = world.bundle()
    report = check(path, slower_s={"fp32": 0.002})
    assert report["chosen"] == "int8-nncf"
    strict = check(path, slower_s={"fp32": 0.002}, gates={"cosine.min": 1.0}, overwrite=True)
    assert strict["chosen"] == "fp32"
    assert "cosine.min is" in strict["verdict"]
    assert strict["gates"] == {"cosine.min": {"limit": 1.0, "from": "caller", "allowed_unmeasured": False}}


@pytest.mark.parametrize("name", ["fp32", "int8-nncf"])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("wrong", "golden"),
        ("nan", "not finite"),
        ("compile", "cannot compile the model: unknown operator"),
        ("run", "cannot run the model: out of memory"),
        ("name", "returned ['scores', 'tokens'], not 'logits'"),
    ],
)
def test_a_broken_candidate_drops_out_before_it_is_timed(
    world: SimpleNamespace, check, name: str, fault: str, reason: str
) -> None:
    report = check(world.bundle(), faults={name: fault})
    rows = by_name(report)
    other = "int8-nncf" if name == "fp32" else "fp32"
    assert reason in rows[name]["disqualified"]
    assert (rows[name]["latency"], rows[name]["accuracy"], rows[name]["passed"]) == (None, None, False)
    assert report["chosen"] == other
    assert report["reference"] == ("fp32 on fake" if other == "fp32" else None)


def test_a_reference_that_is_disqualified_makes_gates_on_agreement_missed(world: SimpleNamespace, check) -> None:
    report = check(world.bundle(gates={"agreement.min": 0.5, "top1.max_drop": 0.5}), faults={"fp32": "wrong"})
    gates = by_name(report)["int8-nncf"]["gates"]
    assert [gate["passed"] for gate in gates] == [False, False]
    assert all(gate["reason"] == "no fp32 candidate could serve as the reference" for gate in gates)
    assert not report["passed"]
    assert any("nothing is compared with fp32" in caveat for caveat in report["caveats"])


@pytest.mark.parametrize(
    ("evaluation", "gate", "reason"),
    [
        (None, "top1.min", "the bundle has no evaluation images"),
        (None, "cosine.min", "the bundle has no evaluation images"),
        ("unlabelled", "top1.max_drop", "the evaluation images have no labels"),
        ("unlabelled", "knn_agreement.min", "the bundle has no gallery"),
        ("unlabelled", "p99_ms", "64 runs, 662 are needed"),
    ],
)
def test_a_gate_that_cannot_be_measured_is_missed_with_the_reason(
    world: SimpleNamespace, check, evaluation: str | None, gate: str, reason: str
) -> None:
    images = [(data, None) for data, _ in world.labelled(3)] if evaluation else None
    report = check(world.bundle(evaluation=images), gates={gate: 0.5})
    assert not report["passed"]
    assert [row["gates"][0]["reason"] for row in report["candidates"]] == [reason, reason]
    assert f"{gate} could not be measured: {reason}" in report["verdict"]


def test_a_candidate_that_was_not_asked_for_is_still_the_reference(world: SimpleNamespace, check) -> None:
    report = check(world.bundle(), candidates=["int8-nncf"])
    rows = by_name(report)
    assert rows["fp32"]["reference_only"]
    assert rows["fp32"]["latency"] is None
    assert report["reference"] == "fp32 on fake"
    assert rows["int8-nncf"]["accuracy"]["agreement"] is not None
    assert report["chosen"] == "int8-nncf"


def test_sessions_are_closed_even_when_the_device_fails(world: SimpleNamespace) -> None:
    fake = world.Fake({"fp32": "run", "int8-nncf": "run"})
    check_bundle(world.bundle(), world.tmp / "report", backends=[fake], seconds=0, runs=1)
    assert [session.closed for session in fake.sessions] == [True, True]


@pytest.mark.parametrize("judge", [True, False])
@pytest.mark.parametrize("fault", ["run", "wrong"])
def test_where_nothing_runs_right_the_report_is_written_and_says_of_each_why(
    world: SimpleNamespace, check, fault: str, judge: bool
) -> None:
    report = check(world.bundle(), faults={"fp32": fault, "int8-nncf": fault}, judge=judge)
    assert report == read_report(world.tmp / "report")
    assert (report["passed"], report["chosen"], exit_code(report)) == (False, None, 3)
    told = [f"{row['name']} on fake: {row['disqualified']}" for row in report["candidates"]]
    assert report["verdict"] == f"no candidate runs right here: {'; '.join(told)}"
    assert all(row["disqualified"] for row in report["candidates"])


def test_a_reference_that_runs_is_no_candidate_that_does(world: SimpleNamespace, check) -> None:
    report = check(world.bundle(), faults={"int8-nncf": "run"}, candidates=["int8-nncf"], judge=False)
    assert report["reference"] == "fp32 on fake"
    assert (report["passed"], exit_code(report)) == (False, 3)
    assert report["verdict"].startswith("no candidate runs right here: int8-nncf on fake: fake cannot run the model")
    assert "fp32" not in report["verdict"]


def test_a_drop_that_the_images_cannot_vouch_for_is_kept_and_said(world: SimpleNamespace, check) -> None:
    report = check(world.bundle(), gates={"top1.max_drop": 0.05})
    (gate,) = by_name(report)["int8-nncf"]["gates"]
    interval = by_name(report)["int8-nncf"]["accuracy"]
    assert gate["passed"]
    assert gate["may_be"] == interval["top1_drop_high"] > 0.05
    assert gate["sentence"].endswith(f"limit 0.05: kept, but the images allow up to {gate['may_be']:.4g}")
    (line,) = [caveat for caveat in report["caveats"] if caveat.startswith("top1.max_drop=0.05 is kept by what was")]
    assert f"int8-nncf on fake {gate['value']:.4f}, up to {gate['may_be']:.4f}" in line
    # Of the reference itself nothing is open.
    assert by_name(report)["fp32"]["gates"][0]["may_be"] is None
    assert "fp32 on fake" not in line


def test_enough_images_leave_no_gate_open(world: SimpleNamespace, check) -> None:
    report = check(world.bundle(), gates={"top1.max_drop": 0.9})
    assert [row["gates"][0]["may_be"] for row in report["candidates"]] == [None, None]
    assert not any("vouch" in caveat for caveat in report["caveats"])


def test_golden_inputs_that_this_device_prepares_differently_stop_the_check(world: SimpleNamespace, check) -> None:
    def other_mean(content: dict[str, Any]) -> None:
        content["preprocess"]["mean"] = [0.4, 0.4, 0.4]

    with pytest.raises(DeviceError, match="normalises the golden pixels differently by"):
        check(world.bundle(change=other_mean))


def test_a_last_bit_of_difference_in_preprocessing_is_a_caveat(world: SimpleNamespace, check) -> None:
    def nudged(content: dict[str, Any]) -> None:
        content["preprocess"]["mean"][0] += 1e-6

    report = check(world.bundle(change=nudged))
    assert report["preprocessing"]["exact"] is False
    assert 0 < report["preprocessing"]["max_abs"] < 1e-4
    assert report["caveats"][0].startswith("this device normalises the golden pixels differently, by up to")


def test_pixels_give_what_normalised_inputs_give(world: SimpleNamespace, check) -> None:
    report = check(world.bundle(encoding="pixels"))
    assert report["passed"]
    assert preparation(report) == {"exact": True, "max_levels": 0, "max_abs": None}
    full = by_name(report)["fp32"]
    assert full["golden"]["max_abs"] < 1e-5
    assert full["accuracy"]["top1"] == 1.0


@pytest.mark.parametrize("encoding", ["pixels", "normalised"])
@pytest.mark.parametrize("batch", [8, pytest.param(3, marks=pytest.mark.slow)])
def test_batches_change_no_output(world: SimpleNamespace, check, encoding: str, batch: int) -> None:
    # 4 golden and 20 evaluation images: the last batch is never full.
    alone = check(world.bundle(name="alone"))
    report = check(world.bundle(encoding=encoding, batch=batch), overwrite=True)
    for name, row in by_name(report).items():
        one = by_name(alone)[name]
        assert row["golden"] == pytest.approx(one["golden"], abs=1e-5)
        numbers = {key for key, value in one["accuracy"].items() if not isinstance(value, dict | list)}
        for key in one["accuracy"].keys() - numbers:
            assert row["accuracy"][key] == one["accuracy"][key]
        assert [row["accuracy"][key] for key in numbers] == pytest.approx(
            [one["accuracy"][key] for key in numbers], abs=1e-6
        )
    assert report["protocol"]["batch"] == batch
    assert report["protocol"]["timed"].startswith(f"{batch} images per run,")
    assert f"every latency, in gates too, is of a run of {batch} images" in report["caveats"]
    assert f"Latency is of a run of {batch} images" in (world.tmp / "report/report.md").read_text()


def _reencode(world: SimpleNamespace, path: Path, change: Any) -> None:
    """Give a bundle other golden files, sealed: what a device with another decoder sees."""
    manifest = json.loads((path / "manifest.json").read_text())
    images = [(change(np.asarray(Image.open(io.BytesIO(data)))), None) for data in world.golden]
    write_evaluation(path / "golden/images.zip", images, classes=0)
    seal(path, "bundle", manifest["files"], content=manifest["content"], provenance=manifest["provenance"])


def test_a_device_that_decodes_otherwise_is_told_by_how_much(world: SimpleNamespace, check) -> None:
    path = world.bundle(encoding="pixels")
    _reencode(world, path, lambda pixels: world.as_png(np.where(pixels < 254, pixels + 2, pixels)))
    report = check(path)
    assert preparation(report) == {"exact": False, "max_levels": 2, "max_abs": None}
    assert report["caveats"][0].startswith("this device decodes or resizes the golden images differently, by up to 2")


def test_without_golden_images_the_report_says_what_was_not_compared(world: SimpleNamespace, check) -> None:
    report = check(world.bundle(golden=None))
    assert preparation(report) == {"exact": True, "max_levels": None, "max_abs": 0.0}
    assert report["caveats"][0].startswith("the bundle carries no golden images")


def test_a_device_that_sees_other_images_stops_the_check(world: SimpleNamespace, check) -> None:
    path = world.bundle()
    _reencode(world, path, lambda pixels: world.as_png(pixels[..., ::-1]))
    with pytest.raises(
        DeviceError, match=r"decodes or resizes the golden images differently, by \d+ of 255 grey levels"
    ):
        check(path)
    assert not (world.tmp / "report").exists()


def test_a_device_that_lacks_a_decoder_says_for_which_format(world: SimpleNamespace, check, monkeypatch) -> None:
    path = world.bundle(evaluation=None)
    monkeypatch.setitem(Image.OPEN, "PNG", (Image.OPEN["PNG"][0], lambda prefix: False))
    with pytest.raises(DeviceError, match=r"cannot decode the golden images/00000\.png; install a Pillow"):
        check(path)


def test_progress_counts_up_to_the_end(world: SimpleNamespace, check) -> None:
    seen: list[tuple[int, int]] = []
    check(world.bundle(), progress=lambda done, total: seen.append((done, total)))
    # two trials to probe and to start, twenty images, four rounds of two
    assert [done for done, _ in seen[:-1]] == list(range(1, 33))
    assert seen[-1] == (32, 32)


def test_a_bundle_for_another_target_is_a_caveat(world: SimpleNamespace, check) -> None:
    report = check(world.bundle(target="jetson", evaluation=None))
    assert any("fake is no backend of target 'jetson-orin-nano'" in caveat for caveat in report["caveats"])


def test_a_candidate_that_is_left_out_is_named_with_the_reason(world: SimpleNamespace, check) -> None:
    report = check(world.bundle(evaluation=None))
    assert set(by_name(report)) == {"fp32", "int8-nncf"}
    for name in ("bf16", "int8-nncf-bf16"):
        assert any(caveat.startswith(f"{name} was left out: ") for caveat in report["caveats"])


def test_a_cap_on_the_instruction_sets_is_in_the_report(
    world: SimpleNamespace, check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    report = check(world.bundle(evaluation=None))
    assert report["device"]["isa_cap"] == "AVX2"
    assert any(caveat.startswith("ONEDNN_MAX_CPU_ISA=AVX2 is set: ") for caveat in report["caveats"])


def test_compiling_loading_and_the_first_run_are_reported_apart(world: SimpleNamespace, check) -> None:
    report = check(world.bundle(evaluation=None))
    row = by_name(report)["fp32"]
    assert (row["compile_s"], row["compile_first_ms"], row["compiled_before"]) == (0.0, None, False)
    assert row["load_s"] > 0
    assert row["first_ms"] > 0
    page = (world.tmp / "report/report.md").read_text()
    assert f"| fp32 | fake | 0.00 | - | {row['load_s']:.2f} | {row['first_ms']:.1f} |" in page


class FakeMeter:
    """Five watts, whatever runs between two moments that it is told."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __enter__(self) -> None:
        self.seconds.clear()

    def __exit__(self, *_: object) -> None:
        pass

    def window(self, name: str, started_ns: int, ended_ns: int) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + (ended_ns - started_ns) / 1e9

    def arrays(self, origin_ns: int) -> dict[str, np.ndarray]:
        return {"power.start_ns": np.zeros(1) - origin_ns, "power.ALL": np.full(1, 5.0)}

    def measure(self, name: str, *, runs: int) -> Power:
        return Power(mean_w=5.0, energy_mj=5e3 * self.seconds[name] / runs)


def test_power_is_measured_while_the_candidates_take_turns(
    world: SimpleNamespace, check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgemim.runtime.measuring.PowerMeter", FakeMeter)
    report = check(world.bundle(evaluation=None), slower_s={"fp32": 0.002})
    rows = by_name(report)
    for row in rows.values():
        assert row["power"]["mean_w"] == 5.0
        # The windows hold the timed runs, and a little of what lies between them.
        assert row["power"]["energy_mj"] >= 5 * row["latency"]["mean_ms"]
    assert rows["fp32"]["power"]["energy_mj"] > rows["int8-nncf"]["power"]["energy_mj"]
    with np.load(world.tmp / "report/samples.npz", allow_pickle=False) as samples:
        assert samples["power.ALL"].tolist() == [5.0]
    assert "| mJ per run | W |" in (world.tmp / "report/report.md").read_text()


def test_without_a_power_sensor_the_reason_is_in_the_report(world: SimpleNamespace, check) -> None:
    meter = PowerMeter(root=world.tmp)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgemim.runtime.measuring.PowerMeter", lambda: meter)
        report = check(world.bundle(evaluation=None))
    power = by_name(report)["fp32"]["power"]
    assert power["energy_mj"] is None
    assert "no power sensor" in power["reason"]
    assert "mJ per run" not in (world.tmp / "report/report.md").read_text()


def test_a_second_check_on_this_device_is_refused(
    world: SimpleNamespace, check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgemim.runtime.cache._PATIENCE_S", 0)
    with (
        the_only_check(world.tmp / "cache"),
        pytest.raises(ConfigError, match="another check is running on this device"),
    ):
        check(world.bundle(evaluation=None), cache=world.tmp / "cache")
    assert not (world.tmp / "report").exists()


def test_the_report_names_the_threads_that_were_asked_for(world: SimpleNamespace, check) -> None:
    report = check(world.bundle(evaluation=None), threads=3)
    assert report["protocol"]["threads"] == 3
    assert by_name(report)["fp32"]["options"]["threads"] == 3


def test_an_existing_output_folder_is_refused_before_anything_runs(world: SimpleNamespace) -> None:
    fake = world.Fake()
    (world.tmp / "report").mkdir()
    (world.tmp / "report/mine.txt").write_text("keep")
    with pytest.raises(OutputError, match="exists"):
        check_bundle(world.bundle(), world.tmp / "report", backends=[fake])
    assert fake.sessions == []


def test_a_report_is_not_a_bundle(world: SimpleNamespace, check) -> None:
    check(world.bundle(evaluation=None))
    with pytest.raises(ArtifactError, match="report is a report; here a bundle is needed"):
        check_bundle(world.tmp / "report", world.tmp / "other")


def test_an_altered_report_is_refused(world: SimpleNamespace, check) -> None:
    check(world.bundle(evaluation=None))
    file = world.tmp / "report/report.json"
    file.write_text(file.read_text().replace('"passed": true', '"passed": trye', 1))
    with pytest.raises(ArtifactError, match=r"report\.json was altered"):
        read_report(world.tmp / "report")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads must be at least 1"),
        ({"runs": 0}, "must be at least 1"),
        ({"gates": {"p99": 1}}, "unknown gate 'p99'; did you mean 'p99_ms'"),
        ({"candidates": ["int8"]}, "no candidate 'int8'; did you mean 'int8-nncf'"),
        ({"backends": ["tensorflow"]}, "unknown backend 'tensorflow'"),
    ],
)
def test_bad_settings_are_refused_and_nothing_is_written(
    world: SimpleNamespace, check, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check(world.bundle(evaluation=None), **options)
    assert not (world.tmp / "report").exists()


def test_a_backend_that_is_not_installed_names_the_extra(world: SimpleNamespace, check) -> None:
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgemim\[onnxruntime\]'"):
        check(world.bundle(evaluation=None), backends=["onnxruntime"])


def test_the_report_has_no_number_that_json_does_not_know(world: SimpleNamespace, check) -> None:
    check(world.bundle(), faults={"int8-nncf": "nan"})
    text = (world.tmp / "report/report.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the report"))


def test_the_page_puts_the_verdict_first_and_lists_every_candidate(world: SimpleNamespace, check) -> None:
    report = check(world.bundle(gates={"p50_ms": 1000}), faults={"int8-nncf": "wrong"})
    lines = (world.tmp / "report/report.md").read_text().splitlines()
    assert lines[0].startswith("# linear on ")
    assert lines[0].endswith(": passed")
    assert report["verdict"][1:] in lines[2]
    assert any(line.startswith("| fp32 | fake |") and line.endswith("| passes |") for line in lines)
    assert any(line.startswith("| int8-nncf | fake | - |") and "disqualified: " in line for line in lines)
    assert any("| p50_ms | 1000 |" in line and "| kept | bundle |" in line for line in lines)
    assert any(line.startswith("| python | ") for line in lines)


def test_a_gate_that_may_stay_unmeasured_is_kept_and_named(world: SimpleNamespace, check) -> None:
    gates = {"energy_mj": 5.0, "peak_mb": 100.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgemim.runtime.measuring.PowerMeter", lambda: PowerMeter(root=world.tmp))
        strict = check(world.bundle(evaluation=None), gates=gates)
        report = check(world.tmp / "bundle", gates=gates, allow_unmeasured=list(gates), overwrite=True)
    assert not strict["passed"]
    assert "energy_mj could not be measured: no power sensor" in strict["verdict"]
    assert report["passed"]
    assert report["gates"]["energy_mj"]["allowed_unmeasured"]
    assert [c.endswith(", which was allowed") for c in report["caveats"][:2]] == [True, True]
    assert report["caveats"][1].startswith("energy_mj could not be measured: no power sensor")


def test_a_bundle_may_bring_what_need_not_be_measured(world: SimpleNamespace, check) -> None:
    path = world.bundle(evaluation=None, gates={"peak_mb": 100.0}, allow_unmeasured=("peak_mb",))
    report = check(path)
    assert (report["passed"], report["gates"]["peak_mb"]["allowed_unmeasured"]) == (True, True)


def test_a_gate_on_a_percentile_brings_the_runs_that_it_needs(world: SimpleNamespace, check) -> None:
    path = world.bundle(evaluation=None)
    assert check(path, runs=None)["protocol"]["runs"] == 256
    assert check(path, runs=None, gates={"p99_ms": 1000}, overwrite=True)["protocol"]["runs"] == 662


def test_an_embedding_s_cosine_is_no_gate_for_scores(world: SimpleNamespace, check) -> None:
    report = check(world.bundle(), gates={"embedding_cosine.min": 0.5})
    assert not report["passed"]
    assert "embedding_cosine.min could not be measured: the model has classes" in report["verdict"]


def test_images_that_are_classed_otherwise_are_there_to_look_at(world: SimpleNamespace, check) -> None:
    report = check(world.bundle(evaluation=world.labelled(200)))
    flips = by_name(report)["int8-nncf"]["accuracy"]["flips"]
    assert len(report["flips"]) == min(24, sum(flips.values())) > 0
    for flip in report["flips"]:
        with Image.open(world.tmp / "report" / flip["file"]) as thumbnail:
            assert thumbnail.format == "JPEG"
        assert flip["reference"] == flip["label"] != flip["answers"]["int8-nncf on fake"]


def test_a_bench_holds_nothing_to_a_gate_and_chooses_nothing(world: SimpleNamespace, check) -> None:
    report = check(world.bundle(gates={"p50_ms": 1e-6}), judge=False, slower_s={"fp32": 0.002})
    assert (report["kind"], report["passed"], report["chosen"], report["gates"]) == ("bench", True, None, {})
    assert report["verdict"].startswith("the fastest on this CPU is int8-nncf on fake (p50 ")
    assert not any(row["gates"] for row in report["candidates"])


@pytest.mark.parametrize(
    ("gate", "reason"),
    [
        ("agreement.min", "the model has no classes; embedding_cosine.min is the gate for those"),
        ("top1.min", "the model has no classes"),
        ("top1.max_drop", "the model has no classes"),
        ("embedding_cosine.min", None),
    ],
)
def test_of_a_model_without_classes_a_gate_on_answers_names_the_one_that_fits(
    world: SimpleNamespace, check, gate: str, reason: str | None
) -> None:
    def embeds(content: dict[str, Any]) -> None:
        content["output"]["name"], content["num_classes"], content["class_names"] = "embedding", 0, None

    images = [(data, None) for data, _ in world.labelled(5)]
    path = world.bundle(change=embeds, evaluation=images)
    report = check(path, gates={gate: 0.5}, backends=[world.Fake(output="embedding")])
    assert {row["gates"][0]["reason"] for row in report["candidates"]} == {reason}
