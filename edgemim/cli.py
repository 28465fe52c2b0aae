"""The `edgemim` command: finds the commands, and maps what went wrong to an exit code.

Exit codes: 0 done, 1 a gate was missed, 2 the user can mend it, 3 the device or a vendor library failed, 4 a bug
in edgemim, 75 pre-empted, 130 interrupted.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer

from edgemim import __version__
from edgemim.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_USER, EdgemimError

_COMMANDS = (
    "pretrain",
    "distill",
    "finetune",
    "export",
    "check",
    "inspect",
    "convert",
    "list",
    "doctor",
    "quickstart",
)


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
    """A command whose every exception becomes one line on stderr and its exit code; a bug shows its traceback."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except EdgemimError as error:
            sys.stderr.write(f"edgemim: {_one_line(error)}\n")
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            sys.stderr.write(f"edgemim: {_one_line(error) or 'interrupted'}\n")
            raise typer.Exit(EXIT_INTERRUPTED) from error
        except PermissionError as error:
            sys.stderr.write(f"edgemim: no permission for {error.filename}; change its owner or mode\n")
            raise typer.Exit(EXIT_USER) from error
        except (typer.Exit, typer.Abort, SystemExit):
            raise
        except BrokenPipeError as error:
            # The reader of stdout has gone (`edgemim ... | head`): nobody is left to tell.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from error
        except Exception as error:
            if type(error).__module__.startswith(("click", "typer")):
                raise
            traceback.print_exc()
            sys.stderr.write("edgemim: this is a bug in edgemim; please report it with the lines above\n")
            raise typer.Exit(EXIT_BUG) from error

    return run


def main() -> None:
    """Entry point of the console script."""
    # Threads that spin while they wait make training many times slower as soon as anything else runs beside it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    build_app()()


def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    if version:
        typer.echo(f"edgemim {__version__}")
        raise typer.Exit


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
