"""The page around the parts: head, verdict, table of contents, parts, foot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgemim.report.markup import BAD, GOOD, Html, html, join, section, tag
from edgemim.report.style import STYLE
from edgemim.runtime.report.cells import doubts, sentence

# The page may load nothing: whatever tried to would be refused by the browser.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_LONG_VERDICT = 190


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the page: its name in links, its title, and what it holds."""

    name: str
    title: str
    content: Html


def page(report: Mapping[str, Any], title: str, tiles: Sequence[Html], parts: Sequence[Part]) -> str:
    """The whole document."""
    links = tag("ul", *(tag("li", tag("a", part.title, href=f"#{part.name}")) for part in parts), role="list")
    body = [
        tag("a", "Skip to the verdict", href="#verdict", class_="skip"),
        tag("header", _brand(report), class_="page-head"),
        tag(
            "main",
            _verdict(report, title, tiles),
            tag("nav", links, aria_label="Parts of this report"),
            *(section(part.name, part.title, part.content) for part in parts),
        ),
        tag("footer", _foot(report)),
    ]
    head = (
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{html(title)}</title>\n<style>\n{STYLE}\n</style>"
    )
    inner = tag("div", join(body), class_="page")
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{inner}\n</body>\n</html>\n'


def moment(time: str | None) -> str:
    """`2026-11-21 20:10:19 UTC` of a time in ISO 8601."""
    return (time or "").replace("T", " ").replace("+00:00", " UTC").replace("Z", " UTC")


def _brand(report: Mapping[str, Any]) -> Html:
    created = moment(report.get("created"))
    version = f"edgemim {report['edgemim']}" if report.get("edgemim") else "edgemim"
    return tag("div", tag("span", f"{version} \N{MIDDLE DOT} {report['kind']}"), tag("span", created), class_="brand")


def _verdict(report: Mapping[str, Any], title: str, tiles: Sequence[Html]) -> Html:
    judged = report["kind"] in ("check", "boards")
    kind = ("passed" if report["passed"] else "failed") if judged else "measured"
    sign = tag("span", GOOD if report["passed"] else BAD, class_="sign", aria_hidden="true")
    state = tag("div", sign, tag("span", kind.capitalize()), class_="state") if judged else Html("")
    long = " long" if len(report["verdict"]) > _LONG_VERDICT else ""
    return tag(
        "section",
        state,
        tag("p", sentence(report["verdict"]), class_=f"says{long}"),
        tag("h1", title),
        tag("dl", *tiles, class_="tiles") if tiles else Html(""),
        _doubts(report),
        id="verdict",
        class_=f"verdict {kind}",
        aria_label="Verdict",
    )


def _doubts(report: Mapping[str, Any]) -> Html:
    """How much there is to read before the numbers are trusted."""
    count = len(doubts(report))
    if not count:
        return Html("")
    words = "1 remark" if count == 1 else f"{count} remarks"
    return tag("p", "Before you trust it: ", tag("a", words, href="#environment"), class_="doubts")


def _foot(report: Mapping[str, Any]) -> Html:
    return tag(
        "p",
        "Made from ",
        tag("code", "report.json"),
        " and ",
        tag("code", "samples.npz"),
        " beside this page, which hold every number and every sample. This page loads nothing and runs nothing.",
    )
