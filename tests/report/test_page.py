"""The page: whole, self-contained, escaped, and in words for those who do not see it."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgemim.artifact import create_artifact, load_artifact
from edgemim.errors import ArtifactError, MissingDependencyError, OutputError
from edgemim.report.html import write_html
from edgemim.runtime.report.read import read_report
from tests.report.conftest import HOSTILE, ladder

KINDS = ("checked", "dressed", "compared", "swept", "boards")
VOID = {"meta", "img", "br", "path", "use", "image", "rect"}


class Page(HTMLParser):
    """Elements of a page, in order, with their attributes; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((self.open[-1], data))

    def all(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


_drawn: dict[str, str] = {}


@pytest.fixture
def drawn(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """The page of a kind of report; each is drawn once."""

    def draw(kind: str) -> str:
        if kind not in _drawn:
            dressed = kind == "dressed"
            sensitivity = request.getfixturevalue("sensitivity") if dressed else None
            folder = request.getfixturevalue(kind)
            page = write_html(folder, parity=ladder() if dressed else None, sensitivity=sensitivity)
            _drawn[kind] = page.read_text("utf-8")
        return _drawn[kind]

    return draw


@pytest.fixture(params=KINDS)
def text(request: pytest.FixtureRequest, drawn: Callable[[str], str]) -> str:
    """The page of every kind of report."""
    return drawn(request.param)


def test_the_page_needs_nothing_but_itself(text: str) -> None:
    page = Page(text)
    assert "Content-Security-Policy" in text
    assert re.findall(r"https?:|@import|<script|<link|<iframe|\bon\w+=", re.sub(r">[^<]*<", "><", text)) == []
    references = [value for _, found in page.elements for key, value in found.items() if key in ("src", "href")]
    assert [ref for ref in references if not ref.startswith(("#", "data:image/"))] == []
    names = {found["id"] for _, found in page.elements if "id" in found}
    assert {ref[1:] for ref in references if ref.startswith("#")} <= names
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= names


def test_no_id_is_there_twice(text: str) -> None:
    names = Counter(found["id"] for _, found in Page(text).elements if "id" in found)
    assert [name for name, count in names.items() if count > 1] == []


def test_a_screen_reader_finds_its_way(text: str) -> None:
    page = Page(text)
    assert page.all("html")[0]["lang"] == "en"
    assert [len(page.all(tag)) for tag in ("main", "nav", "header", "footer", "h1", "title")] == [1] * 6
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(found.get("scope") in ("row", "col") for found in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) > 0
    assert all(len(found.get("alt", "")) > 10 for found in page.all("img"))
    for figure in page.all("svg"):
        assert figure["role"] == "img"
        assert re.search(r"\d", figure["aria-label"]), "the numbers belong into the words"
    labelled = {found["aria-labelledby"] for found in page.all("section") if "aria-labelledby" in found}
    assert labelled <= {found.get("id") for found in page.all("h2")}


def test_the_verdict_is_told_in_words_and_on_top(drawn: Callable[[str], str]) -> None:
    good, bad = drawn("checked"), drawn("dressed")
    assert 0 < good.index("<span>Passed</span>") < good.index("<h1>") < good.index("<table>")
    assert "<span>Failed</span>" in bad
    assert "nothing ships"[1:] in bad


def test_text_in_charts_is_text_and_colours_follow_the_page(text: str) -> None:
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        assert "<text" in svg
        assert "font-family" not in svg
        drawn = set(re.findall(r"#[0-9a-f]{6}", svg))
        assert drawn == set(), "a colour that dark mode cannot change"


def test_names_from_outside_are_escaped(drawn: Callable[[str], str]) -> None:
    assert HOSTILE not in drawn("dressed")
    assert "&lt;script&gt;" in drawn("dressed")


def test_the_same_report_gives_the_same_page(swept: Path) -> None:
    first = write_html(swept).read_bytes()
    assert write_html(swept).read_bytes() == first


def test_the_artifact_stays_true_with_the_page_beside_it(boards: Path) -> None:
    before = load_artifact(boards, "report").fingerprint
    page = write_html(boards)
    assert page == boards / "report.html"
    assert "report.html" not in load_artifact(boards, "report").files
    assert load_artifact(boards, "report").fingerprint == before


def test_what_nobody_measured_is_left_out_and_says_why(drawn: Callable[[str], str]) -> None:
    bare, full = drawn("checked"), drawn("dressed")
    assert "No parity here: run edgemim report with --parity" in bare
    assert "No sensitivity here: run edgemim sensitivity" in bare
    assert "chart-parity" not in bare
    assert "chart-parity" in full
    assert "chart-sensitivity" in full
    assert "No parity here" not in full


def test_flipped_images_are_shown_with_what_each_says(checked: Path, drawn: Callable[[str], str]) -> None:
    flips = read_report(checked)["flips"]
    assert flips, "the fixture must flip some"
    assert drawn("checked").count('src="data:image/jpeg;base64,') == len(flips)
    assert "which fp32 calls class" in drawn("checked")


def test_without_images_or_samples_there_is_still_a_page(rewrite: Any) -> None:
    def strip(report: dict[str, Any], samples: dict[str, Any]) -> None:
        samples.clear()
        report["flips"], report["environment"], report["reference"] = [], None, None
        for row in report["candidates"]:
            row["accuracy"] = row["power"] = row["memory"] = row["cold_start"] = row["speed"] = None

    text = write_html(rewrite(strip)).read_text("utf-8")
    assert "There is no accuracy to set against latency" in text
    assert "chart-distribution" not in text
    assert "chart-pareto" not in text


def test_an_embedding_is_drawn_by_its_cosine(rewrite: Any) -> None:
    def embed(report: dict[str, Any], samples: dict[str, Any]) -> None:
        samples.clear()
        for row in report["candidates"]:
            row["accuracy"] |= dict.fromkeys(("top1", "agreement", "flips", "per_class", "enough"))

    text = write_html(rewrite(embed)).read_text("utf-8")
    assert 'aria-label="cosine with fp32 against median latency' in text


def test_the_budget_of_an_embedding_is_drawn(rewrite: Any) -> None:
    def embed(report: dict[str, Any], samples: dict[str, Any]) -> None:
        for row in report["candidates"]:
            row["accuracy"] |= dict.fromkeys(("top1", "agreement", "flips", "per_class", "enough"))
            row["gates"] = []
        report["gates"] = {"embedding_cosine.min": {"limit": 0.987, "from": "the bundle", "allowed_unmeasured": False}}

    text = write_html(rewrite(embed)).read_text("utf-8")
    assert "Dashed: the budgets." in text


def test_a_comparison_shows_what_the_answers_lost(compared: Path) -> None:
    text = write_html(compared).read_text("utf-8")
    assert "in pairs with the first" in text
    assert "Flips: images that the first has right and this has wrong" in text
    assert 'id="provenance"' in text


def test_a_sweep_shows_its_final_and_joins_only_what_compares(swept: Path) -> None:
    text = write_html(swept).read_text("utf-8")
    assert "all in turns: these latencies count" in text
    for chart in ("chart-distribution", "chart-trace"):
        assert chart in text
    assert "Grey lines join what compares with each other" in text
    assert "1 more were timed of which no top-1 is known" in text
    assert 'id="provenance"' in text


def test_a_candidate_that_nobody_timed_has_its_row(rewrite: Any) -> None:
    def break_all(report: dict[str, Any], samples: dict[str, Any]) -> None:
        samples.clear()
        for row in report["candidates"]:
            row |= {"latency": None, "gates": [], "passed": False, "speed": None, "disqualified": "it broke"}
        report |= {"chosen": None, "chosen_backend": None, "passed": False}

    text = write_html(rewrite(break_all)).read_text("utf-8")
    assert text.count("it broke") >= 2


def test_an_old_report_has_a_page(tmp_path: Path) -> None:
    old = Path(__file__).parents[1] / "runtime" / "report"
    names = ("schema1/check", "schema1/boards", *(f"schema2/{kind}" for kind in ("check", "bench", "compare", "sweep")))
    for name in names:
        with create_artifact(tmp_path / name, "report") as draft:
            shutil.copyfile(old / f"{name}.json", draft.path("report.json"))
            if name == "schema1/check":
                shutil.copyfile(old / "schema1" / "check-samples.npz", draft.path("samples.npz"))
        assert "<h1>" in write_html(tmp_path / name).read_text("utf-8")


def test_a_newer_report_is_refused_and_no_page_is_left(rewrite: Any) -> None:
    folder = rewrite(lambda report, _: report.update(schema_version=99))
    with pytest.raises(ArtifactError, match="schema version 99, this edgemim"):
        write_html(folder)
    assert not (folder / "report.html").exists()


def test_samples_that_are_no_samples_are_refused(checked: Path, tmp_path: Path) -> None:
    with create_artifact(tmp_path / "bad", "report") as draft:
        shutil.copyfile(checked / "report.json", draft.path("report.json"))
        draft.path("samples.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ArtifactError, match=r"samples\.npz cannot be read"):
        write_html(tmp_path / "bad")


def test_a_sensitivity_of_another_schema_is_refused(checked: Path, tmp_path: Path) -> None:
    with create_artifact(tmp_path / "other", "report") as draft:
        draft.path("sensitivity.json").write_text(json.dumps({"schema_version": 7}))
    with pytest.raises(ArtifactError, match=r"sensitivity\.json has schema version 7, 1 is read"):
        write_html(checked, sensitivity=tmp_path / "other")


def test_without_matplotlib_one_line_says_what_to_install(boards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"run: pip install 'edgemim\[report\]'"):
        write_html(boards)


def test_a_folder_that_cannot_be_written_is_said_so(boards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(boards / "report.html"))

    monkeypatch.setattr("edgemim.artifact.os.replace", full)
    with pytest.raises(OutputError, match=r"report\.html: the disk is full"):
        write_html(boards)
    assert not (boards / "report.html").exists()
