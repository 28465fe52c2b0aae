"""How far some counted work has come, before a run begins: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINES = 4


@contextmanager
def counted(title: str, *, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Yields a function to be called with how many are done, and how many there are.

    Args:
        title: What is done.
        console: Where to write; stderr by default.
    """
    console = console or Console(file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    before = 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)

        def show(done: int, total: int) -> None:
            nonlocal before
            bar.update(task, completed=done, total=total)
            if not console.is_terminal and done * _LINES // total > before * _LINES // total:
                console.print(f"{title} {done}/{total}", highlight=False)
            before = done

        yield show
