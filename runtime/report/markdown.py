"""A report as one page of text: the verdict first, then what it rests on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgemim.runtime.report.boards_page import boards_page
from edgemim.runtime.report.check_page import check_page
from edgemim.runtime.report.compare_page import compare_page
from edgemim.runtime.report.sweep_page import sweep_page

_PAGES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "check": check_page,
    "bench": check_page,
    "compare": compare_page,
    "sweep": sweep_page,
    "boards": boards_page,
}


def render_markdown(report: Mapping[str, Any]) -> str:
    """The report as one page; `kind` decides which."""
    return _PAGES[report["kind"]](report)
