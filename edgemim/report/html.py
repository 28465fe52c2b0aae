"""`report.html`: one file that opens without a network and needs nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgemim.artifact import write_text, writing
from edgemim.errors import MissingDependencyError
from edgemim.report.source import Source, load_source

PAGE = "report.html"


def write_html(
    folder: Path | str,
    *,
    parity: Mapping[str, Any] | None = None,
    sensitivity: Path | None = None,
    why_no_parity: str = "",
) -> Path:
    """Write `report.html` beside `report.json`; an earlier one is replaced.

    The page is made from the artifact and is not part of it: the manifest does not name it, and its hashes stay true.

    Args:
        folder: A report of any kind.
        parity: The ladder of the bundle, as `edgemim inspect --parity --json` prints it.
        sensitivity: What `edgemim sensitivity` wrote.
        why_no_parity: What the page says where there is no ladder.

    Raises:
        ArtifactError: Not a report, altered, or of a newer schema; `sensitivity` is not one.
        MissingDependencyError: The extra `report` is not installed.
        OutputError: The page cannot be written.
    """
    need_drawing()
    source = load_source(Path(folder), parity=parity, sensitivity=sensitivity, why_no_parity=why_no_parity)
    text = render_html(source)
    path = Path(folder) / PAGE
    with writing(path, instead="free its folder"):
        write_text(path, text)
    return path


def need_drawing() -> None:
    """Refuse, before any work is done, where the package that draws is missing.

    Raises:
        MissingDependencyError: The extra `report` is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError("report.html", "matplotlib", "report") from error


def render_html(source: Source) -> str:
    """The whole document; the report's `kind` decides which parts it has."""
    from edgemim.report.page import page

    title, tiles, parts = _KINDS[source.report["kind"]](source)
    return page(source.report, title, tiles, parts)


def _check(source: Source) -> Any:
    from edgemim.report.check_parts import check_parts, check_tiles, check_title

    return check_title(source.report), check_tiles(source.report), check_parts(source)


def _compare(source: Source) -> Any:
    from edgemim.report.compare_parts import compare_parts, compare_title

    return compare_title(source.report), [], compare_parts(source)


def _sweep(source: Source) -> Any:
    from edgemim.report.sweep_parts import sweep_parts, sweep_tiles, sweep_title

    return sweep_title(source.report), sweep_tiles(source.report), sweep_parts(source)


def _boards(source: Source) -> Any:
    from edgemim.report.boards_parts import boards_parts, boards_title

    return boards_title(source.report), [], boards_parts(source)


_KINDS: dict[str, Callable[[Source], Any]] = {
    "check": _check,
    "bench": _check,
    "compare": _compare,
    "sweep": _sweep,
    "boards": _boards,
}
