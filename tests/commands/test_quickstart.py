"""`edgemim quickstart`: what it prints and how it ends; the stages themselves are tested with the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgemim.commands import quickstart as command
from edgemim.pipeline import quickstart as pipeline
from edgemim.pipeline.table import quickstart_table

MODEL = {"top1": 0.9, "agreement": 1.0, "parameters": 1000, "backend": "openvino", "size_bytes": 9}
MODEL |= {"p50_ms": 0.1, "p99_ms": 0.2}
RESULT = {
    **dict.fromkeys(("teacher", "student", "student_without_teacher", "int8", "fp32"), MODEL),
    "verdict": "ship it",
    "bundle": "out/bundle",
    "report": "out/bundle-report",
    "passed": True,
}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asks of the pipeline; `given["result"]` is what it gets."""
    asked: dict[str, Any] = {"result": RESULT}

    def run_quickstart(data: str, out: Path, **more: Any) -> dict[str, Any]:
        asked.update(data=data, out=out, **more)
        result: dict[str, Any] = asked["result"]
        return result

    monkeypatch.setattr(pipeline, "run_quickstart", run_quickstart)
    monkeypatch.setattr(command, "write_page", lambda folder: asked.update(page=folder))
    return asked


def test_without_options_it_is_digits_in_less_than_two_minutes(cli: Any, given: dict[str, Any]) -> None:
    assert cli("quickstart").code == 0
    assert (given["data"], given["out"], given["seed"]) == ("digits", Path("runs/quickstart"), 0)
    assert given["minutes"] < 2
    assert given["overwrite"] is False
    assert given["page"] == Path("out/bundle-report")


def test_people_get_one_table_and_where_the_rest_is(cli: Any, given: dict[str, Any]) -> None:
    done = cli("quickstart")
    assert done.out == quickstart_table(RESULT) + "\n"
    assert done.err.splitlines() == ["ship it", "bundle out/bundle, report out/bundle-report/report.md"]


def test_json_is_the_result(cli: Any, given: dict[str, Any]) -> None:
    assert cli("quickstart", "--json").json == RESULT


def test_a_missed_gate_is_exit_code_1(cli: Any, given: dict[str, Any]) -> None:
    given["result"] = RESULT | {"passed": False, "verdict": "nothing ships"}
    done = cli("quickstart", "--json")
    assert done.code == 1
    assert done.json["passed"] is False
