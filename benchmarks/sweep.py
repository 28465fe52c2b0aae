"""Which of five small backbones fit in 15 ms on this machine, in fp32 or INT8, at 224 pixels?

    python benchmarks/sweep.py [--work DIR] [--out FILE]

Runs `edgemim sweep` as a user would, with random weights, in the mode `quick`, and keeps its report. With `--work` a
call that was stopped goes on there. About ten minutes on two cores.

What would make the answer wrong: other work on the machine; the report says how much there was, and how far the
finalists' numbers side by side are from those that were measured one after another.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from _parts.machine import describe_machine
from _parts.one_run import write_result

RESULT = Path(__file__).parent / "results" / "sweep.json"
_BACKBONES = (
    "mobilenetv4_conv_small",
    "efficientvit_b0",
    "convnextv2_atto",
    "vit_tiny_patch16_224",
    "resnet18",
)
_ASKED = ("--target", "x86", "--size", "224", "--precision", "fp32", "--precision", "int8", "--max-ms", "15")


def main() -> None:
    """Run the command and keep what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder of the sweep; kept, to go on in")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    words = ["sweep", *(word for name in _BACKBONES for word in ("--backbone", name)), *_ASKED]
    with ExitStack() as stack:
        folder = arguments.work or Path(stack.enter_context(tempfile.TemporaryDirectory())) / "sweep"
        report = _sweep(words, folder)
    result = {
        "question": (__doc__ or "").split("\n")[0],
        "command": shlex.join(["python", "benchmarks/sweep.py"]),
        "asked": shlex.join(["edgemim", *words, "--out", "runs/sweep"]),
        **describe_machine(),
        **{key: report[key] for key in ("verdict", "front", "fits", "entries", "caveats", "environment", "protocol")},
        "packages": report["device"]["packages"],
    }
    write_result(arguments.out, result)


def _sweep(words: list[str], folder: Path) -> dict[str, Any]:
    """The report; exit code 1 of the command says that nothing fits, which is an answer too."""
    command = [sys.executable, "-m", "edgemim", *words, "--out", str(folder), "--resume", "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 1):
        sys.exit(done.returncode)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


if __name__ == "__main__":
    main()
