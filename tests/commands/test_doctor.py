"""`edgemim doctor`: findings, each with a reason and, where there is one, a cure."""

from __future__ import annotations

from typing import Any


def test_json_has_every_finding_with_its_parts(cli: Any) -> None:
    done = cli("doctor", "--json")
    assert (done.code, done.err) == (0, "")
    findings = done.json["findings"]
    assert len(findings) > 5
    for finding in findings:
        assert set(finding) == {"what", "why", "cure", "level"}
        assert finding["level"] in ("ok", "warn", "error")
    assert any(finding["what"].startswith("backend onnxruntime") for finding in findings)


def test_people_read_one_line_per_finding(cli: Any) -> None:
    findings = cli("doctor", "--json").json["findings"]
    lines = cli("doctor").out.splitlines()
    assert len(lines) == len(findings)
    assert [line.split()[0] for line in lines] == [finding["level"] for finding in findings]
