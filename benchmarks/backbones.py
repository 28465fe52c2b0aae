"""Which backbones can be exported, are then right, run in OpenVINO, and are built by NVIDIA's builder?

    python benchmarks/backbones.py [--only NAME ...] [--again]

Each of `_parts/backbones.py` in a process of its own, one after another: random weights, exported as `edgemim export`
does, compared with torch on six images in ONNX Runtime and OpenVINO, and given to NVIDIA's parser and builder where
tensorrt_rtx is installed. What is already in the result is not done again, unless asked for. A backbone takes half a
minute to two minutes on one core, and up to 5 GiB of memory.

What would make the answer wrong: weights so special that a wrong graph gives the right numbers (see the part); seconds
on a machine with other work; NVIDIA's builder for this machine's TensorRT for RTX is not that of a Jetson's TensorRT.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _parts import nvidia
from _parts.backbones import BACKBONES, IMAGES
from _parts.coverage import STAGES, measure
from _parts.machine import commit, describe_machine
from _parts.one_run import write_result
from _parts.side_by_side import say_on_stderr

HERE = Path(__file__).parent
RESULT = HERE / "results" / "backbones.json"
_NAMES = [backbone.name for backbone in BACKBONES]
_PACKAGES = ("onnx", "onnx-ir", "onnxscript", "onnxruntime", "openvino")


def main() -> None:
    """Measure what is missing, and write the result after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=_NAMES, metavar="NAME", default=_NAMES)
    parser.add_argument("--again", action="store_true", help="also what was measured before")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--one", choices=_NAMES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        _measure_one(arguments.one, arguments.out)
        return
    rows: dict[str, Any] = {}
    if arguments.out.exists():
        rows = {row["name"]: row for row in json.loads(arguments.out.read_text("utf-8"))["rows"]}
    wanted = [name for name in arguments.only if arguments.again or name not in rows]
    failed = []
    for number, name in enumerate(wanted, start=1):
        row = _in_a_process(name)
        if row is None:
            failed.append(name)
            continue
        rows[name] = row
        _write(arguments.out, rows)
        say_on_stderr(f"[{number}/{len(wanted)}] {name}: {_told(row)}")
    if failed:
        sys.exit(f"stopped with an error of their own: {', '.join(failed)}")


def _in_a_process(name: str) -> dict[str, Any] | None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "row.json")
        command = [sys.executable, __file__, "--one", name, "--out", str(out)]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
        if done.returncode:
            return None
        row: dict[str, Any] = json.loads(out.read_text("utf-8"))
        return row


def _measure_one(name: str, out: Path) -> None:
    import torch

    torch.set_num_threads(1)
    (backbone,) = (backbone for backbone in BACKBONES if backbone.name == name)
    write_result(out, {**measure(backbone), "commit": commit()})


def _write(file: Path, rows: dict[str, Any]) -> None:
    machine = describe_machine()
    versions = {**machine["versions"], **{package: importlib.metadata.version(package) for package in _PACKAGES}}
    if nvidia.is_installed():
        versions["tensorrt-rtx"] = importlib.metadata.version("tensorrt-rtx-cu13")
    result = {
        "question": (__doc__ or "").split("\n")[0],
        "command": shlex.join(["python", "benchmarks/backbones.py"]),
        "images": IMAGES,
        "threads": 1,
        "device": machine["device"],
        "versions": versions,
        "rows": [rows[name] for name in _NAMES if name in rows],
    }
    write_result(file, result)


def _told(row: dict[str, Any]) -> str:
    reasons = [f"{stage}: {row[stage]['reason']}" for stage in STAGES if row[stage] and row[stage]["reason"]]
    return "; ".join(reasons) or "all done"


if __name__ == "__main__":
    main()
