"""The `edgemim` command itself: help without heavy imports, the same options everywhere, one exit code per failure."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import json
import os
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from edgemim import __version__, artifact, cli
from edgemim.cli import build_app
from edgemim.errors import DeviceError, MissingDependencyError, OutputError, Preempted

COMMANDS = ["pretrain", "distill", "finetune", "export", "sensitivity", "check", "inspect", "convert", "list"]
COMMANDS += ["doctor", "quickstart", "sweep", "compare", "predict", "report", "bench"]
TRAINING = ("--data", "--recipe", "--epochs", "--steps", "--batch-size", "--seed", "--resume", "--overwrite")
TRAINING += ("--deterministic", "--set", "--out", "--json")
# Long options of each command; architecture: the same everywhere.
OPTIONS = {
    "pretrain": {*TRAINING, "--backbone", "--method", "--init"},
    "distill": {*TRAINING, "--teacher", "--student", "--method", "--init"},
    "finetune": {*TRAINING},
    "export": {"--target", "--out", "--seed", "--gate", "--overwrite", "--json"},
    "sensitivity": {"--target", "--out", "--seed", "--overwrite", "--json"},
    "check": {"--out", "--gate", "--gates", "--backend", "--mode", "--device", "--overwrite", "--json"},
    "bench": {"--out", "--backend", "--mode", "--device", "--overwrite", "--json"},
    "compare": {"--out", "--threads", "--mode", "--overwrite", "--json"},
    "predict": {"--candidate", "--backend", "--threads", "--json"},
    "inspect": {"--json"},
    "report": {"--parity", "--sensitivity", "--json"},
    "convert": {"--from", "--backbone", "--out", "--overwrite", "--set", "--json"},
    "sweep": {"--target", "--out", "--data", "--backbone", "--minutes", "--resume", "--overwrite", "--json"},
    "list": {"--json"},
    "doctor": {"--json"},
    "quickstart": {"--data", "--minutes", "--out", "--seed", "--overwrite", "--json"},
}
HEAVY = "torch torchvision timm lightning datasets pyarrow numpy PIL onnx onnxruntime openvino nncf sklearn"


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `edgemim` in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            build_app()(args=list(arguments), prog_name="edgemim")
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], tuple[int, str, str]]:
    """Run `edgemim inspect` while the library function that it calls raises."""

    def fail(error: BaseException) -> tuple[int, str, str]:
        def load_artifact(path: Path, kind: str | None = None) -> Any:
            raise error

        monkeypatch.setattr(artifact, "load_artifact", load_artifact)
        return run("inspect", "folder")

    return fail


def test_help_names_every_command() -> None:
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert [name for name in COMMANDS if f" {name} " not in out] == []
    assert set(COMMANDS) == set(typer.main.get_command(build_app()).commands)  # type: ignore[attr-defined]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import contextlib, io, sys\nfrom edgemim.cli import main\nsys.argv = ['edgemim', '--help']\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:\n    main()\n"
        f"print('Commands' in out.getvalue(), [n for n in {HEAVY.split()} if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True []"


def test_the_console_script_and_the_module_answer_alike() -> None:
    script = Path(sys.executable).with_name("edgemim")
    for command in ([str(script)], [sys.executable, "-m", "edgemim"]):
        done = subprocess.run([*command, "inspect", "no-such-folder"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "edgemim: no-such-folder does not exist\n"


def test_version() -> None:
    assert run("--version") == (0, f"edgemim {__version__}\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_shows_an_example_of_it(name: str) -> None:
    code, out, _ = run(name, "--help")
    assert code == 0
    assert f"Example: edgemim {name}" in out


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_parses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    command = typer.main.get_command(build_app()).commands[name]  # type: ignore[attr-defined]
    example = (command.help or "").split("Example:")[1].replace("\n", " ").split()
    arguments = [word.strip("'") for word in example[2:]]
    given = command.make_context(name, arguments).params
    assert set(given) == {p.name for p in command.params if p.name != "help"}


@pytest.mark.parametrize("name", COMMANDS)
def test_long_options_are_the_same_everywhere(name: str) -> None:
    command = typer.main.get_command(build_app()).commands[name]  # type: ignore[attr-defined]
    found = {option for p in command.params for option in p.opts if option.startswith("-")}
    assert found >= OPTIONS[name]
    assert all(option.startswith("--") and option == option.lower() for option in found)


def types_of(command: str) -> dict[str, Any]:
    """Long option to the type that it takes, None left out."""
    module = importlib.import_module(f"edgemim.commands.{command}")
    hints = typing.get_type_hints(getattr(module, "list_" if command == "list" else command), include_extras=True)
    found = {}
    for hint in hints.values():
        for info in getattr(hint, "__metadata__", ()):
            kinds = [k for k in typing.get_args(hint.__origin__) if k is not type(None)] or [hint.__origin__]
            kinds = [typing.get_args(k)[0] if typing.get_origin(k) is list else k for k in kinds]  # one of several
            names = [info.default, *(info.param_decls or ())]  # inside Annotated typer takes the first as a name
            found |= {name: str(kinds) for name in names if str(name).startswith("--")}
    return found


SHARED = ("--out", "--seed", "--data", "--json", "--overwrite", "--resume", "--set", "--gate", "--backbone", "--init")


@pytest.mark.parametrize("option", SHARED)
def test_an_option_takes_the_same_in_every_command(option: str) -> None:
    takers = {name: types_of(name)[option] for name in COMMANDS if option in types_of(name)}
    assert len(takers) > 1
    assert len(set(takers.values())) == 1, takers


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OutputError("the folder is there;\n  choose another"), 2, "the folder is there; choose another"),
        (DeviceError("openvino cannot compile it"), 3, "openvino cannot compile it"),
        (Preempted("stopped at step 3; run it with --resume"), 75, "stopped at step 3; run it with --resume"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (KeyboardInterrupt("stopped at step 3; run it with --resume"), 130, "stopped at step 3; run it with --resume"),
        (PermissionError(errno.EACCES, "denied", "secret"), 2, "secret: no permission; change its owner or mode"),
        (PermissionError(errno.EPERM, "denied"), 2, "a write: not permitted; change its owner or mode"),
        (OSError(errno.ENOSPC, "full", "cache"), 2, "cache: the disk is full; free some space"),
        (OSError(errno.EROFS, "no", "cache"), 2, "cache: the file system is read-only; write elsewhere"),
    ],
)
def test_what_goes_wrong_is_one_line_and_its_exit_code(
    failing: Callable[..., Any], error: BaseException, code: int, message: str
) -> None:
    assert failing(error) == (code, "", f"edgemim: {message}\n")


def test_a_missing_package_names_the_extra_and_exits_with_2(failing: Callable[..., Any]) -> None:
    code, _, err = failing(MissingDependencyError("backend 'openvino'", "openvino", "openvino"))
    assert code == 2
    assert err.count("\n") == 1
    assert "run: pip install 'edgemim[openvino]'" in err


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), OSError(errno.EIO, "broken"), AssertionError("no")])
def test_a_bug_shows_its_traceback_and_exits_with_4(failing: Callable[..., Any], error: Exception) -> None:
    code, out, err = failing(error)
    assert (code, out) == (4, "")
    assert err.startswith("Traceback")
    assert type(error).__name__ in err
    assert err.splitlines()[-1] == "edgemim: this is a bug in edgemim; please report it with the lines above"


def test_main_itself_maps_what_no_command_caught(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build() -> typer.Typer:
        raise ZeroDivisionError("while the commands were found")

    monkeypatch.setattr(cli, "build_app", build)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 4
    assert "ZeroDivisionError: while the commands were found" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["no-such-command"], ["pretrain"], ["list"], ["check", "bundle", "--runs", "0"], ["doctor", "--jason"]],
)
def test_wrong_usage_exits_with_2_and_says_where_help_is(arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "--help" in err
    assert "Traceback" not in err


def test_without_a_command_the_help_is_shown() -> None:
    code, out, err = run()
    assert code == 2
    assert "quickstart" in out + err


def console(*arguments: str, stdout: int) -> tuple[int, str]:
    """Exit code and stderr of a process that writes its stdout to a file descriptor."""
    command = [sys.executable, "-m", "edgemim", *arguments]
    done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stderr


def test_a_reader_that_has_gone_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        assert console("list", "methods", stdout=write) == (0, "")
    finally:
        os.close(write)


MISSED = """
import os, sys
from edgemim import cli
from edgemim.runtime import check

