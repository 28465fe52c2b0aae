"""docs/report-schema.md names every key of a report, and no key that is not there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgemim.runtime.bench import bench_bundles
from edgemim.runtime.check import check_bundle
from edgemim.runtime.report.read import read_report
from edgemim.runtime.settings import CheckSettings

DOC = Path(__file__).parents[3] / "docs" / "report-schema.md"
# Objects whose keys are names that somebody chose.
NAMED = ("gates", "options", "session", "packages", "answers", "rails_w", "temperatures_c", "models")
# Described once, as the keys of another object.
LIKE = {
    "candidates[].same_file": "candidates[].golden",
    "bundles[]": "bundle",
    "environment.after": "environment.before",
    "environment.gpu_mhz": "environment.cpu_mhz",
    "entries[].side_by_side": "entries[].latency",
}
# Objects of a check that other kinds have too: their keys are documented there.
AS_IN_A_CHECK = (
    "entries[].accuracy",
    "entries[].golden",
    "entries[].bundle",
    "entries[].evaluation",
)

Line = tuple[str, list[str]]


def lines() -> Iterator[tuple[str, Line]]:
    """Heading of the part, and the key with the other cells of its line; keys begin with that of their section."""
    part, prefixes = "", [""]
    for line in DOC.read_text("utf-8").splitlines():
        if line.startswith("## "):
            part, prefixes = line, [""]
        elif line.startswith("### "):
            prefixes = [f"{name}." for name in re.findall(r"`([^`]+)`", line)]
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 6 and cells[0].startswith("`"):
            # Parts that share a section tell their own names in the keys.
            prefix = prefixes[0] if len(prefixes) == 1 else f"{prefixes[0].rsplit('.', 2)[0]}."
            yield part, (prefix + cells[0].strip("`"), cells[1:])


def documented(kind: str) -> set[str]:
    """The keys that the document has for a kind."""
    general = {"## All kinds"} | ({"## `device`", "## `environment`"} if kind != "boards" else set())
    return {plain(key) for part, (key, _) in lines() if part in general or f"`{kind}`" in part}


def plain(key: str) -> str:
    """Without what says that it is a list, or that its names are anybody's."""
    return re.sub(r"(\[\]|\.\*)+$", "", key)


def walk(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every key as the document writes it, and its value."""
    if isinstance(value, dict):
        named = path.rsplit(".", 1)[-1] in NAMED
        for key, item in value.items():
            inner = f"{path}.*" if named else f"{path}.{key}" if path else key
            yield inner, item
            yield from walk(item, inner)
    elif isinstance(value, list):
        for item in value:
            yield from walk(item, f"{path}[]")


def found_in(report: dict[str, Any]) -> dict[str, bool]:
    """By key, whether it has a value anywhere in the report; nothing is below one that has none."""
    found: dict[str, bool] = {}
    for path, value in walk(report):
        for name, other in LIKE.items():
            path = re.sub(rf"^{re.escape(name)}(?=\.)", other, path)
        key = plain(path)
        found[key] = found.get(key, False) or value not in (None, [], {})
    return found


def assert_documented(kind: str, report: dict[str, Any]) -> None:
    """The document and a report have the same keys, but for those below what is null in it."""
    known, there = documented(kind), found_in(report)
    if kind in ("compare", "sweep"):
        also = (*AS_IN_A_CHECK, *(["entries[].latency"] if kind == "compare" else []))
        there = {key: filled for key, filled in there.items() if not key.startswith(tuple(f"{name}." for name in also))}
    assert sorted(set(there) - known) == [], "add it to docs/report-schema.md"
    empty = tuple(f"{key}{end}" for key, filled in there.items() if not filled for end in (".", "["))
    assert sorted(key for key in known - set(there) if not key.startswith(empty)) == [], "no report has this key"


@pytest.fixture
def path(world: SimpleNamespace) -> Path:
    """A bundle whose candidates flip images and miss a gate."""
    images = [(data, (label + (i < 3)) % 5) for i, (data, label) in enumerate(world.labelled(20))]
    return world.bundle(evaluation=images, gates={"top1.max_drop": 0.2, "p50_ms": 1e-9})


def test_every_key_of_a_check_is_documented_and_there(
    world: SimpleNamespace, quick: None, no_vendor: None, path: Path
) -> None:
    options = {"backends": [world.Fake()], "seconds": 0, "runs": 64, "cache": world.tmp / "cache"}
    assert_documented("check", check_bundle(path, world.tmp / "report", **options))


def test_every_key_of_a_bench_of_several_bundles_is_documented(
    world: SimpleNamespace, quick: None, no_vendor: None, path: Path
) -> None:
    settings = CheckSettings(backends=[world.Fake()], seconds=0, runs=64)
    other = world.bundle(name="other")
    report = bench_bundles([path, other], world.tmp / "bench", settings, cache=world.tmp / "cache")
    # What stands at the top of a report on one bundle stands beside each of several.
    inside = ("name", "reference", "class_names", "preprocessing")
    beside = tuple(f"bundle.{key}" for key in inside)
    assert {key for key in found_in(report) if not key.startswith(beside)} <= documented("bench")


def test_every_key_of_a_comparison_is_documented_and_there(
    world: SimpleNamespace, no_vendor: None, chosen: Any, compared: Any, hasty: None
) -> None:
    path = world.bundle()
    assert_documented("compare", compared(chosen(path), chosen(path, "int8-nncf")))


def test_old_reports_have_no_other_keys(old_report: Any) -> None:
    for name in ("check", "boards"):
        assert set(found_in(read_report(old_report(name)))) <= documented(name)


def test_every_line_of_the_document_is_whole() -> None:
    rows = list(lines())
    assert len(rows) > 150
    for _, (key, (kind, _unit, _meaning, null, since)) in rows:
        assert kind, key
        assert null, key
        assert since in ("1", "2", "3"), key
        assert re.fullmatch(r"[\w.*\[\]]+", key), key
