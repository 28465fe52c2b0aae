"""How many updates of a row fit into the time of another's, and what is said where that was not measured."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from _parts.comparison import Run, is_convnet, is_ranked, plan, rows
from _parts.presets import PRESETS
from _parts.timed import read_seconds, updates_in_time
from methods_cifar10 import changed, updates_of_rows, write_summary

CPU = PRESETS["cpu"]


def costs(**own: float) -> dict[str, float]:
    """Seconds of an update of each row and of fine-tuning: 0.1 but for those given, whose dashes are underscores."""
    usual = dict.fromkeys((*rows(), "fine-tuning", "fine-tuning, convnet"), 0.1)
    return usual | {name.replace("_", "-"): value for name, value in own.items()}


def arguments(folder: Path, *, timed: bool) -> argparse.Namespace:
    return argparse.Namespace(out=folder, preset="cpu", timed=timed)


def write(folder: Path, seconds: dict[str, float]) -> Path:
    """As `--timing` leaves it."""
    file = folder / "cpu" / "timing.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"rows": {name: {"median_s": value} for name, value in seconds.items()}}), "utf-8")
    return file


def test_a_dearer_row_gets_fewer_updates_and_a_cheaper_one_more() -> None:
    found = updates_in_time(CPU, costs(hpm=0.25, droppos=0.08, gmml=0.33), "x")
    # 900 of 0.1 s are 90 s: 360 of 0.25 s, 1125 of 0.08 s, 272.7 of 0.33 s.
    assert (found["hpm"], found["droppos"], found["gmml"]) == (360, 1125, 273)


@pytest.mark.parametrize(("seconds", "updates"), [(0.1049, 900), (0.0951, 900), (0.106, 849), (0.094, 957)])
def test_a_row_that_costs_about_what_mae_does_keeps_its_updates(seconds: float, updates: int) -> None:
    found = updates_in_time(CPU, costs(mixedae=seconds), "x")
    assert found["mixedae"] == updates
    assert found["mae"] == 900
    assert set(changed(CPU, found)) == {row for row, n in found.items() if n != 900}


def test_what_scratch_long_does_is_fine_tuning() -> None:
    found = updates_in_time(CPU, costs(fine_tuning=0.15), "x")
    assert found["scratch-long"] == 600
    assert "scratch" not in found


def test_half_of_the_updates_of_self_distillation_are_those_of_mae() -> None:
    # 0.1 and 0.3 s: 0.2 on average, half as many fit; all rows are ranked on a GPU.
    found = updates_in_time(PRESETS["gpu"], costs(selfdistill=0.3), "x")
    assert found["selfdistill"] == PRESETS["gpu"].updates // 2


def test_convnets_get_the_time_of_spark_whatever_mae_costs() -> None:
    found = updates_in_time(CPU, costs(spark=0.4, spark_dmae=0.5) | {"fine-tuning, convnet": 0.2}, "x")
    assert {row: n for row, n in found.items() if is_convnet(row)} == {
        "spark": 900,
        "spark-dmae": 720,
        "scratch-long-convnet": 1800,
    }
    assert {n for row, n in found.items() if not is_convnet(row)} == {900}


def test_ranked_rows_are_compared() -> None:
    found = updates_in_time(CPU, costs(), "x")
    assert set(found) == {row for row in rows() if is_ranked(row, CPU)} - {"scratch", "scratch-convnet"}


def test_a_row_that_was_not_measured_is_named_with_the_command() -> None:
    seconds = costs()
    del seconds["amt"], seconds["fine-tuning"]
    with pytest.raises(SystemExit, match=r"an update of amt, fine-tuning costs was not measured; run again: python x"):
        updates_in_time(CPU, seconds, "python x")
    # Nobody asks for the seconds of a row that is not ranked.
    del seconds["minilm-v1"]
    assert updates_in_time(CPU, seconds | {"amt": 0.1, "fine-tuning": 0.1}, "x")


def test_without_a_measurement_the_command_is_said(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"there is no .*timing\.json.*first run: python x --timing"):
        read_seconds(tmp_path / "timing.json", "python x --timing")


def test_only_those_who_ask_for_rows_in_time_need_a_measurement(tmp_path: Path) -> None:
    assert updates_of_rows(arguments(tmp_path, timed=False), CPU) == {}
    with pytest.raises(SystemExit, match=r"methods_cifar10\.py --preset cpu --timing"):
        updates_of_rows(arguments(tmp_path, timed=True), CPU)


def test_the_measurement_is_read_from_the_results_of_the_preset(tmp_path: Path) -> None:
    file = write(tmp_path, costs(hpm=0.2))
    assert read_seconds(file, "x")["hpm"] == 0.2
    for timed in (True, False):
        assert updates_of_rows(arguments(tmp_path, timed=timed), CPU)["hpm"] == 450


def test_the_rows_are_run_with_what_was_found() -> None:
    found = updates_in_time(CPU, costs(hpm=0.25, mixedae=0.1), "x")
    runs = plan(CPU, seeds=(0,), in_time=changed(CPU, found))
    assert {run.name: run.in_time for run in runs if run.in_time} == {"hpm-timed": 360}


class Done:
    """A comparison of which the runs of some rows are done."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.preset = CPU
        self.images: dict[str, Any] = {}
        self.out = folder
        self.names = names

    def result(self, run: Run) -> dict[str, Any] | None:
        if run.name not in self.names:
            return None
        facts = {"name": run.name, "method": run.method, "seed": run.seed, "student_updates": run.student_updates}
        machine = {"device": {"cpu": "a", "gpu": None}, "commit": "b", "threads": 1, "precision": "c", "versions": {}}
        return facts | machine | {"images_seen": 0, "top1": 0.5, "stages": []}


@pytest.mark.parametrize(
    ("names", "timed", "missing", "command"),
    [
        (("mae",), False, [], ""),
        (("mae",), True, ["hpm-timed seed 0"], " --timed"),
        (("mae", "hpm-timed"), False, [], " --timed"),
    ],
)
def test_rows_in_time_are_kept_by_a_later_call_and_missed_only_where_they_are_wanted(
    tmp_path: Path, names: tuple[str, ...], timed: bool, missing: list[str], command: str
) -> None:
    runs = plan(CPU, seeds=(0,), only=("mae", "hpm-timed"), in_time={"hpm": 360})
    asked = argparse.Namespace(preset="cpu", timed=timed, validation=False, plot=None)
    write_summary(asked, Done(tmp_path, *names), runs, alike={"mae"})  # type: ignore[arg-type]
    summary = json.loads((tmp_path / "summary.json").read_text("utf-8"))
    assert summary["missing"] == missing
    assert summary["command"] == f"python benchmarks/methods_cifar10.py --preset cpu{command}"
    assert [row["name"] for row in summary["timed"]] == (["mae", "hpm-timed"] if "hpm-timed" in names else [])


def test_a_teacher_alone_is_no_summary(tmp_path: Path) -> None:
    asked = argparse.Namespace(preset="cpu", timed=False, validation=False, plot=None)
    runs = plan(CPU, seeds=(0,), only=("dmae",))
    write_summary(asked, Done(tmp_path, "teacher"), runs, alike=())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
