"""The `edgemim` command: finds the commands, and maps what went wrong to an exit code.

Exit codes: 0 done, 1 a gate was missed, 2 the user can mend it, 3 the device or a vendor library failed, 4 a bug
in edgemim, 75 pre-empted, 130 interrupted.
"""

from __future__ import annotations

import errno
import functools
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer

from edgemim import __version__
from edgemim.commands._output import give_up, remark
from edgemim.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_OK, EXIT_USER, EdgemimError, EndedElsewhere

_COMMANDS = (
    "pretrain",
    "distill",
    "finetune",
    "export",
    "sensitivity",
    "check",
    "bench",
    "compare",
    "sweep",
    "report",
    "predict",
    "inspect",
    "convert",
    "list",
    "doctor",
    "quickstart",
)

# What the operating system refuses and the user can mend, wherever it happens: an output, a cache, stdout.
_REFUSALS = {
    errno.EACCES: "no permission; change its owner or mode",
    errno.EPERM: "not permitted; change its owner or mode",
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EROFS: "the file system is read-only; write elsewhere",
}


def build_app() -> typer.Typer:
    """The Typer application with all commands; importing a command imports no library."""
    app = typer.Typer(
        name="edgemim",
        help="From images to a small INT8 vision model that is proven fast and right on the device.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.callback(invoke_without_command=True)(_root)
    for name in _COMMANDS:
        module = importlib.import_module(f"edgemim.commands.{name}")
        function = getattr(module, "list_" if name == "list" else name)
        app.command(name=name)(guarded(function))
    return app


def guarded(function: Callable[..., None]) -> Callable[..., None]:
    """A command that tells of every exception and ends with its exit code; usage errors stay typer's."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
            sys.stdout.flush()  # a reader that has gone, or a full disk, shows here and not when Python ends
        except (Exception, KeyboardInterrupt) as error:
            if type(error).__module__.startswith(("click", "typer")):
                raise
            raise typer.Exit(report(error)) from error

    return run


def report(error: BaseException) -> int:
    """Tell a person what ended a command: one line on stderr, for a bug its traceback too.

    Returns:
        The exit code.
    """
    if isinstance(error, BrokenPipeError):
        # The reader has gone in the middle of something else than a result: nobody is left to tell.
        give_up(sys.stdout)
        give_up(sys.stderr)
        return EXIT_OK
    if isinstance(error, KeyboardInterrupt):
        remark(f"edgemim: {_one_line(error) or 'interrupted'}")
        return EXIT_INTERRUPTED
    if isinstance(error, EdgemimError):
        if not isinstance(error, EndedElsewhere):
            remark(f"edgemim: {_one_line(error)}")
        return error.exit_code
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        remark(f"edgemim: {error.filename or 'a write'}: {_REFUSALS[error.errno]}")
        give_up(sys.stdout)
        return EXIT_USER
    remark("".join(traceback.format_exception(error)).rstrip())
    remark("edgemim: this is a bug in edgemim; please report it with the lines above")
    return EXIT_BUG


def main() -> None:
    """Entry point of the console script."""
    # Threads that spin while they wait make training many times slower as soon as anything else runs beside it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        build_app()()
    except (Exception, KeyboardInterrupt) as error:
        raise SystemExit(report(error)) from error


def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    if version:
        typer.echo(f"edgemim {__version__}")
        raise typer.Exit


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
