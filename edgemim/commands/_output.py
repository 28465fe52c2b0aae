"""Where results and remarks go: results to stdout, everything for people's eyes to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO


def emit(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a result on stdout: as JSON, or one `name  value` a line; nothing where another process tells it."""
    if not result:
        return
    if as_json:
        show(json.dumps(result, indent=2, default=str))
        return
    width = max((len(name) for name in result), default=0)
    show("\n".join(f"{name:<{width}}  {_plain(value)}" for name, value in result.items()))


def show(text: str) -> None:
    """Lines of a result, on stdout; a reader that has gone (`edgemim ... | head`) does not end the command."""
    _write(sys.stdout, text)


def remark(text: str) -> None:
    """One line for a person, on stderr; without a reader, as `show`."""
    _write(sys.stderr, text)


def give_up(stream: TextIO) -> None:
    """Let what a stream does not take go nowhere, or Python would complain of it when it ends, and change the code."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def remark_default_data(values: Mapping[str, Any]) -> None:
    """Tell that no images were named, so that nobody trains on the built-in ones by mistake."""
    from edgemim.training.loop.launch import launched

    if "data" not in values and launched().rank == 0:
        remark("no --data was given: these are the built-in digits")


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, moved by calls with (done, in all); nothing where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _write(stream: TextIO, text: str) -> None:
    """Flushed at once: a reader that has gone must not show only when Python ends."""
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except BrokenPipeError:
        give_up(stream)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value) if isinstance(value, dict | list) else str(value)
