"""Progress of counted work: quarter lines where nobody watches, a bar on a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from edgemim.training.shown.counting import counted


def shown(total: int, *, terminal: bool) -> str:
    stream = io.StringIO()
    with counted("images", console=Console(file=stream, force_terminal=terminal, width=80)) as progress:
        for done in range(1, total + 1):
            progress(done, total)
    return stream.getvalue()


def test_a_log_gets_four_lines() -> None:
    assert shown(1000, terminal=False).splitlines() == [f"images {n}/1000" for n in (250, 500, 750, 1000)]


def test_a_terminal_gets_a_bar() -> None:
    assert "1000/1000" in shown(1000, terminal=True)
