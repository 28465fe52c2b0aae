"""`edgemim.runtime.bench`: several bundles, their candidates in turns, one report."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from edgemim.artifact import load_artifact
from edgemim.errors import ConfigError
from edgemim.runtime.bench import bench_bundles
from edgemim.runtime.report.read import read_report
from edgemim.runtime.run import short_names
from edgemim.runtime.settings import CheckSettings

pytestmark = pytest.mark.usefixtures("quick", "no_vendor")


def test_candidates_of_several_bundles_take_turns(world: SimpleNamespace) -> None:
    small, large = world.bundle(name="small"), world.bundle(name="large", encoding="pixels", gates={"p50_ms": 1e-6})
    fake = world.Fake(slower_s={"fp32": 0.002})
    settings = CheckSettings(backends=[fake], seconds=0, runs=10)
    report = bench_bundles([small, large], world.tmp / "out", settings, cache=world.tmp / "cache")
    assert report == read_report(world.tmp / "out")
    names = ["small:fp32", "small:int8-nncf", "large:fp32", "large:int8-nncf"]
    assert [row["name"] for row in report["candidates"]] == names
    assert (report["kind"], report["chosen"], report["passed"]) == ("bench", None, True)
    assert "int8-nncf on fake (p50 " in report["verdict"]
    assert [one["name"] for one in report["bundles"]] == ["small", "large"]
    assert [one["reference"] for one in report["bundles"]] == ["small:fp32 on fake", "large:fp32 on fake"]
    assert [one["fingerprint"] for one in report["bundles"]] == [
        load_artifact(path).fingerprint for path in (small, large)
    ]
    with np.load(world.tmp / "out/samples.npz", allow_pickle=False) as samples:
        first = [int(samples[f"{name}@fake.start_ns"][0]) for name in names]
        last = [int(samples[f"{name}@fake.start_ns"][-1]) for name in names]
    assert first == sorted(first)
    assert max(first) < min(last)


def test_bundles_that_take_other_inputs_are_ranked_apart(world: SimpleNamespace) -> None:
    one, four = world.bundle(name="one"), world.bundle(name="four", batch=4)
    settings = CheckSettings(backends=[world.Fake(slower_s={"fp32": 0.002})], seconds=0, runs=10)
    report = bench_bundles([one, four], world.tmp / "out", settings, cache=world.tmp / "cache")
    told, *each = report["verdict"].split("; ")
    assert told == "their inputs differ, so bundles are not compared"
    assert [line.split(" (p50 ")[0] for line in each] == [
        f"the fastest on this CPU is {name}:int8-nncf on fake" for name in ("one", "four")
    ]
    assert report["protocol"]["batch"] is None
    page = (world.tmp / "out" / "report.md").read_text("utf-8")
    assert "Latency is of one image (one), a run of 4 images (four), without preprocessing" in page


def test_what_is_about_the_machine_is_told_once(world: SimpleNamespace) -> None:
    bundles = [world.bundle(name=name, target="arm64") for name in ("small", "large")]
    settings = CheckSettings(backends=[world.Fake()], seconds=0, runs=10)
    report = bench_bundles(bundles, world.tmp / "out", settings, cache=world.tmp / "cache")
    about = [line for line in report["caveats"] if "is no backend of target 'arm64'" in line]
    assert about == [line for line in about if not line.startswith(("small: ", "large: "))]
    assert len(about) == 1
    assert len(set(report["caveats"])) == len(report["caveats"])


def test_the_same_bundle_twice_is_refused(world: SimpleNamespace) -> None:
    path = world.bundle()
    with pytest.raises(ConfigError, match="was given twice"):
        bench_bundles([path, path.parent / "." / path.name], world.tmp / "out")
    with pytest.raises(ConfigError, match="no bundle was given"):
        bench_bundles([], world.tmp / "out")


def test_bundles_are_called_by_as_much_of_their_path_as_tells_them_apart() -> None:
    assert short_names(["a/small", "a/large"]) == ["small", "large"]
    assert short_names(["a/bundle", "b/bundle"]) == ["a/bundle", "b/bundle"]
