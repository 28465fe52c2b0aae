"""How far the checks on boards elsewhere are: a bar each at a terminal, else a line for each thing that begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from edgemim.commands._output import remark

_DOING = {"copy": "copies", "check": "checks", "reconnect": "connects again"}

BoardProgress = Callable[[str, str, int, int], None]


@contextmanager
def board_bars(boards: Sequence[str]) -> Iterator[BoardProgress]:
    """Bars on stderr, moved by calls with (board, what is being done, done, in all), from any thread."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks = {board: bars.add_task(escape(f"{board} connects"), total=None) for board in boards}
        doing = dict.fromkeys(boards, "")

        def progress(board: str, what: str, done: int, total: int) -> None:
            if doing[board] != what:
                doing[board] = what
                if not console.is_terminal:
                    remark(f"{board} {_DOING[what]}")
            description = escape(f"{board} {_DOING[what]}")
            bars.update(tasks[board], description=description, completed=done, total=total or None)

        yield progress
