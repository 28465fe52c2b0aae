"""A process limit that ends a backend is exit code 3 with its name, of a check, a bench and on a board."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgemim.runtime.device import describe_device

pytestmark = pytest.mark.skipif(
    describe_device().emulated is True, reason="qemu-user does not hold a process to its limits"
)

LIMIT = 2_000_000_000
# The fake library computes fp32 as it should, and takes more memory than there is for INT8.
LOAD = "self.file = file; too_much = bytearray(2_000_000_000) if 'int8' in file else None"
RUN = "import numpy; images = inputs['images']; return [images.reshape(1, -1) @ numpy.load(self.file)]"
LIMITED = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({LIMIT}, {LIMIT})); "
COMMANDS = {
    "check": "from edgemim.cli import main; main()",
    "bench": "from edgemim.cli import main; main()",
    "compare": "from edgemim.cli import main; main()",
    "board": "import sys; from edgemim.runtime.__main__ import main; sys.exit(main(sys.argv[1:]))",
}


@pytest.fixture
def limited(
    world: SimpleNamespace, fake_vendor: Callable[..., Path], tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`limited("check", "--candidate", ...)`: the command under a real limit of address space, on a fake library."""
    bundle = world.bundle(evaluation=None)

    def run(command: str, *arguments: str, load: str = LOAD) -> subprocess.CompletedProcess[str]:
        vendor = fake_vendor(load, RUN)
        if command == "compare":
            words = ["compare", *(f"{bundle}:{name}@onnxruntime" for name in ("fp32", "int8-nncf"))]
        else:
            words = ["check" if command == "board" else command, str(bundle), "--backend", "onnxruntime", *arguments]
        words += ["--runs", "10", "--seconds", "0.01", "--out", str(tmp_path / "report"), "--json"]
        words += [] if command == "board" else ["--no-page"]
        path = os.pathsep.join([str(vendor), *sys.path])
        environment = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": str(tmp_path / "cache")}
        return subprocess.run(
            [sys.executable, "-c", LIMITED + COMMANDS[command], *words],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            cwd=tmp_path,
        )

    return run


@pytest.mark.parametrize("command", ["check", "bench", "board"])
def test_a_backend_that_a_limit_ended_is_exit_code_3_and_the_report_says_why(
    command: str, limited: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = limited(command, "--candidate", "int8-nncf")
    assert done.returncode == 3, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(
        "no candidate runs right here: int8-nncf on onnxruntime: backend 'onnxruntime' ran out of memory while "
        "compiling int8-nncf: it may have 2,000 MB (ulimit -v); "
    )
    report = json.loads((tmp_path / "report" / "report.json").read_text("utf-8"))
    assert (report["verdict"], report["passed"]) == (line, False)
    # The reference ran: that makes no gate of it.
    rows = {row["name"]: row for row in report["candidates"]}
    assert rows["fp32"]["reference_only"]
    assert rows["fp32"]["disqualified"] is None
    assert rows["int8-nncf"]["disqualified"].startswith("backend 'onnxruntime' ran out of memory")


def test_where_another_candidate_runs_the_limit_costs_only_the_one(
    limited: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = limited("bench")
    assert done.returncode == 0, done.stderr
    assert "disqualified: int8-nncf on onnxruntime: backend 'onnxruntime' ran out of memory" in done.stderr


@pytest.mark.parametrize("command", ["check", pytest.param("compare", marks=pytest.mark.slow)])
def test_what_runs_alone_but_not_together_is_refused_before_it_is_opened(
    command: str, limited: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    load = "self.file = file; self.kept = bytearray(970_000_000)"
    done = limited(command, load=load)
    assert done.returncode == 3, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith(
        "edgemim: fp32 on onnxruntime, int8-nncf on onnxruntime ran alone, but open together they need"
    )
    assert line.endswith(
        "(ulimit -v); close other programs, raise the limit, or measure fewer at a time with --candidate"
    )
    assert not (tmp_path / "report").exists()


def test_an_entry_of_a_comparison_that_a_limit_ends_is_named(
    limited: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = limited("compare")
    assert done.returncode == 3, done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        "edgemim: int8-nncf on onnxruntime cannot be compared: backend 'onnxruntime' ran out of memory while compiling"
    )
    assert not (tmp_path / "report").exists()