def miss(bundle, out, **_):
    os.makedirs(out)
    (out / "report.md").write_text("# nothing ships\\n" * {lines})
    return {{"verdict": "nothing ships", "passed": False, "reasons": ["too slow"] * {lines}}}

check.check_bundle = miss
cli.main()
"""


@pytest.mark.parametrize("lines", [1, 100_000])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("options", [["--json"], []])
def test_a_missed_gate_keeps_its_exit_code_without_a_reader(
    tmp_path: Path, lines: int, both: bool, options: list[str]
) -> None:
    read, write = os.pipe()
    os.close(read)
    arguments = ["check", str(tmp_path / "bundle"), "--no-page", *options]
    try:
        done = subprocess.run(
            [sys.executable, "-c", MISSED.format(lines=lines), *arguments],
            stdout=write,
            stderr=write if both else subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (1, None if both else "nothing ships\n")


def test_an_error_keeps_its_exit_code_without_a_reader() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "edgemim", "inspect", "no-such-folder"]
    try:
        assert subprocess.run(command, stdout=write, stderr=write, check=False).returncode == 2
    finally:
        os.close(write)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_under_stdout_is_one_line() -> None:
    with open("/dev/full", "wb") as full:
        code, err = console("list", "methods", "--json", stdout=full.fileno())
    assert (code, err) == (2, "edgemim: a write: the disk is full; free some space\n")


def test_json_is_all_there_is_on_stdout() -> None:
    for arguments in (["list", "methods"], ["doctor"]):
        code, out, err = run(*arguments, "--json")
        assert (code, err) == (0, "")
        assert isinstance(json.loads(out), dict)
