"""What `check` and `bench` share: here or on boards, a bar meanwhile, the report afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgemim.commands._boards import board_bars
from edgemim.commands._output import emit, remark, show
from edgemim.errors import EXIT_OK, MissingDependencyError

if TYPE_CHECKING:
    from edgemim.runtime.settings import CheckSettings


def names(given: Sequence[str] | None) -> list[str] | None:
    """Names that were given one by one, or several with commas between them."""
    return [name for some in given for name in some.split(",")] if given else None


def measure_on_boards(
    bundle: Path, folder: Path, devices: Sequence[str], settings: CheckSettings, *, overwrite: bool
) -> dict[str, Any]:
    """Check a bundle on boards elsewhere, all at the same time."""
    from edgemim.remote.address import parse_addresses
    from edgemim.remote.check import check_on_boards
    from edgemim.remote.session import RemoteError

    addresses = parse_addresses(devices)
    with board_bars([address.text for address in addresses]) as progress:
        try:
            return check_on_boards(bundle, folder, addresses, settings, overwrite=overwrite, progress=progress)
        except RemoteError as error:
            if error.trace:
                remark(error.trace)
            raise


def tell(report: dict[str, Any], folder: Path, *, as_json: bool, page: bool = True) -> None:
    """The report on stdout, its verdict on stderr, the page beside it, and the exit code."""
    from edgemim.runtime.outcome import exit_code

    if as_json:
        emit({**report, "report": str(folder)}, as_json=True)
    else:
        show((folder / "report.md").read_text("utf-8"))
    remark(report["verdict"])
    if page:
        write_page(folder)
    code = exit_code(report)
    if code != EXIT_OK:
        raise typer.Exit(code)


def write_page(folder: Path) -> None:
    """`report.html` beside a report, where it can be drawn; a remark where it cannot, since the report is whole."""
    try:
        from edgemim.report.html import write_html

        remark(f"to look at: {write_html(folder)}")
    except MissingDependencyError:
        remark(f"for a page to look at, where the extra is installed: edgemim report {folder}")
    except Exception as error:  # noqa: BLE001  (matplotlib's errors have no common base; the verdict keeps its exit code)
        reason = " ".join(str(error).split()) or type(error).__name__
        remark(f"the page could not be drawn, the report is whole: {reason}; to see more: edgemim report {folder}")
