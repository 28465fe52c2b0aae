"""The quickstart's table: four rows of what was measured, a dash for what was not."""

from __future__ import annotations

from typing import Any

from edgemim.pipeline.table import quickstart_table

MEASURED = {
    "top1": 0.95,
    "agreement": 1.0,
    "backend": "openvino",
    "p50_ms": 0.1234,
    "p99_ms": 0.5,
    "size_bytes": 1_234_567,
}
RESULT: dict[str, Any] = {
    "teacher": {"top1": 0.97, "parameters": 2_500_000, **{k: v for k, v in MEASURED.items() if k != "top1"}},
    "student": {"top1": 0.96, "parameters": 400_000},
    "student_without_teacher": {"top1": 0.91, "parameters": 400_000},
    "fp32": MEASURED | {"top1": 0.96},
    "int8": MEASURED | {"p50_ms": 0.08, "p99_ms": None, "backend": "onnxruntime", "size_bytes": 400_000},
}


def rows(result: dict[str, Any]) -> list[list[str]]:
    lines = quickstart_table(result).splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_model_is_a_row_of_its_own_numbers() -> None:
    head, rule, *body = rows(RESULT)
    assert head == ["model", "parameters", "top-1", "p50 ms", "p99 ms", "file MB", "backend"]
    assert set(rule) == {"---"}
    assert [row[1:] for row in body] == [
        ["2.50 M", "0.9700", "0.123", "0.500", "1.23", "openvino"],
        ["0.40 M", "0.9600", "0.123", "0.500", "1.23", "openvino"],
        ["0.40 M", "0.9100", "-", "-", "-", "-"],
        ["0.40 M", "0.9500", "0.080", "-", "0.40", "onnxruntime"],
    ]


def test_a_candidate_that_was_not_measured_has_dashes() -> None:
    absent = {"top1": None, "agreement": None, "p50_ms": None, "p99_ms": None}
    *_, int8 = rows(RESULT | {"int8": RESULT["int8"] | absent})
    assert int8[2:] == ["-", "-", "-", "0.40", "onnxruntime"]
